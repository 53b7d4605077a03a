//! Surroundings that are not what a store hopes for: C6, C13, C14.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, mpsc};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use towpath::{Commit, Durability, Error, NewEvent, Options, Query, Store, inspect};

use crate::support::child::{self, say};
use crate::support::files::{self, FRAMES};
use crate::support::told;
use crate::support::{Scratch, os, small};

fn event(payload: &[u8]) -> NewEvent<'_> {
    NewEvent::new("t", payload)
}

/// Three segments of three events, with index files, closed.
fn three_segments(scratch: &Scratch) -> PathBuf {
    let mut path = scratch.store_path();
    for round in 0..3 {
        let store = os().open(&path).unwrap();
        for number in 0..3u8 {
            store.append("s-1", event(&[number; 40])).unwrap();
        }
        if round == 2 {
            assert_eq!(told::all(&store).len(), 9);
            store.close().unwrap();
        } else {
            let copy = scratch.path().join(format!("round-{round}"));
            files::copy(&path, &copy);
            path = copy;
        }
    }
    assert_eq!((files::segments(&path).len(), files::indexes(&path).len()), (3, 2));
    path
}

/// Opening fails in both ways with an error that names this file, and changes nothing.
fn is_refused(path: &Path, named: &Path) -> String {
    let before = files::snapshot(path);
    let read_only = match Store::open_read_only(path) {
        Ok(store) => panic!("opened read-only: {store:?}"),
        Err(error) => error.to_string(),
    };
    let error = told::refusal(os(), path);
    assert!(matches!(error, Error::NotAStore { .. } | Error::Unsupported { .. } | Error::Damaged(_)), "{error:?}");
    for text in [&read_only, &error.to_string()] {
        assert!(text.contains(&files::name(named)), "{text} does not name {}", named.display());
    }
    assert_eq!(files::snapshot(path), before, "it changed something");
    error.to_string()
}

/// C6.
#[test]
fn a_missing_segment_is_named() {
    let scratch = Scratch::new();
    let path = three_segments(&scratch);
    let work = scratch.path().join("work");
    for missing in 0..2 {
        files::copy(&path, &work);
        let segment = files::segments(&work)[missing].clone();
        fs::remove_file(&segment).unwrap();
        // What an earlier crash left lying about stays too.
        fs::write(work.join("spare.tmp"), "left behind").unwrap();
        is_refused(&work, &segment);
    }
    // The newest: the one before it was sealed, and the store knows that more was durable.
    files::copy(&path, &work);
    let newest = files::newest(&work);
    fs::remove_file(&newest).unwrap();
    is_refused(&work, &newest);
    // All of them.
    for segment in files::segments(&work) {
        fs::remove_file(segment).unwrap();
    }
    assert!(told::refusal(os(), &work).to_string().contains("work"));
    assert!(Store::open_read_only(&work).is_err());
    // Control.
    files::copy(&path, &work);
    os().open(&work).unwrap();
}

/// C6: two files that claim one range.
#[test]
fn a_segment_too_many_is_named() {
    let scratch = Scratch::new();
    let path = three_segments(&scratch);
    let work = scratch.path().join("work");
    for (original, name) in [(0, 2u64), (1, 5), (0, 3)] {
        files::copy(&path, &work);
        let extra = work.join(format!("{name:020}.seg"));
        fs::copy(&files::segments(&path)[original], &extra).unwrap();
        is_refused(&work, &extra);
    }
    // Behind the newest: a copy under another name.
    files::copy(&path, &work);
    let extra = work.join(format!("{:020}.seg", 50));
    fs::copy(files::newest(&path), &extra).unwrap();
    is_refused(&work, &extra);
}

/// C6.
#[test]
fn a_version_that_this_build_does_not_know_is_told_with_its_number() {
    let scratch = Scratch::new();
    let path = three_segments(&scratch);
    let newest = files::newest(&path);
    let mut header = fs::read(&newest).unwrap()[..FRAMES as usize].to_vec();
    let sum_at = header.len() - 4;
    assert_eq!(
        files::crc(0, &header[..sum_at]).to_le_bytes(),
        header[sum_at..],
        "control: this is how headers are summed"
    );
    for (field, what) in [(8, "format version"), (12, "checksum algorithm")] {
        let sound = header.clone();
        header[field..field + 4].copy_from_slice(&77u32.to_le_bytes());
        let sum = files::crc(0, &header[..sum_at]).to_le_bytes();
        header[sum_at..].copy_from_slice(&sum);
        files::overwrite(&newest, 0, &header);
        let text = is_refused(&path, &newest);
        assert!(text.contains("77") && text.contains(what), "{text}");
        files::overwrite(&newest, 0, &sound);
        header = sound;
    }
}

/// C6.
#[test]
fn a_segment_of_another_store_is_named() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let (path, other) = (three_segments(&scratch), three_segments(&other));
    let work = scratch.path().join("work");
    for at in [1, 2] {
        files::copy(&path, &work);
        let segment = files::segments(&work)[at].clone();
        fs::copy(&files::segments(&other)[at], &segment).unwrap();
        // Either of the two neighbours that do not fit may be named.
        let before = files::snapshot(&work);
        let text = told::refusal(os(), &work).to_string();
        assert!(text.contains(".seg"), "{text}");
        assert_eq!(files::snapshot(&work), before);
    }
    // Further back, opening does not look; reading tells, with its name, and verifying does.
    files::copy(&path, &work);
    let segment = files::segments(&work)[0].clone();
    fs::copy(&files::segments(&other)[0], &segment).unwrap();
    let store = os().open(&work).unwrap();
    let (events, errors) = told::read(&store, Query::new());
    assert_eq!(events.len(), 6, "{errors:?}");
    assert!(errors.len() == 1 && errors[0].to_string().contains(&files::name(&segment)), "{errors:?}");
    drop(store);
    assert!(!inspect::verify(&work, |_| {}).unwrap().ok);
}

/// C6.
#[test]
fn what_is_no_store_is_left_alone() {
    let scratch = Scratch::new();
    let foreign = scratch.path().join("photos");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("holiday.jpg"), "not a segment").unwrap();
    is_refused(&foreign, &foreign);

    let file = scratch.path().join("a-file");
    fs::write(&file, "text").unwrap();
    for error in [told::refusal(os(), &file), Store::open_read_only(&file).unwrap_err()] {
        assert!(matches!(&error, Error::NotAStore { path, .. } if *path == file), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"text");

    let nowhere = scratch.path().join("no/where");
    let error = told::refusal(os(), &nowhere);
    assert!(matches!(&error, Error::Io { path, .. } if *path == nowhere), "{error}");
    assert!(!scratch.path().join("no").exists());

    let absent = scratch.path().join("absent");
    assert!(os().create(false).open(&absent).is_err() && Store::open_read_only(&absent).is_err());
    assert!(!absent.exists());

    // Control: an empty directory may become a store.
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(os().open(&empty).unwrap().recovery().created);
}

/// C6.
#[test]
fn without_permission_the_error_names_what_may_not_be_opened() {
    const NAME: &str = "hostile::without_permission_the_error_names_what_may_not_be_opened";
    if child::role().is_none() && child::is_root() {
        // Root may open everything, so another user does it.
        let scratch = Scratch::new();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = child::command(NAME, "nobody", scratch.path());
        command.uid(65_534).gid(65_534);
        match command.stdout(Stdio::null()).spawn().map(|mut child| child.wait()) {
            Ok(_) => assert_eq!(child::said(command), ["done"]),
            Err(error) => child::skip(NAME, &format!("root may open everything, and nobody cannot run this: {error}")),
        }
        return;
    }
    let scratch = Scratch::new();
    let path = three_segments(&scratch);
    let newest = files::newest(&path);
    let before = files::snapshot(&path);
    for (forbidden, allowed) in [(&newest, 0o600), (&path, 0o700)] {
        fs::set_permissions(forbidden, fs::Permissions::from_mode(0o000)).unwrap();
        let error = told::refusal(os(), &path);
        fs::set_permissions(forbidden, fs::Permissions::from_mode(allowed)).unwrap();
        assert!(error.to_string().contains(&files::name(forbidden)), "{error}");
        assert_eq!(files::snapshot(&path), before);
    }
    say("done");
}

/// C6.
#[test]
fn a_read_only_medium_is_told_and_can_be_read() {
    const NAME: &str = "hostile::a_read_only_medium_is_told_and_can_be_read";
    if let Some((_, path)) = child::role() {
        let mount = |options: &[&str]| {
            let done = std::process::Command::new("mount").args(options).arg(&path).status();
            assert!(done.is_ok_and(|status| status.success()), "mount {options:?}");
        };
        mount(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"]);
        let store = path.join("store");
        files::copy(&path.parent().unwrap().join("original"), &store);
        mount(&["-o", "remount,ro"]);
        let error = told::refusal(os(), &store);
        assert!(error.to_string().contains(&files::name(&files::newest(&store))), "{error}");
        assert_eq!(told::all(&Store::open_read_only(&store).unwrap()).len(), 9);
        assert!(inspect::verify(&store, |_| {}).unwrap().ok);
        let error = told::refusal(os(), &path.join("new"));
        assert!(error.to_string().contains("new"), "{error}");
        return say("done");
    }
    if !child::can_mount() {
        return child::skip(NAME, "mounting needs root and `unshare`");
    }
    let scratch = Scratch::new();
    fs::rename(three_segments(&scratch), scratch.path().join("original")).unwrap();
    let medium = scratch.path().join("medium");
    fs::create_dir(&medium).unwrap();
    assert_eq!(child::said(child::in_own_mounts(NAME, "ro", &medium)), ["done"]);
}

unsafe extern "C" {
    fn fork() -> i32;
    fn _exit(status: i32) -> !;
}

/// C13.
#[test]
fn a_forked_child_cannot_write_and_does_not_hang() {
    const NAME: &str = "hostile::a_forked_child_cannot_write_and_does_not_hang";
    if let Some((_, path)) = child::role() {
        for durability in [Durability::Sync, Durability::Os] {
            let store = small().durability(durability).open(&path).unwrap();
            store.append("s-1", event(b"before")).unwrap();
            let before = store.head();
            // SAFETY: the child calls what is under test, which must work in a forked child, and ends by `_exit`.
            let pid = unsafe { fork() };
            if pid == 0 {
                let refused = [
                    matches!(store.append("s-1", event(b"child")), Err(Error::ReadOnly { .. })),
                    matches!(store.sync(), Err(Error::ReadOnly { .. })),
                    store.clone().close().is_err(),
                ];
                let reads = store.read(Query::new()).count() as u64 == before.get();
                drop(store);
                // SAFETY: ends this process, without running what belongs to its parent.
                unsafe { _exit(if refused == [true; 3] && reads { 42 } else { 1 }) };
            }
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let (_, status) =
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(42));
            // The lock is still the parent's, who goes on.
            assert!(matches!(told::refusal(small(), &path), Error::Locked { .. }));
            assert_eq!(store.append("s-1", event(b"after")).unwrap().first(), before.next());
            store.close().unwrap();
        }
        return say("done");
    }
    let scratch = Scratch::new();
    assert_eq!(child::said(child::command(NAME, "fork", &scratch.store_path())), ["done"]);
    assert_eq!(told::all(&scratch.open()).len(), 4);
}

/// C13: the parent writes what was submitted, and nobody else.
#[test]
fn a_forked_child_does_not_take_the_writers_turn_for_a_ticket_nor_waits_for_one_for_ever() {
    const NAME: &str = "hostile::a_forked_child_does_not_take_the_writers_turn_for_a_ticket_nor_waits_for_one_for_ever";
    if let Some((_, path)) = child::role() {
        let store = small().durability(Durability::Os).open(&path).unwrap();
        let (begun, begins) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let goes_on = Mutex::new(goes_on);
        let mut held = Commit::new();
        held.event("s-1", event(b"held")).rule(move |_, _| {
            begun.send(()).unwrap();
            goes_on.lock().unwrap().recv().map_err(|error| error.to_string())
        });
        let held = store.submit(&held).unwrap();
        begins.recv().unwrap();
        let mut behind = Commit::new();
        let behind = store.submit(behind.event("s-1", event(b"behind"))).unwrap();
        // SAFETY: the child calls what is under test, which must work in a forked child, and ends by `_exit`.
        let pid = unsafe { fork() };
        if pid == 0 {
            let told = matches!(behind.wait(), Err(Error::ReadOnly { .. }));
            // SAFETY: ends this process, without running what belongs to its parent.
            unsafe { _exit(if told { 42 } else { 1 }) };
        }
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
        go_on.send(()).unwrap();
        let positions = (held.wait().unwrap().first().get(), behind.wait().unwrap().first().get());
        return say(format!("{:?} {positions:?}", status.exit_status()));
    }
    let scratch = Scratch::new();
    assert_eq!(child::said(child::command(NAME, "fork", &scratch.store_path())), ["Some(42) (1, 2)"]);
}

/// Sets the soft limit and gives it back afterwards.
fn limited<T>(what: Resource, limit: u64, run: impl FnOnce() -> T) -> T {
    let kept = getrlimit(what);
    setrlimit(what, Rlimit { current: Some(limit), maximum: kept.maximum }).unwrap();
    let result = run();
    setrlimit(what, kept).unwrap();
    result
}

/// Opens, appends, reads and closes; tells what did not work.
fn whole_story(path: &Path, durability: Durability) -> Result<(), Error> {
    let store = small().durability(durability).open(path)?;
    let payload = [1; 1000];
    for _ in 0..50 {
        store.append("s-1", event(&payload))?;
    }
    for event in store.read(Query::new()) {
        event?;
    }
    store.close()
}

/// C13: files.
#[test]
fn too_few_open_files_give_typed_errors() {
    const NAME: &str = "hostile::too_few_open_files_give_typed_errors";
    if let Some((_, path)) = child::role() {
        let (mut worked, mut failed) = (0, 0);
        for limit in 3..40 {
            match limited(Resource::Nofile, limit, || whole_story(&path, Durability::Os)) {
                Ok(()) => worked += 1,
                Err(Error::Io { .. } | Error::DiskFull { .. }) => failed += 1,
                Err(other) => panic!("limit {limit}: {other:?}"),
            }
        }
        assert!(worked > 0 && failed > 0, "{worked} worked, {failed} failed");
        let store = small().open(&path).unwrap();
        let events = told::all(&store);
        store.close().unwrap();
        return say(format!("{} {}", events.len() >= worked * 50, inspect::verify(&path, |_| {}).unwrap().ok));
    }
    let scratch = Scratch::new();
    assert_eq!(child::said(child::command(NAME, "files", &scratch.store_path())), ["true true"]);
}

/// C13: file size. The kernel ends a process that writes beyond it, unless the process looks first.
#[test]
fn a_limit_on_file_sizes_gives_typed_errors() {
    const NAME: &str = "hostile::a_limit_on_file_sizes_gives_typed_errors";
    if let Some((_, path)) = child::role() {
        let (mut worked, mut failed) = (0, 0);
        for durability in [Durability::Os, Durability::Sync] {
            for limit in [0, 1, 4095, 4096, 10_000, 65_536, 131_071, 131_072, 1 << 20] {
                let path = path.with_extension(limit.to_string());
                match limited(Resource::Fsize, limit, || whole_story(&path, durability)) {
                    Ok(()) => worked += 1,
                    Err(Error::DiskFull { .. } | Error::Io { .. }) => failed += 1,
                    Err(other) => panic!("limit {limit}: {other:?}"),
                }
                // A store that was there before, with room in its segment.
                whole_story(&path, durability).unwrap();
                match limited(Resource::Fsize, limit, || whole_story(&path, durability)) {
                    Ok(()) => worked += 1,
                    Err(Error::DiskFull { .. } | Error::Io { .. } | Error::Stopped { .. }) => failed += 1,
                    Err(other) => panic!("limit {limit}: {other:?}"),
                }
                whole_story(&path, durability).unwrap();
                assert!(inspect::verify(&path, |_| {}).unwrap().ok, "limit {limit}");
            }
        }
        return say(worked > 0 && failed > 10);
    }
    let scratch = Scratch::new();
    assert_eq!(child::said(child::command(NAME, "size", &scratch.store_path())), ["true"]);
}

/// C13: a merged index is larger than any other file of this store.
#[test]
fn a_merged_index_over_the_limit_on_file_sizes_is_gone_without() {
    const NAME: &str = "hostile::a_merged_index_over_the_limit_on_file_sizes_is_gone_without";
    if let Some((_, path)) = child::role() {
        let fill = || {
            let store = os().open(&path).unwrap();
            while files::segments(&path).len() < 20 {
                let head = store.head();
                store.append("s-1", event(b"").tags((0..200).map(|tag| format!("{tag}-{head}")))).unwrap();
            }
            store.close().unwrap();
        };
        limited(Resource::Fsize, 160 << 10, fill);
        let without = files::with_extension(&path, "tier").len();
        os().open(&path).unwrap().close().unwrap();
        let tiers = files::with_extension(&path, "tier");
        assert!(fs::metadata(&tiers[0]).unwrap().len() > 160 << 10, "the control: it is over the limit");
        return say(format!(
            "{without} {} {}",
            files::indexes(&path).len() > 15,
            inspect::verify(&path, |_| {}).unwrap().ok
        ));
    }
    let scratch = Scratch::new();
    assert_eq!(child::said(child::command(NAME, "tier", &scratch.store_path())), ["0 true true"]);
}

/// C13: address space. What runs short here is room for maps; the heap has some.
#[test]
fn too_little_address_space_gives_typed_errors() {
    const NAME: &str = "hostile::too_little_address_space_gives_typed_errors";
    if let Some((_, path)) = child::role() {
        let large = || Options::new().segment_bytes(256 << 20).durability(Durability::Os);
        // A store whose newest segment is larger than the room that is left.
        let store = large().open(&path).unwrap();
        let payload = vec![1; 8 << 20];
        while files::segments(&path).len() < 3 {
            store.append("s-1", event(&payload)).unwrap();
        }
        let head = store.head();
        std::mem::forget(store.clone());
        let crashed = path.with_extension("crashed");
        files::copy(&path, &crashed);
        let in_use = || {
            let pages = fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
        };
        let (mut worked, mut failed) = (0, 0);
        for room in (1..=40).map(|number| number << 20).chain([2 << 30]) {
            match limited(Resource::As, in_use() + room, || {
                let store = large().open(&crashed)?;
                let read = told::read(&store, Query::new());
                read.1.into_iter().next().map_or(Ok(store.head()), Err)
            }) {
                Ok(found) => {
                    assert_eq!(found, head);
                    worked += 1;
                }
                Err(Error::Io { .. }) => failed += 1,
                Err(other) => panic!("room {room}: {other:?}"),
            }
        }
        return say(format!("{} {}", worked > 0, failed > 0));
    }
    let scratch = Scratch::new();
    assert_eq!(child::said(child::command(NAME, "space", &scratch.store_path())), ["true true"]);
}

/// Puts something in a file's place.
type Put = fn(&Path, &Path);

/// C14.
#[test]
fn strange_things_in_the_place_of_a_file_are_told_or_harmless() {
    const NAME: &str = "hostile::strange_things_in_the_place_of_a_file_are_told_or_harmless";
    let kinds: [(&str, Put); 8] = [
        ("a link to a sound copy", |place, outside| symlink(outside.join(files::name(place)), place).unwrap()),
        ("a link to nothing", |place, _| symlink("nowhere", place).unwrap()),
        ("a pipe", |place, _| {
            let made = std::process::Command::new("mkfifo").arg(place).status().unwrap();
            assert!(made.success() && fs::metadata(place).unwrap().file_type().is_fifo());
        }),
        ("a directory", |place, _| fs::create_dir(place).unwrap()),
        ("nothing", |place, _| fs::write(place, "").unwrap()),
        ("one byte", |place, _| fs::write(place, "x").unwrap()),
        ("a hole of 4 GiB", |place, _| {
            fs::write(place, "").unwrap();
            files::set_len(place, 4 << 30);
        }),
        ("itself and a hole of 4 GiB", |place, outside| {
            let _none_yet = fs::copy(outside.join(files::name(place)), place);
            if !place.exists() {
                fs::write(place, "x").unwrap();
            }
            files::set_len(place, 4 << 30);
        }),
    ];
    if let Some((role, work)) = child::role() {
        let (at, what) = role.split_once(' ').unwrap();
        let (kind, put) = kinds[at.parse::<usize>().unwrap()];
        let outside = work.with_extension("sound");
        files::copy(&work, &outside);
        let sound = files::snapshot(&outside);
        let place = work.join(what);
        let _none_yet = fs::remove_file(&place);
        put(&place, &outside);

        let verified = inspect::verify(&work, |_| {}).is_ok_and(|verdict| verdict.ok);
        let _counted = inspect::summary(&work);
        let opened: [fn(&Path) -> towpath::Result<Store>; 2] =
            [|path| Store::open_read_only(path), |path| os().open(path)];
        for (way, open) in opened.into_iter().enumerate() {
            match open(&work) {
                Ok(store) => {
                    let (events, errors) = told::read(&store, Query::new());
                    let quarantined = !store.recovery().quarantined.is_empty();
                    assert!(events.len() == 9 || !errors.is_empty() || quarantined, "{kind} for {what}: {store:?}");
                    if way == 1 {
                        let _told = store.append("s-1", event(b"after"));
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(what) || text.contains(".seg"), "{kind} for {what}: {text}");
                    assert!(!verified || way == 1, "{kind} for {what}: {text}, and verified");
                }
            }
        }
        assert_eq!(files::snapshot(&outside), sound, "{kind} for {what}: what a link leads to was changed");
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        return say(peak);
    }
    let scratch = Scratch::in_memory();
    let path = three_segments(&scratch);
    let work = scratch.path().join("work");
    let mut places: Vec<String> = files::snapshot(&path).keys().map(|path| files::name(path)).collect();
    let absent = ["spare.tmp", "00000000000000000001.idx.tmp", "00000000000000000001-2.tier.tmp", "quarantine"];
    places.extend(absent.map(str::to_owned));
    // What would cover the two sealed segments.
    places.push("00000000000000000001-2.tier".to_owned());
    assert!(places.len() >= 11 && places.contains(&"LOCK".to_owned()), "{places:?}");
    for (at, (kind, _)) in kinds.iter().enumerate() {
        for place in &places {
            if place == "quarantine" && path.join(place).exists() {
                continue;
            }
            files::copy(&path, &work);
            let command = child::command(NAME, &format!("{at} {place}"), &work);
            let said = child::said(command);
            let peak: u64 = said[0].parse().unwrap();
            assert!(peak < 256 << 10, "{kind}, {place}: {peak} KiB");
        }
    }
}

/// C14.
#[test]
fn files_are_for_their_owner_alone_whatever_the_umask() {
    const NAME: &str = "hostile::files_are_for_their_owner_alone_whatever_the_umask";
    if let Some((role, path)) = child::role() {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(u32::from_str_radix(&role, 8).unwrap()));
        let store = os().open(&path).unwrap();
        let payload = [3; 1000];
        for _ in 0..200 {
            store.append("s-1", event(&payload)).unwrap();
        }
        assert!(!told::all(&store).is_empty());
        let rolled = store.close().is_ok();
        // A torn tail makes the quarantine.
        let crashed = path.with_extension("crashed");
        let store = os().open(&crashed).unwrap();
        store.append("s-1", event(&payload)).unwrap();
        let newest = files::newest(&crashed);
        let (bytes, end) = (fs::read(&newest).unwrap(), files::frames(&newest).last().unwrap().end);
        store.close().unwrap();
        fs::write(&newest, bytes).unwrap();
        files::overwrite(&newest, end, &[96, 0, 0, 0, 1]);
        drop(os().open(&crashed).unwrap());
        return say(rolled);
    }
    for umask in ["0", "22", "777"] {
        let scratch = Scratch::new();
        let path = scratch.store_path();
        assert_eq!(child::said(child::command(NAME, umask, &path)), ["true"]);
        let crashed = path.with_extension("crashed");
        assert!(crashed.join("quarantine").is_dir(), "control");
        for store in [&path, &crashed] {
            assert_eq!(fs::metadata(store).unwrap().permissions().mode() & 0o777, 0o700);
            for (file, (mode, _)) in files::snapshot(store) {
                let expected = if file.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(mode & 0o777, expected, "{}, umask {umask}", file.display());
            }
        }
    }
}

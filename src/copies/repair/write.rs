//! Writing what is whole into a new directory, gaps in the place of what is lost, and at the end a segment that begins with
//! what consumers remember.

use std::collections::BTreeMap;

use crate::copies::out::{Copy, GAP, Out};
use crate::copies::place::{Files, Wanted, copy};
use crate::copies::repair::Noted;
use crate::copies::repair::look::{Found, Piece, Piecewise};
use crate::copies::repair::read::{Read, Stretch};
use crate::error::Result;
use crate::format::PAGE;
use crate::format::control::Kept;
use crate::format::frame::Found as At;
use crate::format::header::{self, Header, Previous};
use crate::format::heads::Stood;
use crate::id::{Position, Revision, StoreId};
use crate::log::grow;
use crate::log::heads::{self, HeadsFile};
use crate::log::parts::Part;
use crate::log::tiers::Tiers;
use crate::segment::disk::Directory;
use crate::segment::map::Access;

/// Writes the repaired store. Gives how its files came there, and what became of those that can be made again.
pub(super) fn write(found: &Found, to: &dyn Directory, mut progress: impl FnMut(u64)) -> Result<Files> {
    let mut files = Files::default();
    let (mut firsts, mut previous): (Vec<Position>, Option<Previous>) = (Vec::new(), None);
    let mut done = 0;
    // A last one without an event has the name of the one that ends it all, which says all that it said.
    for piece in found.pieces.iter().filter(|piece| piece.first < found.next) {
        let made = put_piece(found, piece, &firsts, previous, to, &mut files)?;
        firsts.push(piece.first);
        previous = Some(made);
        done += made.end;
        progress(done);
    }
    put_last(found, firsts, previous, to)?;
    put_heads(found, to, &mut files)?;
    put_derived(found, to, &mut files)?;
    to.sync()?;
    Ok(files)
}

/// Puts one segment into the copy, following `previous`. Gives what the one behind it says of it.
fn put_piece(
    found: &Found,
    piece: &Piece,
    firsts: &[Position],
    previous: Option<Previous>,
    to: &dyn Directory,
    files: &mut Files,
) -> Result<Previous> {
    let name = header::file_name(piece.first);
    match &piece.found {
        Piecewise::There { part, limit, header, read } => {
            // What the oldest one says of a segment that is not kept any more stays so.
            let previous =
                if firsts.is_empty() { header.as_ref().and_then(|header| header.previous) } else { previous };
            let fitting = Header { previous, ..part.segment.header.clone() };
            if !read.keeps(*limit) {
                files.copied += 1;
                return rewrite(fitting, part, *limit, read, firsts, to, files);
            }
            if header.as_deref() == Some(&fitting) {
                Wanted { name: &name, len: *limit, store: None }.put(&*found.directory, None, to, files)?;
            } else {
                let file = Copy::begin(to, &name, *limit)?;
                copy(&*found.directory.open(&name, Access::Read)?, &*file.file, PAGE as u64, *limit)?;
                file.file.write_at(&header::encode(&fitting), 0)?;
                file.finish(to, *limit)?;
                files.copied += 1;
                files.bytes_copied += limit;
            }
            // One that took the place of another is followed as that one was.
            let original = fitting.rewritten.map(|original| (original.original_end, original.original_crc));
            let (end, last_crc) = original.unwrap_or((*limit, read.last_crc));
            Ok(Previous { first: piece.first, end, last_crc })
        }
        Piecewise::Missing { why, head, time } => {
            files.copied += 1;
            let (created, durable) = (*time, piece.first.previous());
            let header = Header {
                store: found.store,
                nonce: grow::random_nonce(to)?,
                first: piece.first,
                previous,
                created,
                durable,
                rewritten: None,
            };
            let mut out = Out::begin(to, header, GAP + grow::state_size(head) + 16 * firsts.len() as u64)?;
            out.head(head, firsts, *time)?;
            let lost = piece.next.get() - piece.first.get();
            out.gap(piece.first, lost, why, *time)?;
            counted(out.finish(to)?, files)
        }
    }
}

/// Writes a segment again, with another nonce, and with gaps in the place of what is not whole.
fn rewrite(
    header: Header,
    part: &Part,
    limit: u64,
    read: &Read,
    firsts: &[Position],
    to: &dyn Directory,
    files: &mut Files,
) -> Result<Previous> {
    let segment = &*part.segment;
    let head = read.head.as_ref().map_or(0, |(records, _)| grow::state_size(records) + 16 * firsts.len() as u64);
    let room = limit + head + GAP * (1 + read.stretches.len() as u64);
    let mut time = header.created;
    let mut out = Out::begin(to, Header { nonce: grow::random_nonce(to)?, rewritten: None, ..header }, room)?;
    let body = read.head.as_ref().map_or(PAGE as u64, |(_, body)| *body);
    let mut offset = body;
    if let Some((records, body)) = &read.head {
        out.head(records, firsts, time)?;
        for stretch in read.stretches.iter().take_while(|stretch| stretch.offset < *body) {
            out.gap(stretch.position, 0, &why(segment.name(), stretch), time)?;
        }
    }
    let mut stretches = read.stretches.iter().skip_while(|stretch| stretch.offset < body).peekable();
    loop {
        if let Some(stretch) = stretches.next_if(|stretch| stretch.offset <= offset) {
            out.gap(stretch.position, stretch.positions, &why(segment.name(), stretch), time)?;
            offset = stretch.end;
            continue;
        }
        if offset >= read.end {
            break;
        }
        // It was found whole a moment ago; where it is not any more the search goes wrong, which the check at the end tells.
        let At::Frame(frame) = segment.find(offset, limit) else { break };
        out.frame(frame)?;
        time = time.max(frame.time());
        offset += frame.stride() as u64;
    }
    counted(out.finish(to)?, files)
}

fn why(segment: &str, stretch: &Stretch) -> String {
    let Stretch { offset, end, what, .. } = stretch;
    format!("{what}: {segment}, {} bytes from byte {offset} on", end - offset)
}

/// The segment that everything is behind, and that begins with what consumers remember.
fn put_last(found: &Found, firsts: Vec<Position>, previous: Option<Previous>, to: &dyn Directory) -> Result<()> {
    let (first, created, durable) = (found.next, found.last_time, found.next.previous());
    let (store, nonce) = (found.store, grow::random_nonce(to)?);
    let header = Header { store, nonce, first, previous, created, durable, rewritten: None };
    let records = found.consumers.records();
    let mut out = Out::begin(to, header, grow::state_size(&records) + 16 * firsts.len() as u64)?;
    out.head(&records, &firsts, created)?;
    out.finish(to)?;
    Ok(())
}

/// Heads files that are whole, and what can be read of the others.
fn put_heads(found: &Found, to: &dyn Directory, files: &mut Files) -> Result<()> {
    for (first, end) in heads_files(found.kept.as_ref()) {
        if heads_fault(&*found.directory, found.store, first, end)?.is_none() {
            let name = header::heads_name(first, end);
            let len = found.directory.open(&name, Access::Read)?.len()?;
            Wanted { name: &name, len, store: None }.put(&*found.directory, None, to, files)?;
        } else {
            let file = (found.store, first, end);
            heads::salvage(&*found.directory, to, file, stood_before(found))?;
        }
    }
    Ok(())
}

/// Where streams stood before the first of their events that is kept: that one says so.
fn stood_before(found: &Found) -> BTreeMap<Vec<u8>, Stood> {
    let mut first = BTreeMap::new();
    for piece in &found.pieces {
        let Piecewise::There { part, limit, read, .. } = &piece.found else { continue };
        let mut offset = PAGE as u64;
        while offset < *limit {
            if let Some(stretch) =
                read.stretches.iter().find(|stretch| stretch.offset == offset && stretch.end > offset)
            {
                offset = stretch.end;
                continue;
            }
            let At::Frame(frame) = part.segment.find(offset, *limit) else { break };
            if !frame.is_control() && !first.contains_key(frame.stream_bytes()) {
                let revision = Revision::new(frame.revision().get().saturating_sub(1));
                first.insert(frame.stream_bytes().to_vec(), Stood { revision, is_gone: false });
            }
            offset += frame.stride() as u64;
        }
    }
    first.retain(|_, stood| stood.revision > Revision::ABSENT);
    first
}

/// The heads files that a kept record names: where they begin and end.
fn heads_files(kept: Option<&Kept>) -> Vec<(Position, Position)> {
    let Some(kept) = kept else { return Vec::new() };
    let ends = kept.heads.iter().skip(1).chain([&kept.oldest]);
    kept.heads.iter().zip(ends).map(|(first, end)| (*first, *end)).collect()
}

/// What is wrong with a heads file.
fn heads_fault(from: &dyn Directory, store: StoreId, first: Position, end: Position) -> Result<Option<String>> {
    match HeadsFile::open(from, store, first, end) {
        Ok(file) => Ok(file.faults()?.into_iter().next().map(|damage| damage.what)),
        Err(crate::error::Error::NotAStore { why, .. }) => Ok(Some(why)),
        Err(error) => Err(error),
    }
}

/// What becomes of files beside the segments that are not whole.
pub(super) fn note_others(found: &Found) -> Result<Vec<Noted>> {
    let mut noted = Vec::new();
    for (first, end) in heads_files(found.kept.as_ref()) {
        if let Some(what) = heads_fault(&*found.directory, found.store, first, end)? {
            let what = format!("{what}; streams that only it knew begin with revision 1 again");
            noted.push(Noted { file: header::heads_name(first, end), what });
        }
    }
    let again = |file: String| Noted { file, what: "it is damaged; the next writer makes it again".to_owned() };
    for piece in &found.pieces {
        let name = header::index_name(piece.first);
        if let Piecewise::There { part, limit, read, .. } = &piece.found
            && read.keeps(*limit)
            && part.segment.is_sealed()
            && found.names.contains(&name)
            && !part.index.file().is_some_and(|file| file.is_sound())
        {
            noted.push(again(name));
        }
    }
    let (tiers, firsts) = tiers(found);
    let unsound = tiers.find(&*found.directory, found.store, &firsts, &found.names);
    noted.extend(unsound.into_iter().map(again));
    noted.extend(tiers.all().into_iter().filter(|(tier, _)| !tier.is_sound()).map(|(tier, _)| again(tier.name())));
    Ok(noted)
}

fn tiers(found: &Found) -> (Tiers, Vec<Position>) {
    (Tiers::default(), found.pieces.iter().map(|piece| piece.first).chain([found.next]).collect())
}

/// Index files and tiers of segments that are as they were.
fn put_derived(found: &Found, to: &dyn Directory, files: &mut Files) -> Result<()> {
    let mut put = |name: &str| -> Result<()> {
        let len = found.directory.open(name, Access::Read)?.len()?;
        Wanted { name, len, store: None }.put(&*found.directory, None, to, files)
    };
    let keeps = |piece: &Piece| match &piece.found {
        Piecewise::There { read, limit, .. } => read.keeps(*limit),
        Piecewise::Missing { .. } => false,
    };
    for piece in found.pieces.iter().filter(|piece| keeps(piece)) {
        if let Piecewise::There { part, .. } = &piece.found
            && part.index.file().is_some_and(|file| file.is_sound())
        {
            put(&header::index_name(piece.first))?;
        }
    }
    let (tiers, firsts) = tiers(found);
    tiers.find(&*found.directory, found.store, &firsts, &found.names);
    for (tier, covered) in tiers.all() {
        let is_kept = |first: &Position| found.pieces.iter().any(|piece| piece.first == *first && keeps(piece));
        if tier.is_sound() && covered.iter().all(is_kept) {
            put(&tier.name())?;
        }
    }
    Ok(())
}

fn counted(made: Previous, files: &mut Files) -> Result<Previous> {
    files.bytes_copied += made.end;
    Ok(made)
}

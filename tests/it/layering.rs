//! The layers: who may import what, where unsafe code stands, and where the door to the file system is.
//!
//! The checks read the sources as text, which is all they need: `use crate::…` and paths that begin with `crate::`.

use std::collections::BTreeMap;
use std::path::Path;

/// The rank of each module. It may import from its own module and from lower ranks. The guide is text.
const RANKS: [(&str, u32); 20] = [
    ("error", 0),
    ("id", 0),
    ("event", 0),
    ("sync", 0),
    ("clock", 0),
    ("format", 1),
    ("segment", 2),
    ("log", 3),
    ("writer", 4),
    ("store", 5),
    ("inspect", 5),
    ("copies", 6),
    ("fuzzing", 5),
    ("canal", 6),
    ("sink", 7),
    ("reactor", 7),
    ("forward", 8),
    ("projection", 8),
    ("request", 8),
    ("simulation", 9),
];

/// Modules of rank 0 may know each other: errors name positions, events name errors.
const GROUND: u32 = 0;

const UNSAFE_CODE: &str = "segment/map.rs";
const DOOR_TO_FILES: &str = "segment/disk.rs";

/// Tests inside the library may tidy up after themselves; they stand last in their file.
const TESTS: &str = "#[cfg(test)]\nmod ";

/// Files of tests and nothing else, which see everything, end so.
const TEST_FILES: [&str; 2] = ["interleaved.rs", "/tests.rs"];

/// One source file below `src/`, without comments and the contents of literals.
struct Source {
    /// With `/`, from `src/` on.
    path: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), code: without_comments(text) }
    }

    /// The module at the top of the crate that it belongs to.
    fn module(&self) -> &str {
        let name = self.path.split('/').next().unwrap_or_default();
        name.strip_suffix(".rs").unwrap_or(name)
    }
}

/// Everything that is wrong with some sources, a sentence each.
fn faults(sources: &[Source]) -> Vec<String> {
    let ranks = BTreeMap::from(RANKS);
    let mut faults = Vec::new();
    for source in sources {
        let (path, own) = (&source.path, source.module());
        // The root re-exports what users see, and the guide shows it.
        if own != "lib" && own != "guide" {
            let Some(rank) = ranks.get(own) else {
                faults.push(format!("{path}: module {own} has no rank"));
                continue;
            };
            for used in crate_paths(&source.code) {
                let to = used[0].as_str();
                match ranks.get(to) {
                    _ if to == own => {}
                    Some(to_rank) if to_rank < rank || *to_rank == GROUND => {}
                    Some(to_rank) => {
                        faults.push(format!("{path}: {own} (rank {rank}) imports {} (rank {to_rank})", used.join("::")))
                    }
                    None => faults.push(format!("{path}: {} does not come from its own module", used.join("::"))),
                }
                // It passes on one of two kinds of locks and threads: that is what it is for.
                let is_primitive = used.starts_with(&["sync".to_owned(), "primitive".to_owned()]);
                if !is_primitive && let Some(from) = re_exported(&used, sources) {
                    faults.push(format!("{path}: {} is only passed on there, it comes from {from}", used.join("::")));
                }
            }
        }
        if has_word(&source.code, "unsafe") && path != UNSAFE_CODE {
            faults.push(format!("{path}: unsafe code outside {UNSAFE_CODE}"));
        }
        let product = source.code.split(TESTS).next().unwrap_or_default();
        for call in file_calls(product) {
            let type_only = call == "std::fs::File" && path == UNSAFE_CODE;
            if path != DOOR_TO_FILES && !type_only {
                faults.push(format!("{path}: {call} outside {DOOR_TO_FILES}"));
            }
        }
    }
    faults
}

/// Every path in the code that begins with `crate::`, taken apart; those in braces one by one. An `as` is left out.
fn crate_paths(code: &str) -> Vec<Vec<String>> {
    paths_from(code, "crate")
}

/// Every path that begins with this word and `::`.
fn paths_from(code: &str, word: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(&format!("{word}::")) {
        if !code[..at].ends_with(|c: char| is_word(c) || c == '$' || c == ':') {
            let mut rest = &code[at + word.len() + 2..];
            tree(&mut rest, &mut Vec::new(), &mut paths);
        }
    }
    paths
}

/// Reads `a::b`, `a::{b, c::d}`, `a::*` and adds what it names.
fn tree(rest: &mut &str, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    let depth = before.len();
    loop {
        *rest = rest.trim_start();
        if let Some(inside) = rest.strip_prefix('{') {
            *rest = inside;
            loop {
                tree(rest, before, paths);
                // Behind a name may stand `as other`.
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                let more = rest[end..].starts_with(',');
                *rest = rest.get(end + 1..).unwrap_or_default();
                if !more {
                    break;
                }
            }
            break;
        }
        let end = rest.find(|c: char| !is_word(c) && c != '*').unwrap_or(rest.len());
        let name = &rest[..end];
        *rest = &rest[end..];
        if !name.is_empty() && name != "self" {
            before.push(name.to_owned());
        }
        match rest.strip_prefix("::") {
            Some(behind) if !behind.starts_with('<') => *rest = behind,
            _ => {
                // Nothing stands behind the last comma of a list.
                if !name.is_empty() && !before.is_empty() {
                    paths.push(before.clone());
                }
                break;
            }
        }
    }
    before.truncate(depth);
}

/// Where a name really comes from, when the module that the path names only passes it on with `pub use`.
fn re_exported(path: &[String], sources: &[Source]) -> Option<String> {
    let (name, module) = path.split_last()?;
    let files = [format!("{}.rs", module.join("/")), format!("{}/mod.rs", module.join("/"))];
    let source = sources.iter().find(|source| files.contains(&source.path))?;
    source.code.split(';').find_map(|item| {
        let (_, used) = item.trim_start().split_once("pub use ").or_else(|| item.split_once("pub(crate) use "))?;
        let mut paths = Vec::new();
        tree(&mut &*used, &mut Vec::new(), &mut paths);
        paths.into_iter().find(|path| path.last() == Some(name)).map(|path| path.join("::"))
    })
}

/// What of `std::fs` and `rustix::fs` the code names. `std::os::unix::fs` only extends `std::fs::File`.
fn file_calls(code: &str) -> Vec<String> {
    let std = paths_from(code, "std").into_iter().map(|path| ("std", path));
    let rustix = paths_from(code, "rustix").into_iter().map(|path| ("rustix", path));
    let files =
        std.chain(rustix).filter(|(_, path)| path[0] == "fs" || path.starts_with(&strings(["os", "unix", "fs"])));
    files.map(|(root, path)| format!("{root}::{}", path.join("::"))).collect()
}

fn strings<const N: usize>(names: [&str; N]) -> [String; N] {
    names.map(str::to_owned)
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The code without comments, and without what stands in string and character literals.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, behind)| behind);
        } else if let Some(hashes) = raw_string(rest).filter(|_| !code.ends_with(is_word)) {
            let end = format!("\"{}", "#".repeat(hashes));
            let (_, inside) = rest.split_once('"').unwrap_or_default();
            rest = inside.split_once(&end).map_or("", |(_, behind)| behind);
            code.push_str("\"\"");
        } else if c == '"' {
            rest = behind_quote(&rest[1..], '"');
            code.push_str("\"\"");
        } else if c == '\'' && is_character(rest) {
            rest = behind_quote(&rest[1..], '\'');
            code.push_str("' '");
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// The number of `#` of a raw string that begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let behind = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let quote = behind.trim_start_matches('#');
    quote.starts_with('"').then_some(behind.len() - quote.len())
}

/// A character literal, and not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    let first = chars.next();
    first == Some('\\') || chars.next() == Some('\'')
}

fn behind_quote(inside: &str, quote: char) -> &str {
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return &inside[at + 1..];
        }
    }
    ""
}

/// The sources of the library; the command line is a target of its own that sees the public API only.
fn library() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.extend(Some(path).filter(|path| !path.ends_with("bin")));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = below(&root, &path);
                if !TEST_FILES.iter().any(|end| name.ends_with(end)) {
                    sources.push(Source::new(&name, &std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    sources
}

fn below(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/")
}

#[test]
fn every_module_imports_from_lower_layers_only_and_files_and_unsafe_code_have_one_place() {
    let sources = library();
    assert!(sources.len() > 40, "the sources were not found");
    assert_eq!(faults(&sources), Vec::<String>::new());

    let imports = sources.iter().map(|source| crate_paths(&source.code).len()).sum::<usize>();
    assert!(imports > 200, "the imports were not found: {imports}");
}

/// The control: each rule, broken once.
#[test]
fn a_broken_rule_of_the_layers_is_told() {
    let bad = |path: &str, text: &str| {
        let passed_on = Source::new("store/mod.rs", "mod options;\npub use options::Options;");
        faults(&[Source::new(path, text), passed_on])
    };
    for (path, text, broken) in [
        ("format/x.rs", "use crate::segment::disk::File;", 1),
        ("log/x.rs", "use crate::{error::Error, writer::{ticket::{Receipt, Ticket,}, turn::Turn}};", 3),
        ("log/x.rs", "use crate::{canal::{Batch, cursor::Cursor}, reactor::Stop, id::Position};", 3),
        ("store/x.rs", "fn f() { crate::canal::cursor::open() }", 1),
        ("inspect.rs", "use crate::store::Store;", 1),
        ("canal/x.rs", "use crate::Error;", 1),
        ("canal/x.rs", "use crate::store::Options;", 1),
        ("canal/x.rs", "use crate::{store::{Store, Options as Opts}, error::Error};", 1),
        ("unheard_of.rs", "", 1),
        ("log/x.rs", "fn f() { unsafe { g() } }", 1),
        ("log/x.rs", "use std::fs;", 1),
        ("log/x.rs", "use std::{io, fs::File};", 1),
        ("log/x.rs", "fn f() { rustix::fs::fsync(x) }", 1),
        ("segment/map.rs", "fn f() { std::fs::read(x) }", 1),
        ("segment/mod.rs", "use std::os::unix::fs::FileExt;", 1),
    ] {
        assert_eq!(bad(path, text).len(), broken, "{path}: {text}: {:?}", bad(path, text));
    }
    for (path, text) in [
        ("log/x.rs", "use crate::{error::{Error, Result}, log::index::{self, Index}, format};"),
        (
            "log/x.rs",
            "// use crate::writer;\n/* unsafe */ const C: char = '\"'; const S: &str = \"unsafe std::fs::File\";",
        ),
        ("log/x.rs", "const R: &str = r#\"crate::canal \"quoted\" unsafe\"#; fn f<'a>(x: &'a str) {}"),
        ("segment/map.rs", "fn f(x: &std::fs::File) { unsafe { g(x) } }"),
        ("segment/disk.rs", "use std::fs::File; use rustix::fs::Mode;"),
        ("log/x.rs", "#[cfg(test)]\nmod tests { use std::fs; }"),
        ("lib.rs", "pub use reactor::Stop;"),
    ] {
        assert_eq!(bad(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

//! The rules of the house that a machine can hold.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room of `src/`, and the rooms that it may import. A room that is not listed here is not one.
const ROOMS: &[(&str, &[&str])] = &[
    ("topic", &[]),
    ("config", &[]),
    ("correlation", &[]),
    ("instance", &["config"]),
    ("sys", &[]),
    ("hidden", &[]),
    ("hierarchy", &["topic"]),
    ("access", &["config", "hierarchy", "sys", "topic"]),
    ("event", &["correlation", "hierarchy"]),
    ("batch", &["correlation", "event", "hidden"]),
    ("filter", &["access", "batch", "correlation", "topic"]),
    ("routing", &["topic"]),
    ("topics", &["access", "hierarchy", "routing", "topic"]),
    ("wire", &["access", "config", "hidden", "topic"]),
    ("message", &["batch", "config", "correlation", "topic", "wire"]),
    ("link", &["config", "hidden", "sys", "wire"]),
    ("identity", &["sys", "wire"]),
    ("statistics", &["access", "topic", "wire"]),
    ("control", &["access", "config", "hidden", "routing", "topic", "wire"]),
    (
        "dataplane",
        &[
            "access",
            "batch",
            "config",
            "event",
            "hidden",
            "hierarchy",
            "message",
            "routing",
            "sys",
            "topic",
            "wire",
        ],
    ),
    (
        "client",
        &[
            "access",
            "batch",
            "config",
            "correlation",
            "dataplane",
            "event",
            "filter",
            "hidden",
            "identity",
            "instance",
            "link",
            "message",
            "routing",
            "statistics",
            "sys",
            "topic",
            "wire",
        ],
    ),
    ("error", &["client", "message", "sys", "topic", "wire"]),
    (
        "broker",
        &[
            "access",
            "batch",
            "client",
            "config",
            "control",
            "correlation",
            "dataplane",
            "error",
            "hidden",
            "identity",
            "instance",
            "link",
            "message",
            "statistics",
            "sys",
            "wire",
        ],
    ),
    (
        "bus",
        &[
            "broker",
            "client",
            "config",
            "correlation",
            "dataplane",
            "error",
            "event",
            "filter",
            "identity",
            "message",
            "statistics",
            "topic",
            "wire",
        ],
    ),
    ("fuzzing", &["access", "batch", "control", "wire"]),
];

const LINES_OF_CODE_MAX: usize = 600;
const LINES_OF_FUNCTION_MAX: usize = 70;

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// Lines without comments, and without what stands behind `//` in a line.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
    }

    /// The same, without the tests at the end of the file, or if it has nothing else.
    fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_of_tests =
            self.is_below("src") && self.path.iter().any(|part| part == "tests" || part == "tests.rs");
        let tests = self.text.find("#[cfg(test)]\nmod tests {").map(|at| self.text[..at].lines().count());
        self.code().take(if is_of_tests { 0 } else { tests.unwrap_or(usize::MAX) })
    }

    fn is_below(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// The room of `src/` that the file is in.
    fn room(&self) -> Option<&str> {
        let first = self.path.strip_prefix("src").ok()?.iter().next()?.to_str()?;
        let room = first.trim_end_matches(".rs");
        (!["lib", "bin"].contains(&room)).then_some(room)
    }
}

/// All sources of the project, by their paths within it.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["src", "shm", "loom-tests", "tests", "benches", "examples"].map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source is UTF-8");
                let path = path.strip_prefix(root).expect("it lies within").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 40, "the sources were found");
    found
}

/// Whether `word` stands in the line by itself.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside))
}

/// Fails with all complaints at once.
fn complain(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn at(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", source.path.display())
}

#[test]
fn rooms_import_in_one_direction() {
    for (index, (room, imports)) in ROOMS.iter().enumerate() {
        for import in *imports {
            let known = ROOMS[..index].iter().any(|(earlier, _)| earlier == import);
            assert!(known, "{room} may import {import} only if that stands before it in the list");
        }
    }
    let mut complaints = Vec::new();
    for source in sources() {
        let Some(room) = source.room() else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            complaints.push(at(&source, 1, "this room is not in the list"));
            continue;
        };
        for (number, line) in source.shipped() {
            for (start, _) in line.match_indices("crate::") {
                let import: String =
                    line[start + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let is_room = ROOMS.iter().any(|(name, _)| *name == import);
                if is_room && import != room && !allowed.contains(&import.as_str()) {
                    complaints.push(at(&source, number, &format!("{room} imports {import}")));
                }
                if !is_room && source.is_below("src") {
                    complaints.push(at(&source, number, &format!("crate::{import} names no room")));
                }
            }
        }
    }
    complain(complaints);
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let sources = sources();
    let outside =
        sources.iter().filter(|source| !source.is_below("shm") && !source.is_below("tests/support"));
    complain(outside.flat_map(|source| {
        let lines = source.code().filter(|(_, line)| has_word(line, "unsafe") && !line.contains('"'));
        lines.map(|(number, _)| at(source, number, "unsafe code")).collect::<Vec<_>>()
    }));
}

#[test]
fn the_platform_is_named_in_its_rooms() {
    let marks = ["target_os", "target_family", "target_arch", "std::os::", "rustix"];
    let names = |line: &str| {
        let condition = line.contains("cfg") && (has_word(line, "unix") || has_word(line, "windows"));
        // DaemonEye's configuration has a field more there.
        !line.contains("target_os = \"freebsd\"")
            && (condition || marks.iter().any(|mark| line.contains(mark)))
    };
    let sources = sources();
    let outside = sources
        .iter()
        .filter(|source| source.is_below("src") && source.room().is_some_and(|room| room != "sys"));
    complain(outside.flat_map(|source| {
        let lines = source.shipped().filter(|(_, line)| names(line));
        lines.map(|(number, _)| at(source, number, "a condition on the platform")).collect::<Vec<_>>()
    }));
}

#[test]
fn the_codec_alone_names_bincode() {
    let sources = sources();
    let outside = sources
        .iter()
        .filter(|source| source.is_below("src") && source.path != Path::new("src/wire/codec.rs"));
    complain(outside.flat_map(|source| {
        let lines = source.code().filter(|(_, line)| has_word(line, "bincode"));
        lines.map(|(number, _)| at(source, number, "bincode")).collect::<Vec<_>>()
    }));
}

#[test]
fn files_and_functions_stay_small() {
    let mut complaints = Vec::new();
    for source in sources() {
        let code = source.shipped().filter(|(_, line)| !line.trim().is_empty()).count();
        if code > LINES_OF_CODE_MAX {
            complaints.push(at(&source, 1, &format!("{code} lines of code")));
        }
        // The formatter puts a function's end at the indentation of its beginning.
        let mut open: Option<(usize, String)> = None;
        for (number, line) in source.code() {
            let indent = line.len() - line.trim_start().len();
            match &open {
                Some((start, end)) if line.trim_end() == end => {
                    let length = number - start;
                    if length > LINES_OF_FUNCTION_MAX {
                        complaints.push(at(&source, *start, &format!("a function of {length} lines")));
                    }
                    open = None;
                }
                // A declaration, in several lines.
                Some((_, end))
                    if line.starts_with(&end.replace('}', ")")) && line.trim_end().ends_with(';') =>
                {
                    open = None;
                }
                None if has_word(line, "fn") && !line.trim_end().ends_with([';', '}']) => {
                    open = Some((number, format!("{}}}", " ".repeat(indent))));
                }
                _ => {}
            }
        }
    }
    complain(complaints);
}

#[test]
fn each_source_belongs_to_a_module() {
    let sources = sources();
    let declared: BTreeSet<PathBuf> = sources
        .iter()
        .flat_map(|source| {
            let name = source.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let folder = source.path.parent().unwrap_or(Path::new(""));
            let folder = match name {
                "lib" | "main" | "mod" => folder.to_owned(),
                name => folder.join(name),
            };
            let modules = source.code().filter_map(|(_, line)| {
                let declaration = line.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
                declaration.strip_prefix("mod ")?.strip_suffix(';')
            });
            modules
                .flat_map(|name| [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")])
                .collect::<Vec<_>>()
        })
        .collect();
    let roots = ["lib.rs", "main.rs"];
    complain(
        sources.iter().filter(|source| source.is_below("src") || source.is_below("shm/src")).filter_map(
            |source| {
                let root = roots.iter().any(|root| source.path.ends_with(root));
                (!root && !declared.contains(&source.path))
                    .then(|| at(source, 1, "no module of this name is declared"))
            },
        ),
    );
}

/// Names that DaemonEye's code has for what this crate offers it.
const GETTERS_OF_DAEMONEYE: [&str; 5] =
    ["get_access_level", "get_domain", "get_socket_path", "get_subdomain", "get_topic_type"];

#[test]
fn names_say_what_a_thing_is() {
    let vague = ["manager", "helper", "util", "utils", "common", "misc"];
    let sources = sources();
    let shipped = sources.iter().filter(|source| source.is_below("src") || source.is_below("shm/src"));
    complain(shipped.flat_map(|source| {
        let stem = source.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let file = vague.contains(&stem.as_str()).then(|| at(source, 1, "a vague name"));
        let getters = source
            .shipped()
            .filter(|(_, line)| line.contains("fn get_"))
            .filter(|(_, line)| !GETTERS_OF_DAEMONEYE.iter().any(|name| has_word(line, name)))
            .map(|(number, _)| at(source, number, "a getter is named for what it yields"));
        file.into_iter().chain(getters).collect::<Vec<_>>()
    }));
}

/// The lines of a module's own documentation, without their marks.
fn module_documentation(path: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("it is there");
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned()).collect()
}

/// Name and level of each event of the log, but for what is only for who looks for a flaw of ours.
fn logged() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for source in sources().iter().filter(|source| source.is_below("src")) {
        let text: String = source.shipped().map(|(_, line)| format!("{line}\n")).collect();
        for level in ["info", "warn", "error"] {
            for (_, call) in
                text.match_indices(&format!("tracing::{level}!(")).map(|(at, _)| text.split_at(at))
            {
                let name =
                    call.split_once("!(").and_then(|(_, rest)| rest.trim_start().strip_prefix("name: \""));
                let name = name.and_then(|rest| rest.split('"').next());
                let name =
                    name.unwrap_or_else(|| panic!("{}: an event without a name", source.path.display()));
                found.insert((name.to_owned(), level.to_uppercase()));
            }
        }
    }
    found
}

#[test]
fn the_operations_page_has_the_events_of_the_sources() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(page).expect("it is there");
    let (_, tables) = page.split_once("## The log").expect("it has this part");
    let rows = tables.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
    });
    assert_eq!(rows.collect::<BTreeSet<_>>(), logged());
}

#[test]
fn the_memory_page_has_the_byte_map_and_the_invariants_of_the_sources() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/memory.md");
    let page = fs::read_to_string(page).expect("it is there");
    let layout = module_documentation("shm/src/layout.rs").join("\n");
    let maps: Vec<&str> = layout.split("```").filter_map(|part| part.strip_prefix("text\n")).collect();
    assert_eq!(maps.len(), 2, "the segments, and a record");
    for map in maps {
        assert!(page.contains(map), "the page has another map than:\n{map}");
    }
    let front = module_documentation("shm/src/lib.rs");
    let invariants = front.iter().skip_while(|line| !line.starts_with("- **I1**"));
    let invariants: Vec<&str> = invariants.map(String::as_str).take_while(|line| !line.is_empty()).collect();
    assert!(invariants.len() >= 7);
    assert!(page.contains(&invariants.join("\n")), "the page has other invariants");
}

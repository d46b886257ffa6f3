//! `docs/threats.md` and the attacks, line by line.

use std::collections::BTreeSet;
use std::path::Path;

use super::{floods, table};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threats.md");
    std::fs::read_to_string(path).expect("the document is there")
}

/// The attacks that are made whatever rings are made of, and those on sealed memory.
fn attacks_on_sealed_memory() -> BTreeSet<&'static str> {
    let listed =
        [table::AS_PUBLISHER, table::AS_SUBSCRIBER, table::BELLS_AS_PUBLISHER, table::BELLS_AS_SUBSCRIBER];
    let told = [table::DESCRIPTORS, table::KERNEL].concat().into_iter().map(|(name, _)| name);
    let sizes = table::SIZES.iter().map(|(name, ..)| *name);
    let flips = [table::FLIPS_AS_PUBLISHER, table::FLIPS_AS_SUBSCRIBER].concat();
    let listed = listed.concat().into_iter().map(|attack| attack.name);
    let floods = floods::FLOODS.iter().map(|(name, _)| *name);
    let relays = table::RELAYS.iter().map(|(name, _)| *name);
    listed.chain(told).chain(flips).chain(sizes).chain(floods).chain(relays).chain([table::SPOILED]).collect()
}

/// Those on memory with names.
fn attacks_on_named_memory() -> BTreeSet<&'static str> {
    let told = [table::NAMES, table::SWAPPED].concat().into_iter().map(|(name, _)| name);
    let kernel = table::NAMED_KERNEL.iter().map(|(name, ..)| *name);
    let words = [table::THEIRS_AS_PUBLISHER, table::THEIRS_AS_SUBSCRIBER].concat();
    told.chain(kernel).chain(words).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = ["tests", "shm", "src"].map(|folder| root.join(folder)).into();
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(tests_of(&std::fs::read_to_string(path).expect("it is a source")));
            }
        }
    }
    names
}

/// The names of functions that stand behind a mark of a test.
fn tests_of(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            names.extend(rest.split('(').next().map(str::to_owned));
            marked = false;
        }
    }
    names
}

#[test]
fn each_threat_names_what_holds_it_and_each_attack_stands_in_the_document() {
    let (document, tests) = (document(), tests());
    let parts = document.split_once("## The named backing").expect("it has a part of its own");
    for (part, attacks) in [(parts.0, attacks_on_sealed_memory()), (parts.1, attacks_on_named_memory())] {
        let mut missing = attacks.clone();
        let mut rows = 0;
        let is_row = |line: &&str| {
            line.starts_with("| ") && !line.starts_with("| attack") && !line.contains("| | | | |")
        };
        for row in part.lines().filter(is_row) {
            let held = row.trim_end_matches([' ', '|']).rsplit(" | ").next().expect("a row has columns");
            let mut names = quoted(held).peekable();
            assert!(names.peek().is_some(), "nothing holds: {row}");
            for name in names {
                let is_test = tests.contains(name);
                assert!(is_test || attacks.contains(name), "`{name}` is neither a test nor an attack");
                missing.remove(name);
            }
            rows += 1;
        }
        assert!(rows > 20, "the table was found");
        assert!(missing.is_empty(), "attacks that the document does not name: {missing:?}");
    }
}

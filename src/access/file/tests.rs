//! What a file may say, and what it is told if it says something else.

use super::*;
use crate::topic::{Topic, TopicPattern};
use proptest::prelude::*;

/// A row as a file has it, in five lines.
fn row(topics: &str, level: &str, publishers: &str, subscribers: &str) -> String {
    format!(
        "[[row]]\ntopics = {topics:?}\nlevel = {level:?}\npublishers = [{publishers}]\nsubscribers = [{subscribers}]\n"
    )
}

fn restricted(topics: &str) -> String {
    row(topics, "restricted", "'agent'", "'agent'")
}

/// What is wrong with a file of these rows.
fn error(rows: &[String]) -> PolicyError {
    AccessPolicy::from_toml(&format!("defaults = false\n{}", rows.concat())).expect_err("it makes no sense")
}

fn topic(text: &str) -> Topic {
    Topic::new(text).expect("a legal topic")
}

#[test]
fn the_example_is_the_default_table() {
    let example = include_str!("../../../docs/policy.example.toml");
    assert_eq!(AccessPolicy::from_toml(example), Ok(AccessPolicy::default()));
    let below = example.replace("defaults = false", "defaults = true");
    let doubled = AccessPolicy::from_toml(&below).expect("what stands below need not be reached");
    assert_ne!(doubled, AccessPolicy::default());
}

#[test]
fn each_error_is_documented_and_so_is_each_key() {
    let page = include_str!("../../../docs/policy.md");
    for key in ["defaults", "row", "topics", "level", "publishers", "subscribers"] {
        assert!(page.contains(&format!("| `{key}` |")), "{key}");
    }
    // As the derived text has it: the name of the variant comes first.
    let source = include_str!("../file.rs");
    let variants = source.split("pub enum PolicyError {").nth(1).and_then(|rest| rest.split("\n}\n").next());
    let variants = variants.expect("the enum stands above").lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?.strip_suffix(" {")?;
        name.starts_with(char::is_uppercase).then_some(name)
    });
    let variants: Vec<&str> = variants.collect();
    assert!(variants.len() > 10, "{variants:?}");
    for variant in variants {
        assert!(page.contains(&format!("| `{variant}` |")), "{variant}");
    }
}

#[test]
fn rows_of_a_file_stand_above_the_defaults_or_alone() {
    let rows = row("events.process.batch", "restricted", "'agent'", "'foo', 'observers'");
    let above = AccessPolicy::from_toml(&format!("defaults = true\n{rows}")).expect("it makes sense");
    let alone = AccessPolicy::from_toml(&format!("defaults = false\n{rows}")).expect("it makes sense");
    let component = |id| Component::from_client_id(id).expect("a legal id");
    for policy in [&above, &alone] {
        assert!(policy.may_publish(&component("procmond"), &topic("events.process.batch")).is_err());
        assert!(policy.may_subscribe(&component("foo"), &topic("events.process.batch")).is_ok());
        assert!(policy.may_subscribe(&component("exporter"), &topic("events.process.batch")).is_ok());
    }
    assert!(above.may_publish(&component("procmond"), &topic("events.process.start")).is_ok());
    assert!(alone.may_publish(&component("procmond"), &topic("events.process.start")).is_err());
    assert_eq!(AccessPolicy::from_toml("defaults = true"), Ok(AccessPolicy::default()));
}

#[test]
fn a_fault_of_the_text_has_its_line() {
    let fault = |text: &str| AccessPolicy::from_toml(text).expect_err("a fault");
    let PolicyError::Syntax { line, message } = fault("defaults = true\n\n[[row]\n") else {
        panic!("no syntax")
    };
    assert_eq!(line, 3, "{message}");
    assert!(matches!(fault("defaults = true\ndefaults = true"), PolicyError::Syntax { line: 2, .. }));
    assert_eq!(fault(""), PolicyError::MissingKey { line: 1, key: "defaults" });
    let key = "no\u{202e}key".to_owned();
    assert_eq!(
        fault(&format!("defaults = true\n# here\n\"{key}\" = 3")),
        PolicyError::UnknownKey { line: 3, key }
    );
    let expected = "true or false";
    assert_eq!(fault("\ndefaults = 1"), PolicyError::WrongType { line: 2, key: "defaults", expected });
    for rows in ["row = 3", "row = {}", "row = [3]", "row = [[]]"] {
        let fault = fault(&format!("defaults = true\n{rows}"));
        assert!(matches!(fault, PolicyError::WrongType { line: 2, key: "row", .. }), "{rows}: {fault}");
    }
    let long = "#".repeat(POLICY_BYTES_MAX + 1);
    let limit = POLICY_BYTES_MAX;
    assert_eq!(fault(&long), PolicyError::TooLarge { bytes: limit + 1, limit });
}

#[test]
fn a_fault_of_a_row_has_its_line() {
    assert_eq!(error(&["[[row]]\n".into()]), PolicyError::MissingKey { line: 2, key: "topics" });
    let unknown = restricted("a") + "colour = 'red'\n";
    assert_eq!(error(&[unknown]), PolicyError::UnknownKey { line: 7, key: "colour".into() });
    let level = row("a", "Public", "", "'anyone'");
    assert_eq!(error(&[level]), PolicyError::UnknownLevel { line: 4, level: "Public".into() });
    let pattern = |text| match error(&[restricted("x"), restricted(text)]) {
        PolicyError::BadPattern { line: 8, error } => error,
        other => panic!("{text}: {other}"),
    };
    assert_eq!(pattern("a..b"), TopicError::EmptySegment { at: 2 });
    assert_eq!(pattern("a.#.b"), TopicError::RestNotLast { at: 2 });
    assert_eq!(pattern("{self}.b"), TopicError::BadCharacter { character: '{', at: 0 });
    assert!(matches!(pattern("a.b.c.d.{self}"), TopicError::TooManyLevels { .. }), "no topic is so long");
    assert!(matches!(pattern("a.b{self}"), TopicError::WildcardInsideSegment { .. }));
    for (key, text) in
        [("topics", "topics = 3"), ("level", "level = true"), ("publishers", "publishers = 'a'")]
    {
        let complete = restricted("a");
        let others = complete.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n"));
        let fault = error(&[others.collect::<String>() + text]);
        assert!(
            matches!(fault, PolicyError::WrongType { line: 6, key: wrong, .. } if wrong == key),
            "{fault}"
        );
    }
}

#[test]
fn a_fault_of_a_list_has_its_line() {
    let listed = |names: &str| error(&[row("a", "restricted", names, "'agent'")]);
    let PolicyError::BadName { line: 7, name, .. } = listed("'agent',\n\n'Agent'") else {
        panic!("no bad name")
    };
    assert_eq!(name, "Agent");
    let (name, component) = ("procmond-1".to_owned(), "procmond".to_owned());
    assert_eq!(listed("'procmond-1'"), PolicyError::NotAComponent { line: 5, name, component });
    assert_eq!(listed("'foo',\n'foo'"), PolicyError::NameTwice { line: 6, name: "foo".into() });
    assert!(matches!(listed("3"), PolicyError::WrongType { line: 5, key: "publishers", .. }));
    let many: String = (0..=POLICY_NAMES_MAX).map(|n| format!("'n{n}',\n")).collect();
    let (what, limit) = ("names in one list", POLICY_NAMES_MAX);
    assert_eq!(listed(&many), PolicyError::TooMany { line: 5 + limit, what, limit });
    let many: Vec<String> = (0..=POLICY_ROWS_MAX).map(|n| restricted(&format!("a.n{n}"))).collect();
    let (what, limit) = ("rows", POLICY_ROWS_MAX);
    assert_eq!(error(&many), PolicyError::TooMany { line: 2 + 5 * limit, what, limit });
}

#[test]
fn a_row_that_contradicts_itself_is_an_error() {
    assert_eq!(
        error(&[row("a", "restricted", "'anyone'", "'agent'")]),
        PolicyError::AnyonePublishes { line: 5 }
    );
    for (topics, subscribers) in [("a.{self}", "'agent'"), ("a.+", "'{self}'")] {
        let fault = error(&[row(topics, "restricted", "'agent'", subscribers)]);
        assert_eq!(fault, PolicyError::SelfUnbound { line: 3 });
    }
    for (level, subscribers) in
        [("public", "'agent'"), ("public", "'anyone', 'agent'"), ("privileged", "'anyone'"), ("public", "")]
    {
        let fault = error(&[row("a", level, "", subscribers)]);
        assert_eq!(fault, PolicyError::LevelContradicted { line: 4 }, "{level} for {subscribers}");
    }
}

#[test]
fn a_row_that_no_topic_reaches_is_an_error() {
    let hidden =
        |rows: &[&str]| match error(&rows.iter().map(|topics| restricted(topics)).collect::<Vec<_>>()) {
            PolicyError::NeverMatches { line, topics, above } => (line, topics, above),
            other => panic!("{other}"),
        };
    assert_eq!(hidden(&["a.#", "a.b"]), (8, "a.b".into(), 3));
    assert_eq!(hidden(&["a.b", "a.*", "a.+"]), (13, "a.+".into(), 8));
    assert_eq!(hidden(&["a.b.c.d", "a.b.c.d.#"]), (8, "a.b.c.d.#".into(), 3));
    assert_eq!(
        hidden(&["a.b", "a.b.+.#", "a.b.#"]),
        (13, "a.b.#".into(), 8),
        "two rows together decide about all of it"
    );
}

#[test]
fn rows_that_contradict_each_other_are_an_error() {
    let other = |topics| row(topics, "restricted", "'agent'", "'agent', 'foo'");
    let contradiction =
        |line, other, topics: &str| PolicyError::Contradiction { line, other, topics: topics.into() };
    assert_eq!(error(&[restricted("a.b"), other("a.b")]), contradiction(8, 3, "a.b"));
    assert_eq!(error(&[restricted("a.+"), restricted("x"), other("+.b")]), contradiction(13, 3, "a.b"));
    let legal = |rows: &[String]| AccessPolicy::from_toml(&format!("defaults = false\n{}", rows.concat()));
    assert!(legal(&[restricted("a.b"), restricted("a.+"), other("+.b")]).is_ok(), "a closer row settles it");
    assert!(legal(&[restricted("a.+"), restricted("+.b")]).is_ok(), "they say the same");
    assert!(legal(&[restricted("a.b"), other("a.+"), restricted("a.#")]).is_ok(), "each is closer");
    let reordered = row("+.b", "restricted", "'agent'", "'foo', 'agent'");
    assert!(legal(&[other("a.+"), reordered]).is_ok(), "the order of names says nothing");
}

/// Patterns over two names.
fn arb_pattern() -> impl Strategy<Value = TopicPattern> {
    let words = prop::collection::vec(prop::sample::select(&["a", "b", "+"][..]), 1..=4);
    (words, any::<bool>()).prop_map(|(words, open)| {
        TopicPattern::new(&(words.join(".") + if open { ".#" } else { "" })).expect("a legal pattern")
    })
}

#[test]
fn what_is_judged_of_a_table_is_what_its_topics_see() {
    // All topics of two names and one that stands in no row.
    let names = ["a", "b", "new"];
    let mut topics: Vec<String> = names.map(str::to_owned).to_vec();
    let mut last = topics.clone();
    for _ in 1..4 {
        last = last.iter().flat_map(|topic| names.map(|name| format!("{topic}.{name}"))).collect();
        topics.extend(last.iter().cloned());
    }
    let topics: Vec<Topic> = topics.iter().map(|text| topic(text)).collect();
    proptest!(|(patterns in prop::collection::vec((arb_pattern(), any::<bool>()), 1..6))| {
        let rows: Vec<Placed> = patterns.into_iter().enumerate().map(|(line, (pattern, public))| {
            let level = if public { TopicAccessLevel::Public } else { TopicAccessLevel::Restricted };
            let topics = pattern.to_string().into();
            let row = Row { topics, level, publishers: Vec::new().into(), subscribers: Vec::new().into() };
            Placed { line, pattern, row }
        }).collect();
        let first = |topic: &Topic| rows.iter().find(|row| row.pattern.matches(topic));
        let reached = |row: &Placed| topics.iter().any(|topic| first(topic).is_some_and(|it| it.line == row.line));
        // The closest rows of each topic: those that no closer one of its rows lies in.
        let agreed = topics.iter().all(|topic| {
            let of_topic: Vec<&Placed> = rows.iter().filter(|row| row.pattern.matches(topic)).collect();
            let closer = |one: &Placed, other: &Placed| {
                other.pattern.covers(&one.pattern) && !one.pattern.covers(&other.pattern)
            };
            let closest = |row: &&&Placed| !of_topic.iter().any(|other| closer(other, row));
            let mut levels = of_topic.iter().filter(closest).map(|row| row.row.level);
            levels.next().is_none_or(|level| levels.all(|other| other == level))
        });
        let judged = table::check(&rows);
        prop_assert_eq!(judged.is_ok(), rows.iter().all(reached) && agreed, "{:?}", judged);
    });
}

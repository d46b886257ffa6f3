//! The law, checked against a second telling of it: over every pattern and topic of a small alphabet, and
//! over random ones of a large one.

use super::*;
use proptest::prelude::*;

fn topic(text: &str) -> Topic {
    Topic::new(text).expect("a legal topic")
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).expect("a legal pattern")
}

/// The law in seven lines, as the README tells it.
fn naive(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        (["#"], _) | ([], []) => true,
        (["+", pattern @ ..], [_, topic @ ..]) => naive(pattern, topic),
        ([literal, pattern @ ..], [name, topic @ ..]) => literal == name && naive(pattern, topic),
        _ => false,
    }
}

fn naive_on_text(pattern: &str, topic: &str) -> bool {
    let (pattern, topic): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), topic.split('.').collect());
    naive(&pattern, &topic)
}

/// Every row of 1 to 4 segments over `alphabet`.
fn rows(alphabet: &[&str]) -> Vec<String> {
    let mut rows: Vec<String> = alphabet.iter().map(ToString::to_string).collect();
    let mut longest = rows.clone();
    for _ in 1..LEVELS_MAX {
        longest = longest.iter().flat_map(|row| alphabet.iter().map(move |s| format!("{row}.{s}"))).collect();
        rows.extend(longest.iter().cloned());
    }
    rows
}

fn all_topics() -> Vec<Topic> {
    rows(&["a", "b"]).iter().map(|text| topic(text)).collect()
}

/// Every pattern over `a`, `b`, `+` and `#`.
fn all_patterns() -> Vec<TopicPattern> {
    let closed = rows(&["a", "b", "+"]);
    let open = closed.iter().map(|row| format!("{row}.#"));
    closed.iter().cloned().chain(open).chain(["#".to_owned()]).map(|text| pattern(&text)).collect()
}

/// Bit i is set if the pattern matches topic i.
fn matched(pattern: &TopicPattern, topics: &[Topic]) -> u32 {
    topics.iter().enumerate().map(|(i, topic)| u32::from(pattern.matches(topic)) << i).sum()
}

#[test]
fn every_small_pattern_matches_what_the_law_says() {
    let (patterns, topics) = (all_patterns(), all_topics());
    assert_eq!((patterns.len(), topics.len()), (241, 30), "the alphabet is exhausted");
    for pattern in &patterns {
        for topic in &topics {
            let said = naive_on_text(pattern.as_str(), topic.as_str());
            assert_eq!(pattern.matches(topic), said, "{pattern} on {topic}");
        }
    }
}

#[test]
fn every_small_pattern_covers_exactly_what_it_matches() {
    let (patterns, topics) = (all_patterns(), all_topics());
    let sets: Vec<u32> = patterns.iter().map(|pattern| matched(pattern, &topics)).collect();
    for (wide, wide_set) in patterns.iter().zip(&sets) {
        assert_ne!(*wide_set, 0, "{wide} matches something");
        for (narrow, narrow_set) in patterns.iter().zip(&sets) {
            assert_eq!(wide.covers(narrow), narrow_set & !wide_set == 0, "{wide} covers {narrow}");
        }
    }
}

#[test]
fn every_small_intersection_is_one_legal_pattern_or_empty() {
    let (patterns, topics) = (all_patterns(), all_topics());
    let sets: Vec<u32> = patterns.iter().map(|pattern| matched(pattern, &topics)).collect();
    for (left, left_set) in patterns.iter().zip(&sets) {
        for (right, right_set) in patterns.iter().zip(&sets) {
            let both = left.intersect(right);
            let both_set = both.as_ref().map_or(0, |both| matched(both, &topics));
            assert_eq!(both_set, left_set & right_set, "{left} and {right} give {both:?}");
            let Some(both) = both else { continue };
            assert_eq!(TopicPattern::new(both.as_str()), Ok(both), "a legal pattern");
        }
    }
}

#[test]
fn an_intersection_keeps_upper_case_in_the_last_segment() {
    let id = pattern("+.+.ID-7");
    assert_eq!(id.intersect(&pattern("a.#")), Some(pattern("a.+.ID-7")));
    assert_eq!(id.intersect(&pattern("a.b.+.#")), Some(pattern("a.b.ID-7")));
    assert_eq!(id.intersect(&pattern("a.b.id-7.#")), None);
}

#[test]
fn a_star_is_a_plus() {
    let star = pattern("events.*.*");
    assert_eq!(star, pattern("events.+.+"));
    assert_eq!(star.to_string(), "events.+.+");
    assert!(star.matches(&topic("events.process.start")), "the old documentation's idiom works");
}

#[test]
fn a_topic_is_the_pattern_of_itself() {
    let batch = topic("events.process.batch");
    let literal = TopicPattern::from(batch.clone());
    assert!(literal.is_literal() && literal.matches(&batch));
    assert!(!pattern("events.+").is_literal() && !pattern("events.#").is_literal());
}

#[test]
fn the_longest_legal_texts_are_legal() {
    let segment = "x".repeat(SEGMENT_BYTES_MAX);
    let longest = [segment.as_str(); LEVELS_MAX].join(".");
    assert_eq!(longest.len(), TOPIC_BYTES_MAX);
    let open = pattern(&format!("{longest}.#"));
    assert_eq!(open.as_str().len(), PATTERN_BYTES_MAX);
    assert!(open.matches(&topic(&longest)));
}

#[test]
fn texts_are_read_and_written_alike() {
    let parsed: Topic = "events.process".parse().expect("a legal topic");
    assert_eq!((parsed.as_ref(), parsed.to_string().as_str()), ("events.process", "events.process"));
    let parsed: TopicPattern = "events.#".parse().expect("a legal pattern");
    assert_eq!((parsed.as_ref(), parsed.to_string().as_str()), ("events.#", "events.#"));
    assert_eq!(format!("{:>9}|{:<9}|", topic("a.b"), pattern("a.#")), "      a.b|a.#      |");
}

#[test]
fn each_fault_of_a_topic_has_its_error() {
    let long = "x".repeat(SEGMENT_BYTES_MAX + 1);
    let huge = "+".repeat(1 << 20);
    let faults = [
        ("", TopicError::Empty),
        (&huge, TopicError::TooLong { bytes: 1 << 20, bytes_max: 259 }),
        ("a.b.c.d.e", TopicError::TooManyLevels { levels: 5 }),
        (".a", TopicError::EmptySegment { at: 0 }),
        ("a..b", TopicError::EmptySegment { at: 2 }),
        ("a.b.", TopicError::EmptySegment { at: 4 }),
        (&long, TopicError::SegmentTooLong { bytes: 65, at: 0 }),
        ("a.b c", TopicError::BadCharacter { character: ' ', at: 3 }),
        ("a.é", TopicError::BadCharacter { character: 'é', at: 2 }),
        ("a.B.c", TopicError::BadCharacter { character: 'B', at: 2 }),
        ("a.+", TopicError::WildcardInTopic { wildcard: '+', at: 2 }),
        ("a.b*", TopicError::WildcardInTopic { wildcard: '*', at: 3 }),
        ("#", TopicError::WildcardInTopic { wildcard: '#', at: 0 }),
    ];
    for (text, error) in faults {
        assert_eq!(Topic::new(text), Err(error), "{text:.20}");
    }
}

#[test]
fn each_fault_of_a_pattern_has_its_error() {
    let huge = "#".repeat(1 << 20);
    let faults = [
        ("", TopicError::Empty),
        (huge.as_str(), TopicError::TooLong { bytes: 1 << 20, bytes_max: 261 }),
        ("+.+.+.+.+", TopicError::TooManyLevels { levels: 5 }),
        ("a.b.c.d.e.#", TopicError::TooManyLevels { levels: 5 }),
        (".#", TopicError::EmptySegment { at: 0 }),
        ("a.+.", TopicError::EmptySegment { at: 4 }),
        ("a.B.+", TopicError::BadCharacter { character: 'B', at: 2 }),
        ("a.B.#", TopicError::BadCharacter { character: 'B', at: 2 }),
        ("a.b+", TopicError::WildcardInsideSegment { wildcard: '+', at: 3 }),
        ("**", TopicError::WildcardInsideSegment { wildcard: '*', at: 0 }),
        ("a.##", TopicError::WildcardInsideSegment { wildcard: '#', at: 2 }),
        ("a.#.b", TopicError::RestNotLast { at: 2 }),
        ("#.#", TopicError::RestNotLast { at: 0 }),
    ];
    for (text, error) in faults {
        assert_eq!(TopicPattern::new(text), Err(error), "{text:.20}");
    }
}

#[test]
fn an_error_says_what_happened_and_what_is_allowed() {
    let said = |text: &str| TopicPattern::new(text).expect_err("a fault").to_string();
    assert_eq!(said("a.b.c.d.e"), "5 levels: at most 4 are allowed, and `#` after them in a pattern");
    assert_eq!(
        said("a.\n"),
        "'\\n' at byte 2: a segment is made of a-z, 0-9, `_` and `-`, the last one also of A-Z"
    );
    assert_eq!(said("a.b+"), "`+` at byte 3 is part of a segment: a wildcard stands alone between dots");
}

fn arb_name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]", 1 => "[a-z0-9_-]{1,64}"]
}

fn arb_topic() -> impl Strategy<Value = String> {
    prop::collection::vec(arb_name(), 1..=LEVELS_MAX).prop_map(|names| names.join("."))
}

fn arb_pattern() -> impl Strategy<Value = String> {
    let segment = prop_oneof![2 => arb_name(), 1 => Just("+".to_owned()), 1 => Just("*".to_owned())];
    (prop::collection::vec(segment, 1..=LEVELS_MAX), any::<bool>())
        .prop_map(|(segments, open)| segments.join(".") + if open { ".#" } else { "" })
}

proptest! {
    #[test]
    fn any_text_is_refused_or_read_back_as_itself(text in ".{0,300}|[ab+*#.]{0,12}|[a-cX.]{1,12}") {
        if let Ok(parsed) = Topic::new(&text) {
            prop_assert_eq!(parsed.as_str(), &text);
            prop_assert!(TopicPattern::new(&text).is_ok(), "each topic is a pattern");
        }
        if let Ok(parsed) = TopicPattern::new(&text) {
            prop_assert_eq!(TopicPattern::new(parsed.as_str()), Ok(parsed.clone()));
            prop_assert_eq!(parsed.is_literal(), Topic::new(&text).is_ok());
        }
    }

    #[test]
    fn patterns_agree_with_the_law(left in arb_pattern(), right in arb_pattern(), name in arb_topic()) {
        let (left, right, name) = (pattern(&left), pattern(&right), topic(&name));
        let (in_left, in_right) = (left.matches(&name), right.matches(&name));
        prop_assert_eq!(in_left, naive_on_text(left.as_str(), name.as_str()));
        prop_assert!(!(left.covers(&right) && in_right && !in_left));
        let both = left.intersect(&right);
        prop_assert_eq!(both.as_ref().is_some_and(|both| both.matches(&name)), in_left && in_right);
        prop_assert_eq!(both.clone(), right.intersect(&left));
        prop_assert!(both.is_none_or(|both| left.covers(&both) && right.covers(&both)));
    }
}

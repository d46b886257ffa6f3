//! The compiled table against the law, told a second time: every small pattern and topic, and random ones of a large alphabet.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::topic::{Topic, TopicPattern};

/// The law in ten lines. The pattern is a legal one.
fn naive(pattern: &str, topic: &str) -> bool {
    fn matches(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            (["#"], _) | ([], []) => true,
            (["+" | "*", pattern @ ..], [_, topic @ ..]) => matches(pattern, topic),
            ([literal, pattern @ ..], [name, topic @ ..]) => literal == name && matches(pattern, topic),
            _ => false,
        }
    }
    matches(&pattern.split('.').collect::<Vec<_>>(), &topic.split('.').collect::<Vec<_>>())
}

/// Every row of 1 to `longest` segments over `alphabet`.
fn rows(alphabet: &[&str], longest: usize) -> Vec<String> {
    let mut rows: Vec<String> = alphabet.iter().map(ToString::to_string).collect();
    let mut last = rows.clone();
    for _ in 1..longest {
        last = last.iter().flat_map(|row| alphabet.iter().map(move |s| format!("{row}.{s}"))).collect();
        rows.extend(last.iter().cloned());
    }
    rows
}

fn topics(texts: &[String]) -> Vec<Topic> {
    texts.iter().map(|text| Topic::new(text).expect("a legal topic")).collect()
}

/// The table of these topics over a trie.
fn compiled(trie: &Trie<usize>, topics: &[Topic]) -> RoutingTable<usize> {
    let routes = topics.iter().enumerate().map(|(nth, topic)| (TopicId::nth(nth), trie.matching(topic)));
    RoutingTable::build(1, routes)
}

/// Of each topic the patterns, by number, that the law gives it.
fn by_the_law(patterns: &[Option<&String>], topic: &Topic) -> Vec<usize> {
    let matches = |number: &usize| patterns[*number].is_some_and(|pattern| naive(pattern, topic.as_str()));
    (0..patterns.len()).filter(matches).collect()
}

#[test]
fn a_table_routes_each_topic_to_the_patterns_that_match_it() {
    let patterns =
        ["events.#", "events.process.+", "events.+.anomaly", "control.#", "events.process.batch", "#"];
    let patterns = patterns.map(|text| TopicPattern::new(text).expect("a legal pattern"));
    let mut trie = Trie::default();
    for (key, pattern) in patterns.iter().enumerate() {
        trie.insert(pattern, key);
    }
    let topics = ["events.process.batch", "events.network.anomaly", "events", "control.shutdown", "alerts"];
    let topics = topics.map(|text| Topic::new(text).expect("a legal topic"));

    let table = compiled(&trie, &topics);

    for (nth, topic) in topics.iter().enumerate() {
        let id = TopicId::nth(nth);
        let expected: Vec<usize> = (0..patterns.len()).filter(|&key| patterns[key].matches(topic)).collect();
        assert_eq!(table.targets(id), expected, "{topic}");
    }
}

#[test]
fn the_table_of_every_small_pattern_is_what_the_law_says() {
    // Four segments of each, and the `#` that a pattern may have behind them.
    let texts = rows(&["a", "b", "+", "#", "*"], 4);
    let longest = texts.iter().filter(|text| text.split('.').count() == 4).map(|text| format!("{text}.#"));
    let texts: Vec<String> = texts.iter().cloned().chain(longest).collect();
    assert_eq!(texts.len(), 5 + 25 + 125 + 625 + 625, "the alphabet is exhausted");
    let is_legal = |text: &String| !text.split('.').rev().skip(1).any(|segment| segment == "#");
    let legal: Vec<Option<&String>> = texts.iter().map(|text| is_legal(text).then_some(text)).collect();
    let topics = topics(&rows(&["a", "b"], 4));
    assert_eq!(topics.len(), 30);

    let mut trie = Trie::default();
    for (number, (text, legal)) in texts.iter().zip(&legal).enumerate() {
        let pattern = TopicPattern::new(text);
        assert_eq!(pattern.is_ok(), legal.is_some(), "{text}");
        if let Ok(pattern) = pattern {
            trie.insert(&pattern, number);
        }
    }
    let table = compiled(&trie, &topics);

    for (nth, topic) in topics.iter().enumerate() {
        assert_eq!(table.targets(TopicId::nth(nth)), by_the_law(&legal, topic), "{topic}");
    }
}

#[test]
fn no_row_with_a_wildcard_is_a_topic() {
    for text in rows(&["a", "b", "+", "#", "*"], 4) {
        assert_eq!(Topic::new(&text).is_ok(), !text.contains(['+', '#', '*']), "{text}");
    }
}

/// Segments that differ little, long ones, and ids.
const WORDS: &[&str] = &["a", "b", "aa", "a-b", "a_b", "0", "process", "processes", "anomaly"];
const LAST: &[&str] = &["a", "b", "aa", "procmond-7F", "A", "anomaly", "x0123456789"];

fn arb_topic() -> impl Strategy<Value = String> {
    (vec(select(WORDS), 0..=3), select(LAST))
        .prop_map(|(words, last)| words.into_iter().chain([last]).collect::<Vec<_>>().join("."))
}

fn arb_pattern() -> impl Strategy<Value = String> {
    let wild = prop_oneof![3 => select(WORDS), 1 => Just("+"), 1 => Just("*")];
    let last = prop_oneof![2 => select(LAST), 1 => Just("+"), 2 => Just("#")];
    let text = (vec(wild, 0..=3), last, any::<bool>());
    text.prop_map(|(words, last, open)| {
        let text = words.into_iter().chain([last]).collect::<Vec<_>>().join(".");
        if open && last == "+" { text + ".#" } else { text }
    })
}

proptest! {
    #[test]
    fn the_table_is_what_the_law_says_after_any_changes(
        asked in vec(arb_pattern(), 0..60),
        left in vec(any::<bool>(), 60),
        named in vec(arb_topic(), 1..20),
    ) {
        let mut trie = Trie::default();
        let pattern = |text: &String| TopicPattern::new(text).expect("a legal pattern");
        for (number, text) in asked.iter().enumerate() {
            trie.insert(&pattern(text), number);
        }
        let mut kept: Vec<Option<&String>> = asked.iter().map(Some).collect();
        for (number, text) in asked.iter().enumerate().filter(|(number, _)| left[*number]) {
            prop_assert!(trie.remove(&pattern(text), &number));
            kept[number] = None;
        }
        let topics = topics(&named);
        let table = compiled(&trie, &topics);
        for (nth, topic) in topics.iter().enumerate() {
            prop_assert_eq!(table.targets(TopicId::nth(nth)), by_the_law(&kept, topic), "{}", topic);
        }
    }
}

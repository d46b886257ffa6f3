//! The patterns of all subscriptions, one level per segment.
//!
//! Invariant: no node is empty but the root. So what was removed leaves nothing behind.
//!
//! A path is as deep as a pattern is long: four fixed segments at most (see `topic`), so neither removing a
//! pattern nor dropping a trie recurses deeper than that, whatever a peer subscribes to.

use std::collections::{BTreeMap, BTreeSet};

use crate::topic::{Segment, Topic, TopicPattern};

/// Keys by the pattern that each stands for. A key may stand for several patterns.
#[derive(Debug)]
pub(crate) struct Trie<K> {
    root: Node<K>,
}

/// What is known of the patterns that begin alike.
#[derive(Debug)]
struct Node<K> {
    /// The patterns that go on with a literal.
    literals: BTreeMap<Box<str>, Self>,
    /// The patterns that go on with `+`.
    one: Option<Box<Self>>,
    /// Keys of the pattern that ends here.
    closed: BTreeSet<K>,
    /// Keys of the pattern that ends here with `#`.
    open: BTreeSet<K>,
}

impl<K> Default for Trie<K> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<K> Default for Node<K> {
    fn default() -> Self {
        Self { literals: BTreeMap::new(), one: None, closed: BTreeSet::new(), open: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Trie<K> {
    /// Whether it holds no pattern.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Lets `key` stand for `pattern`. To do so twice changes nothing.
    pub(crate) fn insert(&mut self, pattern: &TopicPattern, key: K) {
        let mut node = &mut self.root;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Literal(literal) => node.literals.entry(literal.into()).or_default(),
                Segment::One => node.one.get_or_insert_default(),
                Segment::Rest => {
                    node.open.insert(key);
                    return;
                }
            };
        }
        node.closed.insert(key);
    }

    /// Lets `key` no longer stand for `pattern`; whether it did. A pattern is known by its spelling: `#` and
    /// `+.#` are two.
    pub(crate) fn remove(&mut self, pattern: &TopicPattern, key: &K) -> bool {
        self.root.remove(&mut pattern.segments(), key)
    }

    /// The keys of the patterns that match `topic`, sorted, each once.
    pub(crate) fn matching(&self, topic: &Topic) -> Vec<K> {
        let mut found: Vec<K> = self.sets_matching(topic).into_iter().flatten().copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The keys of each pattern that matches `topic`: for who is not to look at all of them.
    pub(crate) fn sets_matching(&self, topic: &Topic) -> Vec<&BTreeSet<K>> {
        let mut found = Vec::new();
        // The nodes that the segments so far lead to: at most 2, 4, 8, 16.
        let mut level = vec![&self.root];
        for segment in topic.segments() {
            let mut below = Vec::with_capacity(2 * level.len());
            for node in level {
                found.push(&node.open);
                below.extend(node.literals.get(segment));
                below.extend(node.one.as_deref());
            }
            level = below;
        }
        for node in level {
            found.extend([&node.open, &node.closed]);
        }
        found.retain(|keys| !keys.is_empty());
        found
    }
}

impl<K: Copy + Ord> Node<K> {
    /// Removes the key of the pattern that goes on with `segments`, and then the nodes that it leaves empty.
    fn remove<'a>(&mut self, segments: &mut impl Iterator<Item = Segment<'a>>, key: &K) -> bool {
        match segments.next() {
            None => self.closed.remove(key),
            Some(Segment::Rest) => self.open.remove(key),
            Some(Segment::One) => {
                let Some(below) = &mut self.one else { return false };
                let removed = below.remove(segments, key);
                self.one.take_if(|below| below.is_empty());
                removed
            }
            Some(Segment::Literal(literal)) => {
                let Some(below) = self.literals.get_mut(literal) else { return false };
                let removed = below.remove(segments, key);
                if below.is_empty() {
                    self.literals.remove(literal);
                }
                removed
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.one.is_none() && self.closed.is_empty() && self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(text: &str) -> Topic {
        Topic::new(text).expect("a legal topic")
    }

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::new(text).expect("a legal pattern")
    }

    #[test]
    fn a_key_of_several_matching_patterns_is_found_once_and_in_order() {
        let mut trie = Trie::default();
        for (text, key) in
            [("events.#", 9), ("events.+", 3), ("+.process", 9), ("events.process", 1), ("#", 3)]
        {
            trie.insert(&pattern(text), key);
        }
        assert_eq!(trie.matching(&topic("events.process")), [1, 3, 9]);
        assert_eq!(trie.matching(&topic("control.process")), [3, 9]);
    }

    #[test]
    fn an_open_end_matches_zero_segments_too() {
        let mut trie = Trie::default();
        trie.insert(&pattern("a.b.#"), 1);
        assert_eq!(trie.matching(&topic("a.b")), [1]);
        assert_eq!(trie.matching(&topic("a.b.c.d")), [1]);
        assert_eq!(trie.matching(&topic("a")), [0; 0]);
    }

    #[test]
    fn what_was_removed_leaves_nothing_behind() {
        let patterns = ["a.b.c.d.#", "a.b.c.d", "a.+.c", "+.+.+.+.#", "#", "a"].map(pattern);
        let mut trie = Trie::default();
        for pattern in &patterns {
            trie.insert(pattern, 1);
            trie.insert(pattern, 1);
            trie.insert(pattern, 2);
        }
        for pattern in &patterns {
            assert!(trie.remove(pattern, &1) && trie.remove(pattern, &2));
            assert!(!trie.remove(pattern, &1), "{pattern} was removed once");
        }
        assert!(trie.root.is_empty(), "{trie:?}");
    }

    #[test]
    fn removing_what_is_not_there_touches_nothing() {
        let mut trie = Trie::default();
        trie.insert(&pattern("a.+.c"), 1);
        for stranger in ["a", "a.+", "a.+.#", "a.+.c.#", "a.b.c", "+", "a.+.d"] {
            assert!(!trie.remove(&pattern(stranger), &1), "{stranger}");
        }
        assert!(!trie.remove(&pattern("a.+.c"), &2), "another key");
        assert_eq!(trie.matching(&topic("a.b.c")), [1]);
    }

    fn arb_pattern() -> impl Strategy<Value = TopicPattern> {
        ("[ab+]([.][ab+]){0,3}([.]#)?|#").prop_map(|text| pattern(&text))
    }

    fn arb_topic() -> impl Strategy<Value = Topic> {
        "[abc]([.][abc]){0,3}".prop_map(|text| topic(&text))
    }

    proptest! {
        #[test]
        fn a_trie_finds_what_matches_after_any_inserts_and_removals(
            steps in prop::collection::vec((any::<bool>(), arb_pattern(), 0..4_u8), 0..60),
            topics in prop::collection::vec(arb_topic(), 1..10),
        ) {
            let (mut trie, mut model) = (Trie::default(), BTreeSet::new());
            for (insert, pattern, key) in steps {
                if insert {
                    trie.insert(&pattern, key);
                    model.insert((pattern, key));
                } else {
                    prop_assert_eq!(trie.remove(&pattern, &key), model.remove(&(pattern, key)));
                }
            }
            for topic in topics {
                let matching = model.iter().filter(|(pattern, _)| pattern.matches(&topic));
                let keys: BTreeSet<u8> = matching.map(|&(_, key)| key).collect();
                prop_assert_eq!(trie.matching(&topic), keys.into_iter().collect::<Vec<_>>());
            }
            for (pattern, key) in model {
                prop_assert!(trie.remove(&pattern, &key));
            }
            prop_assert!(trie.root.is_empty());
        }
    }
}

//! Subscribers by name, found by the trie that routes events.

use std::collections::BTreeMap;

use crate::routing::Trie;
use crate::topic::{Topic, TopicError, TopicPattern};

/// Which subscribers a topic has: names, by the patterns that they have subscribed to.
///
/// What is found takes at most 31 steps, however many patterns there are. It knows no rights: [`TopicRegistry`](super::TopicRegistry) does.
///
/// ```
/// use daemoneye_eventbus::topics::TopicMatcher;
///
/// let mut matcher = TopicMatcher::new();
/// matcher.subscribe("events.process.#", &"detector")?;
/// matcher.subscribe("events.+.anomaly", &"pager")?;
/// assert_eq!(matcher.find_subscribers("events.process.anomaly")?, ["detector", "pager"]);
/// assert!(matcher.unsubscribe("events.process.#", &"detector")?);
/// assert_eq!(matcher.find_subscribers("events.process.anomaly")?, ["pager"]);
/// # Ok::<(), daemoneye_eventbus::TopicError>(())
/// ```
#[derive(Debug, Default)]
pub struct TopicMatcher {
    trie: Trie<u64>,
    /// The subscribers that have a pattern, and those patterns.
    subscribers: BTreeMap<u64, (String, Vec<TopicPattern>)>,
    numbers: BTreeMap<String, u64>,
    next: u64,
}

impl TopicMatcher {
    /// Without subscribers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a subscriber have what a pattern matches. Done twice, it changes nothing.
    ///
    /// # Errors
    /// [`TopicError`] if the text is no pattern.
    pub fn subscribe(&mut self, pattern: &str, subscriber: &impl ToString) -> Result<(), TopicError> {
        let pattern = TopicPattern::new(pattern)?;
        let name = subscriber.to_string();
        let number = *self.numbers.entry(name.clone()).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        let (_, patterns) = self.subscribers.entry(number).or_insert_with(|| (name, Vec::new()));
        if !patterns.contains(&pattern) {
            self.trie.insert(&pattern, number);
            patterns.push(pattern);
        }
        Ok(())
    }

    /// Takes a pattern from a subscriber; whether it had it. `*` and `+` are the same, but `#` and `+.#` are two patterns.
    ///
    /// # Errors
    /// [`TopicError`] if the text is no pattern.
    pub fn unsubscribe(&mut self, pattern: &str, subscriber: &impl ToString) -> Result<bool, TopicError> {
        let pattern = TopicPattern::new(pattern)?;
        let name = subscriber.to_string();
        let Some(number) = self.numbers.get(&name).copied() else { return Ok(false) };
        let removed = self.trie.remove(&pattern, &number);
        let is_last = self.subscribers.get_mut(&number).is_some_and(|(_, patterns)| {
            patterns.retain(|other| *other != pattern);
            patterns.is_empty()
        });
        if is_last {
            self.subscribers.remove(&number);
            self.numbers.remove(&name);
        }
        Ok(removed)
    }

    /// The names of those who have a pattern that matches the topic, each once, in the order in which they came.
    ///
    /// # Errors
    /// [`TopicError`] if the text is no topic.
    pub fn find_subscribers(&self, topic: &str) -> Result<Vec<String>, TopicError> {
        let numbers = self.trie.matching(&Topic::new(topic)?);
        let name = |number| self.subscribers.get(&number).map(|(name, _)| name.clone());
        Ok(numbers.into_iter().filter_map(name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_of_two_matching_patterns_is_found_once() {
        let mut matcher = TopicMatcher::new();
        for pattern in ["#", "+.#", "events.*", "events.+", "events.a"] {
            matcher.subscribe(pattern, &7).expect("a legal pattern");
        }
        assert_eq!(matcher.find_subscribers("events.a").as_deref(), Ok(&["7".to_owned()][..]));
    }

    #[test]
    fn who_has_left_leaves_nothing_behind() {
        let mut matcher = TopicMatcher::new();
        for name in ["a", "b"] {
            matcher.subscribe("events.#", &name).expect("a legal pattern");
            matcher.subscribe("events.+", &name).expect("a legal pattern");
        }
        assert_eq!(matcher.unsubscribe("events.*", &"a"), Ok(true));
        assert_eq!(matcher.unsubscribe("events.+", &"a"), Ok(false), "it is gone");
        assert_eq!(matcher.unsubscribe("alerts.#", &"a"), Ok(false), "it never was");
        assert_eq!(matcher.unsubscribe("events.#", &"stranger"), Ok(false));
        assert_eq!(matcher.find_subscribers("events.x").map(|found| found.len()), Ok(2));
        assert_eq!(matcher.unsubscribe("events.#", &"a"), Ok(true));
        assert_eq!(matcher.unsubscribe("events.#", &"b"), Ok(true));
        assert_eq!(matcher.unsubscribe("events.+", &"b"), Ok(true));
        assert!(matcher.trie.is_empty() && matcher.subscribers.is_empty() && matcher.numbers.is_empty());
    }

    #[test]
    fn what_is_no_pattern_or_topic_changes_nothing() {
        let mut matcher = TopicMatcher::new();
        assert_eq!(matcher.subscribe("a.#.b", &"x"), Err(TopicError::RestNotLast { at: 2 }));
        assert_eq!(matcher.unsubscribe("", &"x"), Err(TopicError::Empty));
        assert!(matcher.find_subscribers("events.+").is_err());
        assert!(matcher.trie.is_empty() && matcher.numbers.is_empty());
    }
}

//! Topics, and pairs of patterns, of whatever text: what is legal reads back as it was, and the answers about two patterns agree with
//! those about each topic.

#![no_main]

use daemoneye_eventbus::{Component, Topic, TopicPattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut parts = text.split('\n');
    let mut next = || parts.next().unwrap_or_default();
    let (name, one, other) = (next(), next(), next());
    if let Ok(component) = Component::from_client_id(name) {
        assert!(name.starts_with(component.as_str()));
        let as_topic = Topic::new(&format!("a.{name}"));
        assert!(as_topic.is_ok(), "each id may be the last segment of a topic");
    }
    let topic = Topic::new(name);
    if let Ok(topic) = &topic {
        assert_eq!(topic.as_str(), name);
        assert!((1..=4).contains(&topic.segments().count()));
        assert!(TopicPattern::new(name).is_ok_and(|pattern| pattern.is_literal() && pattern.matches(topic)));
    }
    let (Ok(one), Ok(other)) = (TopicPattern::new(one), TopicPattern::new(other)) else { return };
    assert_eq!(TopicPattern::new(one.as_str()).as_ref(), Ok(&one), "what is legal reads back");
    let both = one.intersect(&other);
    assert_eq!(both.is_some(), other.intersect(&one).is_some());
    if let Some(both) = &both {
        assert_eq!(TopicPattern::new(both.as_str()).as_ref(), Ok(both), "a legal pattern");
        assert!(one.covers(both) && other.covers(both));
    }
    assert_eq!(one.covers(&other), both.as_ref().is_some_and(|both| both.covers(&other)));
    if let Ok(topic) = &topic {
        let matched = both.is_some_and(|both| both.matches(topic));
        assert_eq!(matched, one.matches(topic) && other.matches(topic), "{one} and {other}");
        assert!(!one.covers(&other) || !other.matches(topic) || one.matches(topic));
    }
});

//! Topics by name, and what can be asked about them by their spelling: constants, builders, the hierarchy, a registry, a matcher.
//!
//! All of it is thin: names and levels come from the topic table, rights from [`AccessPolicy`](crate::AccessPolicy), matching from the trie that routes
//! events. A topic needs no name here to exist.
//!
//! ```
//! use daemoneye_eventbus::topics;
//!
//! assert_eq!(topics::health::HEARTBEAT, "control.health.heartbeat");
//! assert_eq!(topics::heartbeat_topic("procmond")?.as_str(), "control.health.heartbeat.procmond");
//! assert!(topics::all_topics().any(|topic| topic == topics::process::BATCH));
//! # Ok::<(), daemoneye_eventbus::TopicError>(())
//! ```

use crate::hierarchy::names::NAMED;
pub use crate::hierarchy::names::{
    agent, collector, filesystem, health, network, performance, process, shutdown, trigger,
};
use crate::topic::{Topic, TopicError};

mod builder;
mod hierarchy;
mod matcher;
mod registry;

pub use builder::TopicBuilder;
pub use hierarchy::{TopicDomain, TopicHierarchy};
pub use matcher::TopicMatcher;
pub use registry::TopicRegistry;

/// All topics that have a name, events first.
pub fn all_topics() -> impl ExactSizeIterator<Item = &'static str> + Clone {
    NAMED.iter().map(|(topic, _)| *topic)
}

/// Where one collector's tasks are: `control.collector.task.{id}`.
///
/// # Errors
/// [`TopicError`] if the id can't be the last segment of a topic; a dot in it is none of its characters.
pub fn task_topic(collector_id: &str) -> Result<Topic, TopicError> {
    of_one(collector::TASK, collector_id)
}

/// Where one collector is told to start, stop or restart: `control.collector.lifecycle.{id}`.
///
/// # Errors
/// As [`task_topic`].
pub fn lifecycle_topic(collector_id: &str) -> Result<Topic, TopicError> {
    of_one(collector::LIFECYCLE, collector_id)
}

/// Where one collector's configuration is: `control.collector.config.{id}`.
///
/// # Errors
/// As [`task_topic`].
pub fn config_topic(collector_id: &str) -> Result<Topic, TopicError> {
    of_one(collector::CONFIG, collector_id)
}

/// Where one component says that it is alive: `control.health.heartbeat.{id}`.
///
/// # Errors
/// As [`task_topic`].
pub fn heartbeat_topic(component_id: &str) -> Result<Topic, TopicError> {
    of_one(health::HEARTBEAT, component_id)
}

/// Where one component is told to end: `control.shutdown.{id}`.
///
/// # Errors
/// As [`task_topic`].
pub fn shutdown_topic(component_id: &str) -> Result<Topic, TopicError> {
    of_one(shutdown::BROADCAST, component_id)
}

fn of_one(topic: &str, id: &str) -> Result<Topic, TopicError> {
    topic.split('.').fold(TopicBuilder::empty(), TopicBuilder::segment).segment(id).build_validated()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{AccessPolicy, Component};

    #[test]
    fn what_is_for_one_is_for_it_alone_and_within_four_levels() {
        type OfOne = fn(&str) -> Result<Topic, TopicError>;
        let told: [OfOne; 4] = [task_topic, lifecycle_topic, config_topic, shutdown_topic];
        let component = |id: &str| Component::from_client_id(id).expect("a legal id");
        let (policy, agent, netmond) = (AccessPolicy::default(), component("agent"), component("netmond"));
        let procmond = component("procmond-7F");
        for of_one in told {
            let topic = of_one("procmond-7F").expect("a legal topic");
            assert!(topic.segments().count() <= 4, "{topic}");
            assert_eq!(policy.may_publish(&agent, &topic), Ok(()));
            assert_eq!(policy.may_subscribe(&procmond, &topic), Ok(()));
            assert!(policy.may_subscribe(&netmond, &topic).is_err(), "{topic}");
            assert!(policy.may_publish(&netmond, &topic).is_err(), "{topic}");
        }
        let topic = heartbeat_topic("procmond-7F").expect("a legal topic");
        assert_eq!(policy.may_publish(&procmond, &topic), Ok(()));
        assert!(policy.may_publish(&netmond, &topic).is_err());
    }

    #[test]
    fn an_id_that_is_no_segment_is_refused() {
        assert_eq!(task_topic(""), Err(TopicError::EmptySegment { at: 23 }));
        assert_eq!(task_topic("a.b"), Err(TopicError::BadCharacter { character: '.', at: 24 }));
        assert_eq!(shutdown_topic("+"), Err(TopicError::WildcardInTopic { wildcard: '+', at: 17 }));
        let long = "x".repeat(65);
        assert_eq!(config_topic(&long), Err(TopicError::SegmentTooLong { bytes: 65, at: 25 }));
        let ids = ["#", "*", "a b", "é", "\0"];
        assert!(ids.iter().all(|id| heartbeat_topic(id).is_err()));
    }
}

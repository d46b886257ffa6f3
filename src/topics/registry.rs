//! Rights by name.

use crate::access::{AccessPolicy, Component};
use crate::hierarchy::TopicAccessLevel;
use crate::topic::Topic;

/// Who may publish and subscribe to what, asked by names. A face of [`AccessPolicy`]: nobody registers here for a right, and a right that a broker
/// grants is in its policy.
///
/// ```
/// use daemoneye_eventbus::topics::{self, TopicRegistry};
/// use daemoneye_eventbus::{Topic, TopicAccessLevel};
///
/// let registry = TopicRegistry::new();
/// assert!(registry.can_publish("procmond", topics::process::BATCH));
/// assert!(!registry.can_publish("stranger", topics::process::BATCH));
/// assert!(registry.can_subscribe("detector", &Topic::new(topics::process::BATCH)?));
/// assert_eq!(registry.get_access_level(topics::agent::POLICY), Some(TopicAccessLevel::Privileged));
/// # Ok::<(), daemoneye_eventbus::TopicError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct TopicRegistry {
    policy: AccessPolicy,
}

impl TopicRegistry {
    /// The rights of the table that is built in.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the client with this id may publish on the topic. What is no id, or no topic, has no right.
    #[must_use]
    pub fn can_publish(&self, client_id: &str, topic: &str) -> bool {
        let asked = Component::from_client_id(client_id).ok().zip(Topic::new(topic).ok());
        asked.is_some_and(|(component, topic)| self.policy.may_publish(&component, &topic).is_ok())
    }

    /// Whether the client with this id may receive what is published on the topic. What is no id has no right.
    #[must_use]
    pub fn can_subscribe(&self, client_id: &str, topic: &Topic) -> bool {
        let asked = Component::from_client_id(client_id);
        asked.is_ok_and(|component| self.policy.may_subscribe(&component, topic).is_ok())
    }

    /// How closely the topic is guarded; `None` if it is none, or nobody's.
    #[must_use]
    pub fn get_access_level(&self, topic: &str) -> Option<TopicAccessLevel> {
        self.policy.level(&Topic::new(topic).ok()?)
    }
}

/// The rights of another table.
impl From<AccessPolicy> for TopicRegistry {
    fn from(policy: AccessPolicy) -> Self {
        Self { policy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_has_no_right() {
        let registry = TopicRegistry::new();
        let topic = Topic::new("events.process.anomaly").expect("a legal topic");
        assert!(registry.can_subscribe("anybody", &topic));
        assert!(!registry.can_subscribe("", &topic) && !registry.can_subscribe("a b", &topic));
        assert!(!registry.can_publish("agent", "events.process.+"));
        assert!(
            !registry.can_publish("Agent", "alerts.high") && registry.can_publish("agent", "alerts.high")
        );
        assert_eq!(registry.get_access_level("events.+"), None);
        assert_eq!(registry.get_access_level("weather.today"), None);
    }

    #[test]
    fn another_table_gives_other_rights() {
        let text = "defaults = false\n[[row]]\ntopics = \"weather.#\"\nlevel = \"public\"\npublishers = [\"agent\"]\n\
                    subscribers = [\"anyone\"]";
        let registry = TopicRegistry::from(AccessPolicy::from_toml(text).expect("a legal table"));
        assert!(registry.can_publish("agent", "weather.today"));
        assert!(!registry.can_publish("agent", "alerts.high"));
        assert_eq!(registry.get_access_level("weather.today"), Some(TopicAccessLevel::Public));
    }
}

//! Questions about the hierarchy, by the spelling of a topic.

use crate::access::AccessPolicy;
use crate::hierarchy::TopicAccessLevel;
use crate::hierarchy::names::NAMED;
use crate::topic::{Topic, TopicError, TopicPattern};

/// What the first segment of a topic says.
///
/// ```
/// use daemoneye_eventbus::topics::{TopicDomain, TopicHierarchy};
///
/// assert_eq!(TopicHierarchy::get_domain("events.process.batch"), Some(TopicDomain::Events));
/// assert_eq!(TopicDomain::Control.as_str(), "control");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TopicDomain {
    /// What collectors observe.
    Events,
    /// How components are managed.
    Control,
    /// What the agent has concluded.
    Alerts,
}

impl TopicDomain {
    /// Its segment.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Control => "control",
            Self::Alerts => "alerts",
        }
    }

    fn of(segment: &str) -> Option<Self> {
        [Self::Events, Self::Control, Self::Alerts].into_iter().find(|domain| domain.as_str() == segment)
    }
}

/// The topic table of `docs/topic-hierarchy.md`, asked by the spelling of a topic. A text that is no topic has no domain, no parts and no level.
///
/// It tells of the table that is built in. A broker may have another one: see [`AccessPolicy`].
///
/// ```
/// use daemoneye_eventbus::topics::{TopicDomain, TopicHierarchy, process};
/// use daemoneye_eventbus::TopicAccessLevel;
///
/// assert!(TopicHierarchy::all_event_topics().any(|topic| topic == process::TREE));
/// assert_eq!(TopicHierarchy::get_subdomain(process::TREE), Some("process"));
/// assert_eq!(TopicHierarchy::get_topic_type(process::TREE), Some("tree"));
/// assert_eq!(TopicHierarchy::get_access_level(process::TREE), Some(TopicAccessLevel::Restricted));
///
/// let anomalies = TopicHierarchy::create_pattern(TopicDomain::Events, None, Some("anomaly"))?;
/// assert_eq!(anomalies.as_str(), "events.+.anomaly");
/// # Ok::<(), daemoneye_eventbus::TopicError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TopicHierarchy;

impl TopicHierarchy {
    /// The topics of events that have a name.
    pub fn all_event_topics() -> impl Iterator<Item = &'static str> + Clone {
        named(TopicDomain::Events)
    }

    /// The topics of control that have a name.
    pub fn all_control_topics() -> impl Iterator<Item = &'static str> + Clone {
        named(TopicDomain::Control)
    }

    /// All topics that have a name, events first.
    pub fn all_topics() -> impl ExactSizeIterator<Item = &'static str> + Clone {
        super::all_topics()
    }

    /// Whether the text is a legal topic; it needs no name.
    ///
    /// # Errors
    /// [`TopicError`] says which rule it breaks, and where.
    pub fn validate_topic(topic: &str) -> Result<(), TopicError> {
        Topic::new(topic).map(drop)
    }

    /// The pattern of these topics: `None` stands for any subdomain, or any type. Without a type, also the topics that go on.
    ///
    /// # Errors
    /// [`TopicError`] if a part is no segment.
    pub fn create_pattern(
        domain: TopicDomain,
        subdomain: Option<&str>,
        topic_type: Option<&str>,
    ) -> Result<TopicPattern, TopicError> {
        let domain = domain.as_str();
        let text = match (subdomain, topic_type) {
            (None, None) => format!("{domain}.#"),
            (Some(subdomain), None) => format!("{domain}.{subdomain}.#"),
            (subdomain, Some(topic_type)) => format!("{domain}.{}.{topic_type}", subdomain.unwrap_or("+")),
        };
        let dot =
            |start: usize, part: Option<&str>| part.and_then(|part| part.find('.')).map(|at| start + at);
        let first = domain.len() + 1;
        let second = first + subdomain.map_or(1, str::len) + 1;
        match dot(first, subdomain).or_else(|| dot(second, topic_type)) {
            Some(at) => Err(TopicError::BadCharacter { character: '.', at }),
            None => TopicPattern::new(&text),
        }
    }

    /// How closely the topic is guarded; `None` if it is in no row of the table, and so nobody's.
    #[must_use]
    pub fn get_access_level(topic: &str) -> Option<TopicAccessLevel> {
        AccessPolicy::default().level(&Topic::new(topic).ok()?)
    }

    /// Whether it is a topic of events.
    #[must_use]
    pub fn is_event_topic(topic: &str) -> bool {
        Self::get_domain(topic) == Some(TopicDomain::Events)
    }

    /// Whether it is a topic of control.
    #[must_use]
    pub fn is_control_topic(topic: &str) -> bool {
        Self::get_domain(topic) == Some(TopicDomain::Control)
    }

    /// What the first segment says; `None` for a domain that the table does not have.
    #[must_use]
    pub fn get_domain(topic: &str) -> Option<TopicDomain> {
        part(topic, 0).and_then(TopicDomain::of)
    }

    /// The second segment.
    #[must_use]
    pub fn get_subdomain(topic: &str) -> Option<&str> {
        part(topic, 1)
    }

    /// The third segment.
    #[must_use]
    pub fn get_topic_type(topic: &str) -> Option<&str> {
        part(topic, 2)
    }
}

/// The segment at this place of what is a topic.
fn part(topic: &str, place: usize) -> Option<&str> {
    TopicHierarchy::validate_topic(topic).ok()?;
    topic.split('.').nth(place)
}

fn named(domain: TopicDomain) -> impl Iterator<Item = &'static str> + Clone {
    let is_of = move |topic: &&str| topic.split('.').next() == Some(domain.as_str());
    NAMED.iter().map(|(topic, _)| *topic).filter(is_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_hold_each_named_topic_once_events_first() {
        let (events, control) = (TopicHierarchy::all_event_topics(), TopicHierarchy::all_control_topics());
        assert_eq!((events.clone().count(), control.clone().count()), (15, 11));
        assert!(events.chain(control).eq(TopicHierarchy::all_topics()));
    }

    #[test]
    fn a_pattern_has_wildcards_for_what_is_not_said() {
        let pattern = |subdomain, topic_type| {
            TopicHierarchy::create_pattern(TopicDomain::Control, subdomain, topic_type)
                .map(|pattern| pattern.to_string())
        };
        assert_eq!(pattern(None, None).as_deref(), Ok("control.#"));
        assert_eq!(pattern(Some("health"), None).as_deref(), Ok("control.health.#"));
        assert_eq!(pattern(None, Some("status")).as_deref(), Ok("control.+.status"));
        assert_eq!(pattern(Some("health"), Some("status")).as_deref(), Ok("control.health.status"));
        let dot = |at| Err(TopicError::BadCharacter { character: '.', at });
        assert_eq!(pattern(Some("a.b"), None), dot(9));
        assert_eq!(pattern(None, Some("a.b")), dot(11));
        assert_eq!(pattern(Some("xy"), Some("a.b")), dot(12));
        assert!(pattern(Some("Health"), None).is_err());
    }

    #[test]
    fn what_is_no_topic_has_no_parts() {
        for text in ["", "events.", "events.process.+", "events.process.a.b.c", "EVENTS.process.x"] {
            assert!(TopicHierarchy::validate_topic(text).is_err(), "{text}");
            assert_eq!(TopicHierarchy::get_domain(text), None, "{text}");
            assert_eq!(TopicHierarchy::get_subdomain(text), None, "{text}");
            assert_eq!(TopicHierarchy::get_access_level(text), None, "{text}");
        }
        assert_eq!(TopicHierarchy::get_domain("alerts"), Some(TopicDomain::Alerts));
        assert_eq!(TopicHierarchy::get_domain("weather.today"), None);
        assert_eq!(TopicHierarchy::get_topic_type("control.shutdown"), None);
        assert!(TopicHierarchy::is_control_topic("control.shutdown.procmond"));
        assert!(
            TopicHierarchy::is_event_topic("events.usb.attached")
                && !TopicHierarchy::is_event_topic("eventsx")
        );
    }
}

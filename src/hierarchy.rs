//! The topic table as data: which topics there are, who publishes them and who may subscribe to them.
//!
//! [`ROWS`] is read from top to bottom, and the first row that matches a topic decides; so specific rows
//! stand above general ones. A topic that no row matches is nobody's. `docs/topic-hierarchy.md` shows the
//! same table to users, and a test below holds the two together. What a row *means* for a component is
//! decided in `access`, which also reads rows of other tables from files.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::topic::{Topic, TopicError, TopicPattern};

pub(crate) mod names;

/// How closely a topic is guarded.
///
/// The level governs subscribing. Publishing needs a component whose row covers the topic at every level,
/// also on public topics: an alert can't be forged by a stranger.
///
/// ```
/// use daemoneye_eventbus::TopicAccessLevel;
///
/// assert_eq!(TopicAccessLevel::Privileged.to_string(), "privileged");
/// assert!(TopicAccessLevel::Public < TopicAccessLevel::Restricted);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TopicAccessLevel {
    /// Any registered component may subscribe.
    Public,
    /// The components of its row may subscribe.
    Restricted,
    /// The components of its row may subscribe, once they have authenticated.
    Privileged,
}

impl fmt::Display for TopicAccessLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Public => "public",
            Self::Restricted => "restricted",
            Self::Privileged => "privileged",
        })
    }
}

/// The component that starts the collectors and embeds the broker.
const AGENT: &str = "agent";
/// The components that gather events, one per domain: process, network, filesystem, performance.
const COLLECTORS: [&str; 4] = ["procmond", "netmond", "fsmond", "perfmond"];
/// The components that read what collectors gather.
const OBSERVERS: [&str; 2] = ["detector", "exporter"];
/// Stands for the last segment in a row's pattern.
const OWNER: &str = "{self}";

/// Whether the table knows `name`. Components that it doesn't know are strangers: they may register, and have
/// what `Anyone` and `Owner` have.
pub(crate) fn is_known(name: &str) -> bool {
    name == AGENT || COLLECTORS.contains(&name) || OBSERVERS.contains(&name)
}

/// Whom a row admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// The agent.
    Agent,
    /// Each collector that the table knows.
    Collectors,
    /// Each observer that the table knows.
    Observers,
    /// The component of this name.
    Named(Cow<'static, str>),
    /// Any registered component.
    Anyone,
    /// The component that the topic's last segment belongs to. Only in rows that end with `{self}`.
    Owner,
}

impl Who {
    /// Whom a word of a table admits. Any word that is not one of a group is a name.
    pub(crate) fn of_word(word: &str) -> Self {
        match word {
            AGENT => Self::Agent,
            "collectors" => Self::Collectors,
            "observers" => Self::Observers,
            "anyone" => Self::Anyone,
            OWNER => Self::Owner,
            name => Self::Named(name.to_owned().into()),
        }
    }

    /// Whether this admits the component `name` to a topic whose last segment belongs to `owner`.
    pub(crate) fn admits(&self, name: &str, owner: Option<&str>) -> bool {
        match self {
            Self::Agent => name == AGENT,
            Self::Collectors => COLLECTORS.contains(&name),
            Self::Observers => OBSERVERS.contains(&name),
            Self::Named(named) => name == named,
            Self::Anyone => true,
            Self::Owner => owner == Some(name),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => AGENT,
            Self::Collectors => "collectors",
            Self::Observers => "observers",
            Self::Named(name) => name,
            Self::Anyone => "anyone",
            Self::Owner => OWNER,
        })
    }
}

/// One row of a topic table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// A pattern, in which `{self}` may stand for the last segment.
    pub(crate) topics: Cow<'static, str>,
    pub(crate) level: TopicAccessLevel,
    pub(crate) publishers: Cow<'static, [Who]>,
    pub(crate) subscribers: Cow<'static, [Who]>,
}

impl Row {
    /// The pattern that the row decides about. `{self}` matches any segment: who owns it is asked per topic.
    pub(crate) fn pattern(&self) -> Result<TopicPattern, TopicError> {
        match self.topics.strip_suffix(OWNER) {
            Some(prefix) => TopicPattern::new(&format!("{prefix}+")),
            None => TopicPattern::new(&self.topics),
        }
    }

    /// Whether the last segment of its topics is to belong to somebody.
    pub(crate) fn names_an_owner(&self) -> bool {
        self.topics.ends_with(OWNER)
    }
}

const fn row(
    topics: &'static str,
    level: TopicAccessLevel,
    publishers: &'static [Who],
    subscribers: &'static [Who],
) -> Row {
    Row {
        topics: Cow::Borrowed(topics),
        level,
        publishers: Cow::Borrowed(publishers),
        subscribers: Cow::Borrowed(subscribers),
    }
}

/// The table. The first row that matches a topic decides about it.
pub(crate) static ROWS: &[Row] = {
    use TopicAccessLevel::{Privileged, Public, Restricted};
    use Who::{Agent, Anyone, Collectors, Named, Observers, Owner};
    const PROCMOND: Who = Named(Cow::Borrowed("procmond"));
    const NETMOND: Who = Named(Cow::Borrowed("netmond"));
    const FSMOND: Who = Named(Cow::Borrowed("fsmond"));
    const PERFMOND: Who = Named(Cow::Borrowed("perfmond"));
    const DETECTOR: Who = Named(Cow::Borrowed("detector"));
    &[
        // What collectors gather. An anomaly is everybody's business, but only the collector of its domain
        // and the agent can tell of one.
        row("events.process.anomaly", Public, &[PROCMOND, Agent], &[Anyone]),
        row("events.network.anomaly", Public, &[NETMOND, Agent], &[Anyone]),
        row("events.filesystem.anomaly", Public, &[FSMOND, Agent], &[Anyone]),
        row("events.performance.anomaly", Public, &[PERFMOND, Agent], &[Anyone]),
        row("events.process.#", Restricted, &[PROCMOND, Agent], &[Agent, Observers, PROCMOND]),
        row("events.network.#", Restricted, &[NETMOND, Agent], &[Agent, Observers, NETMOND]),
        row("events.filesystem.#", Restricted, &[FSMOND, Agent], &[Agent, Observers, FSMOND]),
        row("events.performance.#", Restricted, &[PERFMOND, Agent], &[Agent, Observers, PERFMOND]),
        row("events.collector.{self}", Restricted, &[Owner], &[Agent, Observers]),
        row("alerts.#", Restricted, &[Agent], &[Agent, Observers]),
        // Control of collectors. The topics of one collector come after those that have a name.
        row("control.collector.lifecycle", Privileged, &[Agent], &[Agent, Collectors]),
        row("control.collector.lifecycle.{self}", Privileged, &[Agent], &[Agent, Owner]),
        row("control.collector.config", Privileged, &[Agent], &[Agent, Collectors]),
        row("control.collector.config.{self}", Privileged, &[Agent], &[Agent, Owner]),
        row("control.collector.task", Restricted, &[Agent], &[Agent, Collectors]),
        row("control.collector.task.{self}", Restricted, &[Agent], &[Agent, Owner]),
        row("control.collector.registration", Restricted, &[Collectors], &[Agent]),
        row("control.collector.{self}", Restricted, &[Agent], &[Agent, Owner]),
        row("control.rpc.response.{self}", Restricted, &[Agent, Collectors], &[Agent, Owner]),
        row("control.trigger.+", Restricted, &[Agent, DETECTOR], &[Agent, Collectors]),
        row("control.shutdown", Privileged, &[Agent], &[Agent, Collectors]),
        row("control.shutdown.{self}", Privileged, &[Agent], &[Agent, Owner]),
        row("control.agent.orchestration", Restricted, &[Agent], &[Agent, Collectors]),
        row("control.agent.policy", Privileged, &[Agent], &[Agent, Collectors]),
        // Health. Anybody may look; nobody may claim to be alive in another's name.
        row("control.health.heartbeat.{self}", Public, &[Owner], &[Anyone]),
        row("control.health.heartbeat", Public, &[Agent, Collectors, Observers], &[Anyone]),
        row("control.health.status", Public, &[Agent, Collectors, Observers], &[Anyone]),
        row("control.health.diagnostics", Public, &[Agent, Collectors, Observers], &[Anyone]),
    ]
};

/// What arrives under any load of other topics: rings and queues keep a reserve for it. Few events, each of which counts.
/// Health is not among them: anybody may claim to be alive, as often as he likes.
const URGENT: [&str; 8] = [
    "events.+.anomaly",
    "events.+.lifecycle",
    "alerts.#",
    "control.collector.#",
    "control.agent.#",
    "control.shutdown.#",
    "control.trigger.+",
    "control.rpc.#",
];

/// Whether the topic is urgent.
pub(crate) fn is_urgent(topic: &Topic) -> bool {
    static PATTERNS: LazyLock<[TopicPattern; URGENT.len()]> =
        LazyLock::new(|| URGENT.map(|pattern| TopicPattern::new(pattern).expect("it is well-formed")));
    PATTERNS.iter().any(|pattern| pattern.matches(topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_urgent_topics_are_those() {
        let section = include_str!("../docs/topic-hierarchy.md")
            .split("\n## ")
            .find(|s| s.starts_with("Urgent topics"));
        let section = section.expect("a section of the document");
        let documented: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("- `")?.split_once('`').map(|(pattern, _)| pattern))
            .collect();
        assert_eq!(documented, URGENT);
        let is_urgent = |name: &str| is_urgent(&Topic::new(name).expect("a legal topic"));
        assert!(is_urgent("events.network.anomaly") && is_urgent("control.shutdown") && is_urgent("alerts"));
        assert!(!is_urgent("events.process.batch") && !is_urgent("events.anomaly"));
        assert!(!is_urgent("control.health.heartbeat.bob"));
    }

    fn patterns() -> Vec<TopicPattern> {
        ROWS.iter().map(|row| row.pattern().expect(&row.topics)).collect()
    }

    fn is_own(row: &Row) -> bool {
        row.publishers.contains(&Who::Owner) || row.subscribers.contains(&Who::Owner)
    }

    #[test]
    fn every_row_is_a_legal_pattern_that_some_topic_reaches() {
        let patterns = patterns();
        for (i, pattern) in patterns.iter().enumerate() {
            let hidden_by = patterns[..i].iter().find(|above| above.covers(pattern));
            assert_eq!(hidden_by, None, "{pattern} is never reached");
        }
    }

    #[test]
    fn an_owner_is_admitted_exactly_where_the_last_segment_names_one() {
        for row in ROWS {
            assert_eq!(row.topics.ends_with(".{self}"), is_own(row), "{}", row.topics);
            assert_eq!(row.topics.matches(OWNER).count(), usize::from(is_own(row)), "{}", row.topics);
        }
    }

    #[test]
    fn public_is_what_anyone_may_subscribe_to_and_nothing_is_published_by_anyone() {
        for row in ROWS {
            let public = row.level == TopicAccessLevel::Public;
            assert_eq!(public, *row.subscribers == [Who::Anyone], "{}", row.topics);
            assert!(!row.publishers.contains(&Who::Anyone), "{}", row.topics);
        }
    }

    #[test]
    fn the_agent_may_subscribe_to_every_row() {
        for row in ROWS {
            assert!(row.subscribers.iter().any(|who| who.admits(AGENT, None)), "{}", row.topics);
        }
    }

    #[test]
    fn whoever_a_row_names_is_known() {
        let named = ROWS.iter().flat_map(|row| row.publishers.iter().chain(&*row.subscribers));
        for who in named {
            assert!(!matches!(who, Who::Named(name) if !is_known(name)), "{who}");
        }
    }

    #[test]
    fn a_known_name_has_no_dash_so_that_no_name_begins_with_another_and_a_dash() {
        for name in COLLECTORS.iter().chain(&OBSERVERS).chain([&AGENT]) {
            assert!(!name.contains('-'), "{name}");
        }
    }

    #[test]
    fn the_documented_table_is_the_table() {
        let section =
            include_str!("../docs/topic-hierarchy.md").split("\n## ").find(|s| s.starts_with("The table"));
        let rows = section.expect("a section of the document").lines().filter(|line| line.starts_with("| `"));
        // The last column says what the topics are for; that is for people only.
        let documented: Vec<&str> = rows
            .map(|row| {
                let (facts, purpose) = row.trim_end_matches(" |").rsplit_once(" | ").expect("five columns");
                assert!(!purpose.is_empty(), "{row}");
                facts
            })
            .collect();
        let list = |all: &[Who]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let table: Vec<String> = ROWS
            .iter()
            .map(|row| {
                let (publishers, subscribers) = (list(&row.publishers), list(&row.subscribers));
                format!("| `{}` | {} | {publishers} | {subscribers}", row.topics, row.level)
            })
            .collect();
        assert_eq!(documented, table);
    }
}

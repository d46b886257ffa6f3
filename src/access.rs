//! Who may publish and subscribe to what. Pure: it decides, and somebody else enforces.
//!
//! The topic table (`hierarchy`) says it with classes of components and with `{self}`; this room reads it for
//! one [`Component`] and one topic ([`AccessPolicy::may_publish`], [`AccessPolicy::may_subscribe`]), or for
//! one pattern ([`AccessPolicy::narrow`]).
//!
//! **Whose segment is it?** In a row such as `control.collector.config.{self}` the last segment belongs to
//! one component: the one that a client with this id would be. So `procmond` and `procmond-7F` belong to
//! `procmond`, and `foo-1` to the stranger `foo-1`, never to a component `foo`. There is one owner at most,
//! hence nobody can speak in another's name, however the names are chosen.
//!
//! **Whether a component is who it says** is not asked here. Sessions authenticate (`control`), and only then
//! is there a `Component` to ask about.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::config::POLICY_BYTES_MAX;
use crate::hierarchy::{ROWS, Row, TopicAccessLevel, Who, is_known};
use crate::sys;
use crate::topic::{SEGMENT_BYTES_MAX, Segment, Topic, TopicPattern, is_name};

mod file;
mod table;

pub use file::{LoadPolicyError, PolicyError};

/// A party on the bus by the name that its rights hang on: `procmond`, `agent`.
///
/// ```
/// use daemoneye_eventbus::Component;
///
/// let component = Component::from_client_id("procmond-7F3A")?;
/// assert_eq!(component.as_str(), "procmond");
/// # Ok::<(), daemoneye_eventbus::ComponentError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Component(Arc<str>);

impl Component {
    /// The component that a client with this id is.
    ///
    /// If what stands before the first `-` is a component of the topic table, the client is that component,
    /// and the rest only tells its clients apart. Else the client is a stranger, and the component is the
    /// whole id. An id is 1 to 64 bytes of `a-z`, `0-9`, `_` and `-`; after a known name and a `-` also
    /// `A-Z`. So each id may be the last segment of a topic.
    ///
    /// # Errors
    /// [`ComponentError`] says which of these the id breaks.
    ///
    /// ```
    /// use daemoneye_eventbus::{Component, ComponentError};
    ///
    /// assert_eq!(Component::from_client_id("agent-1")?, Component::from_client_id("agent")?);
    /// assert_eq!(Component::from_client_id("forensic-analyzer")?.as_str(), "forensic-analyzer");
    /// assert_eq!(Component::from_client_id(""), Err(ComponentError::Empty));
    /// # Ok::<(), ComponentError>(())
    /// ```
    pub fn from_client_id(client_id: &str) -> Result<Self, ComponentError> {
        component_name(client_id).map(|name| Self(name.into()))
    }

    /// The name.
    ///
    /// ```
    /// # use daemoneye_eventbus::Component;
    /// assert_eq!(Component::from_client_id("netmond")?.as_str(), "netmond");
    /// # Ok::<(), daemoneye_eventbus::ComponentError>(())
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a client id names no component: the fault of the client that chose it.
///
/// ```
/// use daemoneye_eventbus::{Component, ComponentError};
///
/// let error = Component::from_client_id("my tool").unwrap_err();
/// assert_eq!(error, ComponentError::BadCharacter { character: ' ', at: 2 });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentError {
    /// The id is empty.
    #[error("empty: a client id has at least one character")]
    Empty,
    /// The id is too long to be a segment of a topic.
    #[error("{bytes} bytes: a client id has at most {SEGMENT_BYTES_MAX}")]
    TooLong {
        /// Length of the id.
        bytes: usize,
    },
    /// The id holds a character that it may not hold.
    #[error(
        "{character:?} at byte {at}: a client id is made of a-z, 0-9, `_` and `-`; \
         also of A-Z after a known component and `-`"
    )]
    BadCharacter {
        /// The first such character.
        character: char,
        /// Where it stands, in bytes from the start.
        at: usize,
    },
}

/// The law of client ids, for the ids themselves and for segments that belong to one.
fn component_name(client_id: &str) -> Result<&str, ComponentError> {
    if client_id.is_empty() {
        return Err(ComponentError::Empty);
    }
    if client_id.len() > SEGMENT_BYTES_MAX {
        return Err(ComponentError::TooLong { bytes: client_id.len() });
    }
    let prefix = client_id.split_once('-').map_or(client_id, |(prefix, _)| prefix);
    let known = is_known(prefix);
    let legal = |c: char| is_name(c) || (known && c.is_ascii_uppercase());
    match client_id.char_indices().find(|&(_, c)| !legal(c)) {
        Some((at, character)) => Err(ComponentError::BadCharacter { character, at }),
        None if known => Ok(prefix),
        None => Ok(client_id),
    }
}

/// The component that the last segment of `topic` belongs to, if it is a client id at all.
fn owner(topic: &Topic) -> Option<&str> {
    topic.segments().next_back().and_then(|id| component_name(id).ok())
}

/// Who may publish and subscribe to what. The default is the topic table of `docs/topic-hierarchy.md`; a file can
/// change it, or be another one: see `docs/policy.md`.
///
/// A clone costs a reference count. Two are equal if they have the same rows in the same order.
///
/// ```
/// use daemoneye_eventbus::{AccessPolicy, Component, Topic};
///
/// let policy = AccessPolicy::default();
/// let procmond = Component::from_client_id("procmond")?;
/// assert!(policy.may_publish(&procmond, &Topic::new("events.process.batch")?).is_ok());
/// assert!(policy.may_publish(&procmond, &Topic::new("alerts.high")?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessPolicy {
    rules: Arc<[Rule]>,
}

/// A row of the table and its pattern, parsed.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    pattern: TopicPattern,
    row: Row,
    /// Rows above that decide about some of its topics.
    above: Vec<usize>,
}

impl Default for AccessPolicy {
    fn default() -> Self {
        static TABLE: LazyLock<AccessPolicy> = LazyLock::new(|| AccessPolicy::of_rows(ROWS.to_vec()));
        TABLE.clone()
    }
}

impl AccessPolicy {
    /// The table that a text in TOML describes; `docs/policy.md` has its keys and what they mean.
    ///
    /// # Errors
    /// [`PolicyError`] says what is wrong, and in which line.
    ///
    /// ```
    /// use daemoneye_eventbus::{AccessPolicy, Component, PolicyError, Topic};
    ///
    /// let policy = AccessPolicy::from_toml(
    ///     r#"
    ///     defaults = true
    ///
    ///     [[row]]
    ///     topics = "events.usb.#"
    ///     level = "restricted"
    ///     publishers = ["usbmond"]
    ///     subscribers = ["agent", "observers"]
    ///     "#,
    /// )?;
    /// let usbmond = Component::from_client_id("usbmond")?;
    /// assert!(policy.may_publish(&usbmond, &Topic::new("events.usb.attached")?).is_ok());
    ///
    /// let error = AccessPolicy::from_toml("defaults = true\nlevels = 3").unwrap_err();
    /// assert_eq!(error, PolicyError::UnknownKey { line: 2, key: "levels".into() });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        file::read(text)
    }

    /// The table that a file describes, if nobody but this process's user and root can have written it: the file and the
    /// folders on the way to it belong to them, and others can't write them. A folder with the sticky bit, such as
    /// `/tmp`, may be writable, but no symbolic link in it is followed.
    ///
    /// # Errors
    /// [`LoadPolicyError`], if it can't be relied on, can't be read, or says what makes no sense.
    ///
    /// ```
    /// use daemoneye_eventbus::AccessPolicy;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("policy.toml");
    /// std::fs::write(&path, "defaults = true")?;
    /// assert_eq!(AccessPolicy::load(&path)?, AccessPolicy::default());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadPolicyError> {
        let path = path.as_ref();
        let text = sys::read_trusted(path, POLICY_BYTES_MAX)?;
        Self::from_toml(&text).map_err(|error| LoadPolicyError::Policy { path: path.to_owned(), error })
    }

    /// A table of rows whose patterns are legal.
    fn of_rows(rows: Vec<Row>) -> Self {
        let mut rules: Vec<Rule> = Vec::with_capacity(rows.len());
        for row in rows {
            let pattern = row.pattern().expect("its reader, or a test, has seen that it is legal");
            let meets = |(_, rule): &(usize, &Rule)| rule.pattern.intersect(&pattern).is_some();
            let above = rules.iter().enumerate().filter(meets).map(|(index, _)| index).collect();
            rules.push(Rule { pattern, row, above });
        }
        Self { rules: rules.into() }
    }

    /// Whether `component` may publish to `topic`: if the first row that matches the topic names it as a
    /// publisher.
    ///
    /// # Errors
    /// [`Denial::NoRule`] if no row matches, else [`Denial::NotAPublisher`].
    ///
    /// ```
    /// # use daemoneye_eventbus::{AccessPolicy, Component, Topic};
    /// let (policy, procmond) = (AccessPolicy::default(), Component::from_client_id("procmond")?);
    /// policy.may_publish(&procmond, &Topic::new("control.health.heartbeat.procmond")?)?;
    /// let other = Topic::new("control.health.heartbeat.netmond")?;
    /// let denial = policy.may_publish(&procmond, &other).unwrap_err();
    /// assert_eq!(
    ///     denial.to_string(),
    ///     "`procmond` may not publish to `control.health.heartbeat.netmond` (public); published by: netmond"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn may_publish(&self, component: &Component, topic: &Topic) -> Result<(), Denial> {
        let row = self.row(component, topic)?;
        if admits(&row.publishers, component, owner(topic)) {
            return Ok(());
        }
        Err(Denial::NotAPublisher {
            topic: topic.to_string(),
            level: row.level,
            component: component.to_string(),
            needed: format!("published by: {}", listed(&row.publishers, owner(topic))),
        })
    }

    /// Whether `component` may receive what is published to `topic`: if the first row that matches the topic
    /// names it as a subscriber.
    ///
    /// # Errors
    /// [`Denial::NoRule`] if no row matches, else [`Denial::NotASubscriber`].
    ///
    /// ```
    /// # use daemoneye_eventbus::{AccessPolicy, Component, Topic};
    /// let (policy, stranger) = (AccessPolicy::default(), Component::from_client_id("some-tool")?);
    /// policy.may_subscribe(&stranger, &Topic::new("events.process.anomaly")?)?;
    /// let denial = policy.may_subscribe(&stranger, &Topic::new("events.process.start")?).unwrap_err();
    /// assert_eq!(
    ///     denial.to_string(),
    ///     "`some-tool` may not subscribe to `events.process.start` (restricted); \
    ///      subscribed by: agent, observers, procmond"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn may_subscribe(&self, component: &Component, topic: &Topic) -> Result<(), Denial> {
        let row = self.row(component, topic)?;
        if admits(&row.subscribers, component, owner(topic)) {
            return Ok(());
        }
        Err(Denial::NotASubscriber {
            topic: topic.to_string(),
            level: row.level,
            component: component.to_string(),
            needed: needed_to_subscribe(row, owner(topic)),
        })
    }

    /// What is left of the pattern `asked` for `component`, and what is withheld.
    ///
    /// **The truth is [`may_subscribe`](Self::may_subscribe), topic by topic.** What a component gets is what
    /// its granted patterns match *and* what it may subscribe to. With this, nothing is lost: each topic that
    /// `asked` matches and that the component may subscribe to is matched by a granted pattern. And nothing
    /// is granted that it may not subscribe to, but for two cases. The ids of a known component, `procmond`
    /// and `procmond-…`, are not a pattern: there the pattern of all ids stands in *both* lists, which reads
    /// granted in part, for the component's own ids. And where a table has a closer row above a wider one,
    /// the wider one's pattern may be granted and the closer one's withheld, which reads: all but that.
    ///
    /// Topics that no row matches are nobody's; they are named as withheld only if `asked` meets no row at
    /// all. At most one entry per row of the table comes back in each list.
    ///
    /// ```
    /// use daemoneye_eventbus::{AccessPolicy, Component, TopicPattern};
    ///
    /// let (policy, detector) = (AccessPolicy::default(), Component::from_client_id("detector")?);
    /// let narrowed = policy.narrow(&detector, &TopicPattern::new("+.collector.#")?);
    /// assert_eq!(narrowed.granted[0].as_str(), "events.collector.+");
    /// assert_eq!(narrowed.withheld[0].pattern.as_str(), "control.collector.lifecycle");
    /// assert_eq!(narrowed.withheld[0].needed, "subscribed by: agent, collectors");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn narrow(&self, component: &Component, asked: &TopicPattern) -> Narrowed {
        let mut narrowed = Narrowed::default();
        let mut met_one = false;
        for Rule { pattern, row, above } in self.rules.iter() {
            let Some(met) = pattern.intersect(asked) else { continue };
            met_one = true;
            let decided =
                |part: &TopicPattern| above.iter().any(|index| self.rules[*index].pattern.covers(part));
            if decided(&met) {
                continue;
            }
            match part(row, component, &met) {
                Part::Whole => narrowed.grant(&met),
                Part::Own(own) => {
                    if !decided(&own) {
                        narrowed.granted.push(own);
                    }
                    narrowed.withhold(row, &met);
                }
                Part::Nothing => narrowed.withhold(row, &met),
            }
        }
        if !met_one {
            let needed = "a row of the topic table".to_owned();
            narrowed.withheld.push(Withheld { pattern: asked.clone(), level: None, needed });
        }
        narrowed
    }

    /// How closely `topic` is guarded: by the first row that matches it. `None` if no row does, so that it is nobody's.
    ///
    /// ```
    /// # use daemoneye_eventbus::{AccessPolicy, Topic, TopicAccessLevel};
    /// let policy = AccessPolicy::default();
    /// assert_eq!(policy.level(&Topic::new("control.agent.policy")?), Some(TopicAccessLevel::Privileged));
    /// assert_eq!(policy.level(&Topic::new("weather.today")?), None);
    /// # Ok::<(), daemoneye_eventbus::TopicError>(())
    /// ```
    #[must_use]
    pub fn level(&self, topic: &Topic) -> Option<TopicAccessLevel> {
        self.rule(topic).map(|rule| rule.row.level)
    }

    /// Rows of the table.
    #[cfg(fuzzing)]
    pub(crate) fn row_count(&self) -> usize {
        self.rules.len()
    }

    /// The row that decides about `topic`.
    fn row(&self, component: &Component, topic: &Topic) -> Result<&Row, Denial> {
        self.rule(topic)
            .map(|rule| &rule.row)
            .ok_or_else(|| Denial::NoRule { topic: topic.to_string(), component: component.to_string() })
    }

    fn rule(&self, topic: &Topic) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.pattern.matches(topic))
    }
}

/// What is left of a pattern that a component asked for: see [`AccessPolicy::narrow`].
///
/// ```
/// use daemoneye_eventbus::{AccessPolicy, Component, TopicPattern};
///
/// let stranger = Component::from_client_id("some-tool")?;
/// let narrowed = AccessPolicy::default().narrow(&stranger, &TopicPattern::new("alerts.#")?);
/// assert!(narrowed.granted.is_empty(), "to be refused");
/// assert_eq!(narrowed.withheld.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Narrowed {
    /// What the component may have. If it is empty, the subscription is to be refused.
    pub granted: Vec<TopicPattern>,
    /// What it may not have, in the order of the table.
    pub withheld: Vec<Withheld>,
}

/// A part of a pattern that a component may not have.
///
/// ```
/// use daemoneye_eventbus::{AccessPolicy, Component, TopicAccessLevel, TopicPattern};
///
/// let exporter = Component::from_client_id("exporter")?;
/// let narrowed = AccessPolicy::default().narrow(&exporter, &TopicPattern::new("control.agent.policy")?);
/// assert_eq!(narrowed.withheld[0].level, Some(TopicAccessLevel::Privileged));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Withheld {
    /// The topics.
    pub pattern: TopicPattern,
    /// How closely they are guarded; `None` if they are in no row of the table.
    pub level: Option<TopicAccessLevel>,
    /// What would be needed to have them, e.g. `subscribed by: agent, collectors`. `{self}` stands for the
    /// component that a topic's last segment belongs to.
    pub needed: String,
}

impl Narrowed {
    /// Grants all of `whole`, and so need not mention the parts of it that rows above granted.
    fn grant(&mut self, whole: &TopicPattern) {
        self.granted.retain(|part| !whole.covers(part));
        self.granted.push(whole.clone());
    }

    fn withhold(&mut self, row: &Row, pattern: &TopicPattern) {
        let needed = needed_to_subscribe(row, owner_in(pattern));
        self.withheld.push(Withheld { pattern: pattern.clone(), level: Some(row.level), needed });
    }
}

/// How much of a pattern a component may subscribe to.
enum Part {
    Whole,
    /// This pattern, and of it only the topics whose last segment belongs to the component.
    Own(TopicPattern),
    Nothing,
}

/// How much of `met`, which lies within `row`, `component` may subscribe to.
fn part(row: &Row, component: &Component, met: &TopicPattern) -> Part {
    if admits(&row.subscribers, component, owner_in(met)) {
        return Part::Whole;
    }
    let Some(prefix) = met.as_str().strip_suffix('+') else {
        return Part::Nothing;
    };
    if !row.subscribers.contains(&Who::Owner) {
        return Part::Nothing;
    }
    if is_known(component.as_str()) {
        return Part::Own(met.clone());
    }
    let own = TopicPattern::new(&format!("{prefix}{component}"));
    Part::Own(own.expect("a component's name is a legal last segment"))
}

/// The component that the last segment of each topic of `pattern` belongs to, if it is the same for all, and a client id.
fn owner_in(pattern: &TopicPattern) -> Option<&str> {
    match pattern.segments().last() {
        Some(Segment::Literal(id)) => component_name(id).ok(),
        _ => None,
    }
}

fn admits(admitted: &[Who], component: &Component, owner: Option<&str>) -> bool {
    admitted.iter().any(|who| who.admits(component.as_str(), owner))
}

fn needed_to_subscribe(row: &Row, owner: Option<&str>) -> String {
    format!("subscribed by: {}", listed(&row.subscribers, owner))
}

/// The admitted by name, the owner by its own if there is one.
fn listed(admitted: &[Who], owner: Option<&str>) -> String {
    let name = |who: &Who| match (who, owner) {
        (Who::Owner, Some(owner)) => owner.to_owned(),
        _ => who.to_string(),
    };
    admitted.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Why a component may not publish or subscribe to a topic: the fault of that component, or of its
/// configuration.
///
/// It travels to the component in a refusal, hence plain text. Each text is bounded: a topic, a name, or the
/// names of one row of the topic table.
///
/// ```
/// use daemoneye_eventbus::{AccessPolicy, Component, Denial, Topic};
///
/// let agent = Component::from_client_id("agent")?;
/// let denial = AccessPolicy::default().may_publish(&agent, &Topic::new("weather.today")?).unwrap_err();
/// assert!(matches!(denial, Denial::NoRule { .. }));
/// assert_eq!(
///     denial.to_string(),
///     "`agent` has no right to `weather.today`: it is in no row of the topic table"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Denial {
    /// The topic is in no row of the topic table, so nobody may publish or subscribe to it.
    #[error("`{component}` has no right to `{topic}`: it is in no row of the topic table")]
    NoRule {
        /// The topic.
        topic: String,
        /// Who asked.
        component: String,
    },
    /// The topic's row doesn't name the component as a publisher.
    #[error("`{component}` may not publish to `{topic}` ({level}); {needed}")]
    NotAPublisher {
        /// The topic.
        topic: String,
        /// How closely it is guarded.
        level: TopicAccessLevel,
        /// Who asked.
        component: String,
        /// Who would be allowed to, e.g. `published by: procmond`.
        needed: String,
    },
    /// The topic's row doesn't name the component as a subscriber.
    #[error("`{component}` may not subscribe to `{topic}` ({level}); {needed}")]
    NotASubscriber {
        /// The topic.
        topic: String,
        /// How closely it is guarded.
        level: TopicAccessLevel,
        /// Who asked.
        component: String,
        /// Who would be allowed to, e.g. `subscribed by: agent, observers`.
        needed: String,
    },
}

impl Denial {
    /// The refusal of a subscription of which all was withheld.
    pub(crate) fn nothing_left(component: &Component, withheld: Withheld) -> Self {
        let Withheld { pattern, level, needed } = withheld;
        let (topic, component) = (pattern.to_string(), component.to_string());
        match level {
            Some(level) => Self::NotASubscriber { topic, level, component, needed },
            None => Self::NoRule { topic, component },
        }
    }
}

#[cfg(test)]
mod tests;

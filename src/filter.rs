//! What a subscriber wants of the events that its patterns bring: filters as data, and compiled, so that an event is judged where it lies in
//! its batch, without an allocation.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::access::{Component, ComponentError};
use crate::batch::{CorrelationRef, EventRef, Pairs};
use crate::correlation::{CorrelationError, CorrelationMetadata, limits, matches_glob};
use crate::topic::{Topic, TopicError, TopicPattern};

/// Which correlations a subscriber wants. Each field that is set has to hold; of a list, one of its items has to. One without any field set
/// takes all.
///
/// ```
/// use daemoneye_eventbus::{CorrelationFilter, CorrelationMetadata};
///
/// let filter = CorrelationFilter::new()
///     .with_root_id("scan-42".to_string())
///     .with_stage("analysis".to_string())
///     .with_required_tag("severity".to_string(), "critical".to_string());
///
/// let scan = CorrelationMetadata::new("scan-42".to_string()).with_stage("analysis".to_string());
/// let critical = scan.create_child("pid-7".to_string()).with_tag("severity".to_string(), "critical".to_string());
/// assert!(filter.matches(&critical));
/// assert!(!filter.matches(&scan), "the tag is missing");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrelationFilter {
    /// Ids of the node itself.
    pub correlation_ids: Vec<String>,
    /// The same with wildcards: see [`CorrelationMetadata::matches_pattern`].
    pub correlation_patterns: Vec<String>,
    /// Ids of the node's parent; a root has none.
    pub parent_correlation_ids: Vec<String>,
    /// Ids of the root: whole workflows.
    pub root_correlation_ids: Vec<String>,
    /// Stages; a node in no stage is in none of them.
    pub workflow_stages: Vec<String>,
    /// Tags that the node has, all of them, with these values.
    pub required_tags: HashMap<String, String>,
    /// Tags of which the node has one at least, with this value.
    pub any_tags: HashMap<String, String>,
    /// The lowest sequence number.
    pub min_sequence: Option<u64>,
    /// The highest.
    pub max_sequence: Option<u64>,
}

impl CorrelationFilter {
    /// One that takes all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an id to [`correlation_ids`](Self::correlation_ids).
    #[must_use]
    pub fn with_correlation_id(mut self, id: String) -> Self {
        self.correlation_ids.push(id);
        self
    }

    /// Adds a pattern to [`correlation_patterns`](Self::correlation_patterns).
    #[must_use]
    pub fn with_pattern(mut self, pattern: String) -> Self {
        self.correlation_patterns.push(pattern);
        self
    }

    /// Adds an id to [`parent_correlation_ids`](Self::parent_correlation_ids).
    #[must_use]
    pub fn with_parent_id(mut self, id: String) -> Self {
        self.parent_correlation_ids.push(id);
        self
    }

    /// Adds an id to [`root_correlation_ids`](Self::root_correlation_ids).
    #[must_use]
    pub fn with_root_id(mut self, id: String) -> Self {
        self.root_correlation_ids.push(id);
        self
    }

    /// Adds a stage to [`workflow_stages`](Self::workflow_stages).
    #[must_use]
    pub fn with_stage(mut self, stage: String) -> Self {
        self.workflow_stages.push(stage);
        self
    }

    /// Adds a tag to [`required_tags`](Self::required_tags).
    #[must_use]
    pub fn with_required_tag(mut self, name: String, value: String) -> Self {
        self.required_tags.insert(name, value);
        self
    }

    /// Adds a tag to [`any_tags`](Self::any_tags).
    #[must_use]
    pub fn with_any_tag(mut self, name: String, value: String) -> Self {
        self.any_tags.insert(name, value);
        self
    }

    /// Sets the lowest and the highest sequence number, both included.
    #[must_use]
    pub const fn with_sequence_range(mut self, min: Option<u64>, max: Option<u64>) -> Self {
        (self.min_sequence, self.max_sequence) = (min, max);
        self
    }

    /// Whether there can be correlations like those that it wants, and its patterns are within their limit.
    fn check(&self) -> Result<(), CorrelationError> {
        let ids = [&self.correlation_ids, &self.parent_correlation_ids, &self.root_correlation_ids];
        ids.into_iter().flatten().try_for_each(|id| limits::check_id(id))?;
        self.correlation_patterns.iter().try_for_each(|pattern| limits::check_pattern(pattern))?;
        self.workflow_stages.iter().try_for_each(|stage| limits::check_stage(stage))?;
        limits::check_tag_count(self.required_tags.len())?;
        let mut tags = self.required_tags.iter().chain(&self.any_tags);
        tags.try_for_each(|(name, value)| limits::check_tag(name, value))
    }

    /// Whether it takes this correlation. Allocates nothing.
    #[must_use]
    pub fn matches(&self, correlation: &CorrelationMetadata) -> bool {
        self.takes(correlation)
    }

    fn takes(&self, node: &impl Node) -> bool {
        let one_of = |list: &[String], id: Option<&str>| {
            list.is_empty() || id.is_some_and(|id| list.iter().any(|item| item == id))
        };
        let (patterns, sequence) = (&self.correlation_patterns, node.sequence());
        one_of(&self.correlation_ids, Some(node.id()))
            && (patterns.is_empty() || patterns.iter().any(|pattern| matches_glob(pattern, node.id())))
            && one_of(&self.parent_correlation_ids, node.parent())
            && one_of(&self.root_correlation_ids, Some(node.root()))
            && one_of(&self.workflow_stages, node.stage())
            && self.min_sequence.is_none_or(|min| sequence >= min)
            && self.max_sequence.is_none_or(|max| sequence <= max)
            && self.required_tags.iter().all(|(name, value)| node.has_tag(name, value))
            && (self.any_tags.is_empty()
                || self.any_tags.iter().any(|(name, value)| node.has_tag(name, value)))
    }
}

/// A correlation, owned or in its batch.
trait Node {
    fn id(&self) -> &str;
    fn parent(&self) -> Option<&str>;
    fn root(&self) -> &str;
    fn stage(&self) -> Option<&str>;
    fn sequence(&self) -> u64;
    fn has_tag(&self, name: &str, value: &str) -> bool;
}

impl Node for CorrelationMetadata {
    fn id(&self) -> &str {
        &self.correlation_id
    }

    fn parent(&self) -> Option<&str> {
        self.parent_correlation_id.as_deref()
    }

    fn root(&self) -> &str {
        &self.root_correlation_id
    }

    fn stage(&self) -> Option<&str> {
        self.workflow_stage.as_deref()
    }

    fn sequence(&self) -> u64 {
        self.sequence_number
    }

    fn has_tag(&self, name: &str, value: &str) -> bool {
        Self::has_tag(self, name, value)
    }
}

impl Node for CorrelationRef<'_> {
    fn id(&self) -> &str {
        self.correlation_id()
    }

    fn parent(&self) -> Option<&str> {
        self.parent_correlation_id()
    }

    fn root(&self) -> &str {
        self.root_correlation_id()
    }

    fn stage(&self) -> Option<&str> {
        self.workflow_stage()
    }

    fn sequence(&self) -> u64 {
        self.sequence_number()
    }

    fn has_tag(&self, name: &str, value: &str) -> bool {
        has(self.correlation_tags(), name, value)
    }
}

/// Whether the last pair of this name has this value: that is the one which an owned map keeps.
fn has(pairs: Pairs<'_>, name: &str, value: &str) -> bool {
    pairs.filter(|(other, _)| *other == name).last().is_some_and(|(_, found)| found == value)
}

/// Which events a subscriber wants. Each field that is set has to hold, and rejects events of a kind that does not have what it is
/// about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// Kinds: `process`, `network`, `filesystem`, `performance`, `trigger`; empty: all.
    pub event_types: Vec<String>,
    /// Processes, by number; of process events alone. Empty: all.
    pub pids: Vec<u32>,
    /// The lowest priority; of trigger requests alone.
    pub min_priority: Option<u8>,
    /// Metadata that the event has, all of it, with these values.
    pub metadata_filters: HashMap<String, String>,
    /// Patterns, one of which the topic matches; empty: all.
    pub topic_filters: Vec<String>,
    /// Components that publish it; empty: all.
    pub source_collectors: Vec<String>,
}

/// What a subscriber can deal with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCaps {
    /// Kinds: see [`EventFilter::event_types`]. Empty: all.
    pub event_types: Vec<String>,
    /// Components that it hears; empty: all.
    pub collectors: Vec<String>,
    /// The highest priority of a trigger request; 0: whichever.
    pub max_priority: u8,
}

/// A subscription as [`EventBus::subscribe`](crate::EventBus::subscribe) takes it. Each field that is set has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSubscription {
    /// The subscriber's name for it, to end it by.
    pub subscriber_id: String,
    /// What it can deal with.
    pub capabilities: SourceCaps,
    /// Which events it wants.
    pub event_filter: Option<EventFilter>,
    /// Which correlations.
    pub correlation_filter: Option<CorrelationFilter>,
    /// On which topics; `None`: all events, and control, if that is included.
    pub topic_patterns: Option<Vec<String>>,
    /// Whether `topic_patterns` may have wildcards. If not, one that has is an error.
    pub enable_wildcards: bool,
    /// Whether control topics are among them, where a pattern covers both.
    #[serde(default)]
    pub include_control: bool,
}

/// What is wrong with a subscription. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// No kind of event has this name.
    #[error("`{name}` is no kind of event: process, network, filesystem, performance, trigger")]
    EventType {
        /// As it was given.
        name: String,
    },
    /// A pattern that can't be.
    #[error("a topic filter: {0}")]
    Topic(#[from] TopicError),
    /// No component has such a name.
    #[error("a source: {0}")]
    Source(#[from] ComponentError),
    /// No correlation can be like one that is wanted, or a pattern for ids is too long.
    #[error("a correlation filter: {0}")]
    Correlation(#[from] CorrelationError),
    /// No topic is left: all are of control, which is not included, or there are none.
    #[error("no topic is left: patterns of control are for who includes control")]
    NoTopic,
    /// A wildcard where none may be.
    #[error("`{pattern}` has a wildcard, and wildcards are not enabled")]
    Wildcard {
        /// As it was given.
        pattern: String,
    },
}

/// Topics that are not of control, and those that are.
const EVENTS: [&str; 2] = ["events.#", "alerts.#"];
const CONTROL: &str = "control.#";

impl EventSubscription {
    /// The patterns to ask the broker for: what the topic decides it need not send.
    ///
    /// # Errors
    /// [`FilterError`] says which pattern can't be, or may not.
    pub(crate) fn patterns(&self) -> Result<Vec<TopicPattern>, FilterError> {
        let domains = EVENTS.into_iter().chain(self.include_control.then_some(CONTROL));
        let domains = domains.map(TopicPattern::new).collect::<Result<Vec<_>, _>>()?;
        let Some(patterns) = &self.topic_patterns else { return Ok(domains) };
        let wanted = self.within(patterns, &domains)?;
        if wanted.is_empty() {
            return Err(FilterError::NoTopic);
        }
        Ok(wanted)
    }

    /// The patterns of control to ask the broker for, for who takes control apart: those that match any, or else all.
    ///
    /// # Errors
    /// [`FilterError`] says which pattern can't be.
    pub(crate) fn control_patterns(&self) -> Result<Vec<TopicPattern>, FilterError> {
        let control = [TopicPattern::new(CONTROL)?];
        let wanted = self.within(self.topic_patterns.as_deref().unwrap_or_default(), &control)?;
        Ok(if wanted.is_empty() { control.into() } else { wanted })
    }

    /// What the patterns match of these domains.
    fn within(
        &self,
        patterns: &[String],
        domains: &[TopicPattern],
    ) -> Result<Vec<TopicPattern>, FilterError> {
        let mut wanted = Vec::new();
        for text in patterns {
            let pattern = TopicPattern::new(text)?;
            if !self.enable_wildcards && !pattern.is_literal() {
                return Err(FilterError::Wildcard { pattern: text.clone() });
            }
            wanted.extend(domains.iter().filter_map(|domain| pattern.intersect(domain)));
        }
        Ok(wanted)
    }
}

/// A set of kinds, by their bits.
#[derive(Debug, Clone, Copy)]
struct Kinds(u8);

impl Kinds {
    const NAMES: [&str; 5] = ["process", "network", "filesystem", "performance", "trigger"];

    fn of(names: &[String]) -> Result<Self, FilterError> {
        let mut kinds = 0;
        for name in names {
            let bit = Self::NAMES.iter().position(|known| known == name);
            kinds |= 1 << bit.ok_or_else(|| FilterError::EventType { name: name.clone() })?;
        }
        Ok(Self(if names.is_empty() { u8::MAX } else { kinds }))
    }

    fn has(self, event: &EventRef<'_>) -> bool {
        let bit = match event {
            EventRef::Process(_) => 0,
            EventRef::Network(_) => 1,
            EventRef::Filesystem(_) => 2,
            EventRef::Performance(_) => 3,
            EventRef::Trigger(_) => 4,
            EventRef::Opaque(_) => 7,
        };
        self.0 & (1 << bit) != 0
    }
}

/// A subscription's filters, ready to judge.
#[derive(Debug)]
pub(crate) struct Filter {
    kinds: [Kinds; 2],
    sources: [BTreeSet<Component>; 2],
    topics: Vec<TopicPattern>,
    pids: BTreeSet<u32>,
    priority: std::ops::RangeInclusive<u8>,
    /// A trigger's priority is asked for: other kinds have none.
    needs_priority: bool,
    metadata: Vec<(String, String)>,
    correlation: Option<CorrelationFilter>,
}

impl Filter {
    /// # Errors
    /// [`FilterError`] says which of the filters can't be.
    pub(crate) fn of(subscription: &EventSubscription) -> Result<Self, FilterError> {
        subscription.correlation_filter.as_ref().map_or(Ok(()), CorrelationFilter::check)?;
        let filter = subscription.event_filter.clone().unwrap_or_default();
        let SourceCaps { event_types, collectors, max_priority } = &subscription.capabilities;
        let sources = |names: &[String]| {
            names.iter().map(|name| Component::from_client_id(name)).collect::<Result<BTreeSet<_>, _>>()
        };
        let topics = filter.topic_filters.iter().map(|text| TopicPattern::new(text));
        let max_priority = if *max_priority == 0 { u8::MAX } else { *max_priority };
        Ok(Self {
            kinds: [Kinds::of(event_types)?, Kinds::of(&filter.event_types)?],
            sources: [sources(collectors)?, sources(&filter.source_collectors)?],
            topics: topics.collect::<Result<_, _>>()?,
            pids: filter.pids.iter().copied().collect(),
            priority: filter.min_priority.unwrap_or(0)..=max_priority,
            needs_priority: filter.min_priority.is_some(),
            metadata: filter.metadata_filters.into_iter().collect(),
            correlation: subscription.correlation_filter.clone(),
        })
    }

    /// Whether it may take any event of a batch from there.
    pub(crate) fn admits_batch(&self, topic: &Topic, publisher: &Component) -> bool {
        (self.topics.is_empty() || self.topics.iter().any(|pattern| pattern.matches(topic)))
            && self.sources.iter().all(|sources| sources.is_empty() || sources.contains(publisher))
    }

    /// Whether it takes what is correlated so. Allocates nothing.
    pub(crate) fn admits_correlation(&self, correlation: &CorrelationRef<'_>) -> bool {
        self.correlation.as_ref().is_none_or(|filter| filter.takes(correlation))
    }

    /// Whether it takes an event of such a batch, under such a correlation. Allocates nothing.
    pub(crate) fn admits_event(&self, event: &EventRef<'_>) -> bool {
        let metadata = match event {
            EventRef::Process(event) => Some(event.metadata()),
            EventRef::Network(event) => Some(event.metadata()),
            EventRef::Filesystem(event) => Some(event.metadata()),
            EventRef::Performance(event) => Some(event.metadata()),
            EventRef::Trigger(event) => Some(event.metadata()),
            EventRef::Opaque(_) => None,
        };
        let (pid, priority) = match event {
            EventRef::Process(event) => (Some(event.pid()), None),
            EventRef::Trigger(event) => (None, Some(event.priority())),
            _ => (None, None),
        };
        self.kinds.iter().all(|kinds| kinds.has(event))
            && (self.pids.is_empty() || pid.is_some_and(|pid| self.pids.contains(&pid)))
            && priority.map_or(!self.needs_priority, |priority| self.priority.contains(&priority))
            && self.metadata.iter().all(|(key, value)| {
                metadata.as_ref().is_some_and(|metadata| has(metadata.clone(), key, value))
            })
    }
}

#[cfg(test)]
mod tests;

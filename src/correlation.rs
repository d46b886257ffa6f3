//! Which workflow an event belongs to.
//!
//! A correlation is a node of a tree: its own id, its parent's, and the root's, which names the whole workflow.
//! The bus carries it and filters by it; what an id means is up to those who choose it. Nothing here checks that
//! parents exist or that ids are unique.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use limits::CorrelationError;

pub(crate) mod limits;

/// The place of an event in a workflow that spans collectors.
///
/// ```
/// use daemoneye_eventbus::CorrelationMetadata;
///
/// let scan = CorrelationMetadata::new("scan-42".to_string())
///     .with_stage("collection".to_string())
///     .with_tag("source".to_string(), "procmond".to_string());
/// let hash = scan.create_child("hash-of-pid-7".to_string());
///
/// assert_eq!(hash.parent_correlation_id.as_deref(), Some("scan-42"));
/// assert_eq!(hash.root_correlation_id, "scan-42");
/// assert!(hash.in_stage("collection") && hash.has_tag("source", "procmond"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrelationMetadata {
    /// The id of this node.
    pub correlation_id: String,
    /// The id of the node that this one was derived from; `None` for a root.
    pub parent_correlation_id: Option<String>,
    /// The id of the root: the whole workflow.
    pub root_correlation_id: String,
    /// A position within the workflow, kept by whoever drives it.
    pub sequence_number: u64,
    /// The stage that the workflow is in, for example `collection`.
    pub workflow_stage: Option<String>,
    /// Tags by name.
    pub correlation_tags: HashMap<String, String>,
    /// When this node was created.
    pub created_at: SystemTime,
}

impl CorrelationMetadata {
    /// A new root, created now: it is its own root, has no parent, no stage, no tags, and sequence number 0.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// let scan = CorrelationMetadata::new("scan-42".to_string());
    /// assert_eq!(scan.root_correlation_id, scan.correlation_id);
    /// assert_eq!(scan.parent_correlation_id, None);
    /// ```
    #[must_use]
    pub fn new(correlation_id: String) -> Self {
        Self {
            root_correlation_id: correlation_id.clone(),
            correlation_id,
            parent_correlation_id: None,
            sequence_number: 0,
            workflow_stage: None,
            correlation_tags: HashMap::new(),
            created_at: SystemTime::now(),
        }
    }

    /// A node below `parent_id` in the workflow `root_id`, for a caller that knows only the ids.
    ///
    /// Who has the parent itself takes [`create_child`](Self::create_child), which inherits its stage and tags.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// let step = CorrelationMetadata::with_parent("step".to_string(), "scan".to_string(), "case-1".to_string());
    /// assert_eq!(step.parent_correlation_id.as_deref(), Some("scan"));
    /// assert_eq!(step.root_correlation_id, "case-1");
    /// ```
    #[must_use]
    pub fn with_parent(correlation_id: String, parent_id: String, root_id: String) -> Self {
        Self {
            correlation_id,
            parent_correlation_id: Some(parent_id),
            root_correlation_id: root_id,
            sequence_number: 0,
            workflow_stage: None,
            correlation_tags: HashMap::new(),
            created_at: SystemTime::now(),
        }
    }

    /// The same, in the stage `stage`.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// let scan = CorrelationMetadata::new("scan".to_string()).with_stage("analysis".to_string());
    /// assert!(scan.in_stage("analysis"));
    /// ```
    #[must_use]
    pub fn with_stage(mut self, stage: String) -> Self {
        self.workflow_stage = Some(stage);
        self
    }

    /// The same, with a tag more; a tag of the same name is replaced.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// let scan = CorrelationMetadata::new("scan".to_string())
    ///     .with_tag("severity".to_string(), "low".to_string())
    ///     .with_tag("severity".to_string(), "high".to_string());
    /// assert!(scan.has_tag("severity", "high"));
    /// ```
    #[must_use]
    pub fn with_tag(mut self, name: String, value: String) -> Self {
        self.correlation_tags.insert(name, value);
        self
    }

    /// The same, at position `sequence_number` of the workflow.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// assert_eq!(CorrelationMetadata::new("scan".to_string()).with_sequence(7).sequence_number, 7);
    /// ```
    #[must_use]
    pub const fn with_sequence(mut self, sequence_number: u64) -> Self {
        self.sequence_number = sequence_number;
        self
    }

    /// Moves on by one position; stays at `u64::MAX` once there.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// let mut scan = CorrelationMetadata::new("scan".to_string());
    /// scan.increment_sequence();
    /// assert_eq!(scan.sequence_number, 1);
    /// ```
    pub const fn increment_sequence(&mut self) {
        self.sequence_number = self.sequence_number.saturating_add(1);
    }

    /// A child of this node, created now: it inherits root, stage and tags, and counts from 0 again.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// let scan = CorrelationMetadata::new("scan".to_string()).with_stage("analysis".to_string()).with_sequence(7);
    /// let child = scan.create_child("hash".to_string());
    /// assert_eq!(child.parent_correlation_id.as_deref(), Some("scan"));
    /// assert!(child.in_stage("analysis"));
    /// assert_eq!(child.sequence_number, 0);
    /// ```
    #[must_use]
    pub fn create_child(&self, correlation_id: String) -> Self {
        Self {
            correlation_id,
            parent_correlation_id: Some(self.correlation_id.clone()),
            root_correlation_id: self.root_correlation_id.clone(),
            sequence_number: 0,
            workflow_stage: self.workflow_stage.clone(),
            correlation_tags: self.correlation_tags.clone(),
            created_at: SystemTime::now(),
        }
    }

    /// Whether it has the tag `name` with exactly this value.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// let scan = CorrelationMetadata::new("scan".to_string()).with_tag("host".to_string(), "a".to_string());
    /// assert!(scan.has_tag("host", "a"));
    /// assert!(!scan.has_tag("host", "b"));
    /// ```
    #[must_use]
    pub fn has_tag(&self, name: &str, value: &str) -> bool {
        self.correlation_tags.get(name).is_some_and(|found| found == value)
    }

    /// Whether its id matches a pattern, in which `*` is any text, also none, and `?` is any one character.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// let scan = CorrelationMetadata::new("scan-42".to_string());
    /// assert!(scan.matches_pattern("scan-*") && scan.matches_pattern("*-4?"));
    /// assert!(!scan.matches_pattern("scan"), "the pattern is for the whole id");
    /// ```
    #[must_use]
    pub fn matches_pattern(&self, pattern: &str) -> bool {
        matches_glob(pattern, &self.correlation_id)
    }

    /// Whether it is in exactly this stage.
    ///
    /// ```
    /// use daemoneye_eventbus::CorrelationMetadata;
    ///
    /// assert!(!CorrelationMetadata::new("scan".to_string()).in_stage("analysis"));
    /// ```
    #[must_use]
    pub fn in_stage(&self, stage: &str) -> bool {
        self.workflow_stage.as_deref() == Some(stage)
    }
}

/// Whether the whole text matches. Of a pattern that a peer wrote it takes its length times the text's at most: only the last `*` is ever
/// tried again, since what is before it matched with as little as it could.
pub(crate) fn matches_glob(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // Behind the last `*`, and where in the text it is tried next.
    let mut again: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let (mut next_pattern, mut next_text) = (pattern.clone(), text.clone());
        let matched = match (next_pattern.next(), next_text.next()) {
            (Some('*'), _) => {
                again = Some((next_pattern.clone(), text.clone()));
                next_text = text.clone();
                true
            }
            (None, None) => return true,
            (Some('?'), Some(_)) => true,
            (Some(wanted), Some(found)) => wanted == found,
            (None, Some(_)) | (Some(_), None) => false,
        };
        if matched {
            (pattern, text) = (next_pattern, next_text);
            continue;
        }
        let Some((behind, from)) = &mut again else { return false };
        if from.next().is_none() {
            return false;
        }
        (pattern, text) = (behind.clone(), from.clone());
    }
}

/// A new root with a random id (UUID version 4).
impl Default for CorrelationMetadata {
    fn default() -> Self {
        Self::new(Uuid::new_v4().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grandchild_keeps_the_root_of_the_workflow() {
        let root = CorrelationMetadata::new("root".to_string());
        let grandchild = root.create_child("child".to_string()).create_child("grandchild".to_string());
        assert_eq!(grandchild.parent_correlation_id.as_deref(), Some("child"));
        assert_eq!(grandchild.root_correlation_id, "root");
    }

    #[test]
    fn a_tag_given_to_a_child_does_not_reach_its_parent() {
        let parent = CorrelationMetadata::new("parent".to_string());
        let child = parent.create_child("child".to_string()).with_tag("late".to_string(), "yes".to_string());
        assert!(child.has_tag("late", "yes"));
        assert!(!parent.has_tag("late", "yes"));
    }

    #[test]
    fn the_sequence_never_wraps() {
        let mut last = CorrelationMetadata::new("long".to_string()).with_sequence(u64::MAX);
        last.increment_sequence();
        assert_eq!(last.sequence_number, u64::MAX);
    }

    #[test]
    fn two_defaults_are_two_workflows() {
        let (one, other) = (CorrelationMetadata::default(), CorrelationMetadata::default());
        assert_ne!(one.root_correlation_id, other.root_correlation_id);
        assert_eq!(one.root_correlation_id, one.correlation_id);
    }
}

//! How large a correlation may be: what the publisher is told at once, and what a reader judges in what a peer wrote.

use super::CorrelationMetadata;

/// What is too long, or too many, in a correlation or in a filter for them. The caller's doing; nothing has changed.
///
/// ```
/// use daemoneye_eventbus::{CorrelationError, CorrelationMetadata};
///
/// let limit = CorrelationMetadata::ID_BYTES_MAX;
/// let longest = CorrelationMetadata::new("x".repeat(limit));
/// assert_eq!(longest.check(), Ok(()));
///
/// let longer = CorrelationMetadata::new("x".repeat(limit + 1));
/// assert_eq!(longer.check(), Err(CorrelationError::Id { bytes: limit + 1 }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorrelationError {
    /// An id: the node's own, its parent's, or the root's.
    #[error("a correlation id of {bytes} bytes is above the limit of {}", CorrelationMetadata::ID_BYTES_MAX)]
    Id {
        /// How long it is.
        bytes: usize,
    },
    /// The stage.
    #[error(
        "a workflow stage of {bytes} bytes is above the limit of {}",
        CorrelationMetadata::STAGE_BYTES_MAX
    )]
    Stage {
        /// How long it is.
        bytes: usize,
    },
    /// The number of tags.
    #[error("{tags} correlation tags are above the limit of {}", CorrelationMetadata::TAGS_MAX)]
    Tags {
        /// How many there are.
        tags: usize,
    },
    /// The name of a tag.
    #[error(
        "a tag's name of {bytes} bytes is above the limit of {}",
        CorrelationMetadata::TAG_NAME_BYTES_MAX
    )]
    TagName {
        /// How long it is.
        bytes: usize,
    },
    /// The value of a tag.
    #[error(
        "a tag's value of {bytes} bytes is above the limit of {}",
        CorrelationMetadata::TAG_VALUE_BYTES_MAX
    )]
    TagValue {
        /// How long it is.
        bytes: usize,
    },
    /// A pattern for ids, in a filter.
    #[error("a pattern of {bytes} bytes is above the limit of {}", CorrelationMetadata::PATTERN_BYTES_MAX)]
    Pattern {
        /// How long it is.
        bytes: usize,
    },
}

impl CorrelationMetadata {
    /// The most bytes of each of its ids.
    pub const ID_BYTES_MAX: usize = 256;
    /// The most bytes of its stage.
    pub const STAGE_BYTES_MAX: usize = 128;
    /// The most tags.
    pub const TAGS_MAX: usize = 64;
    /// The most bytes of a tag's name.
    pub const TAG_NAME_BYTES_MAX: usize = 128;
    /// The most bytes of a tag's value.
    pub const TAG_VALUE_BYTES_MAX: usize = 1024;
    /// The most bytes of a pattern for ids in a [`CorrelationFilter`](crate::CorrelationFilter).
    pub const PATTERN_BYTES_MAX: usize = 256;

    /// Whether the bus carries it. Whoever publishes with it is told the same.
    ///
    /// # Errors
    /// [`CorrelationError`] says what is above its limit.
    pub fn check(&self) -> Result<(), CorrelationError> {
        check_id(&self.correlation_id)?;
        check_id(&self.root_correlation_id)?;
        self.parent_correlation_id.as_deref().map_or(Ok(()), check_id)?;
        self.workflow_stage.as_deref().map_or(Ok(()), check_stage)?;
        check_tag_count(self.correlation_tags.len())?;
        self.correlation_tags.iter().try_for_each(|(name, value)| check_tag(name, value))
    }
}

const fn within(bytes: usize, limit: usize, error: CorrelationError) -> Result<(), CorrelationError> {
    if bytes <= limit { Ok(()) } else { Err(error) }
}

pub(crate) fn check_id(id: &str) -> Result<(), CorrelationError> {
    let bytes = id.len();
    within(bytes, CorrelationMetadata::ID_BYTES_MAX, CorrelationError::Id { bytes })
}

pub(crate) fn check_stage(stage: &str) -> Result<(), CorrelationError> {
    let bytes = stage.len();
    within(bytes, CorrelationMetadata::STAGE_BYTES_MAX, CorrelationError::Stage { bytes })
}

pub(crate) fn check_tag_count(tags: usize) -> Result<(), CorrelationError> {
    within(tags, CorrelationMetadata::TAGS_MAX, CorrelationError::Tags { tags })
}

pub(crate) fn check_tag(name: &str, value: &str) -> Result<(), CorrelationError> {
    let bytes = name.len();
    within(bytes, CorrelationMetadata::TAG_NAME_BYTES_MAX, CorrelationError::TagName { bytes })?;
    let bytes = value.len();
    within(bytes, CorrelationMetadata::TAG_VALUE_BYTES_MAX, CorrelationError::TagValue { bytes })
}

pub(crate) fn check_pattern(pattern: &str) -> Result<(), CorrelationError> {
    let bytes = pattern.len();
    within(bytes, CorrelationMetadata::PATTERN_BYTES_MAX, CorrelationError::Pattern { bytes })
}

/// Correlations for tests: each has one thing at its limit, or one past it.
#[cfg(test)]
pub(crate) mod extremes {
    use super::*;

    /// What makes one of a size, the limit, and what is said of a size above.
    type Extreme = (fn(usize) -> CorrelationMetadata, usize, fn(usize) -> CorrelationError);

    fn node() -> CorrelationMetadata {
        CorrelationMetadata::new("scan".to_string())
    }

    pub(crate) const ALL: [Extreme; 7] = [
        (
            |n| CorrelationMetadata { correlation_id: "i".repeat(n), ..node() },
            256,
            |bytes| CorrelationError::Id { bytes },
        ),
        (
            |n| CorrelationMetadata { root_correlation_id: "r".repeat(n), ..node() },
            256,
            |bytes| CorrelationError::Id { bytes },
        ),
        (
            |n| CorrelationMetadata { parent_correlation_id: Some("p".repeat(n)), ..node() },
            256,
            |bytes| CorrelationError::Id { bytes },
        ),
        (|n| node().with_stage("s".repeat(n)), 128, |bytes| CorrelationError::Stage { bytes }),
        (
            |n| (0..n).fold(node(), |node, tag| node.with_tag(tag.to_string(), String::new())),
            64,
            |tags| CorrelationError::Tags { tags },
        ),
        (|n| node().with_tag("n".repeat(n), String::new()), 128, |bytes| CorrelationError::TagName { bytes }),
        (
            |n| node().with_tag(String::new(), "v".repeat(n)),
            1_024,
            |bytes| CorrelationError::TagValue { bytes },
        ),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_at_the_limit_and_one_past_it() {
        for (make, limit, error) in extremes::ALL {
            assert_eq!(make(limit).check(), Ok(()), "{limit}");
            assert_eq!(make(limit + 1).check(), Err(error(limit + 1)));
        }
    }
}

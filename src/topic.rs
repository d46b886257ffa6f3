//! Topics and patterns, and the wildcard law: it stands here and nowhere else.
//!
//! A *topic* is a name of 1 to 4 segments, `events.process.batch`. A *pattern* names a set of topics:
//!
//! | segment | matches |
//! |---|---|
//! | a literal, `process` | that segment |
//! | `+` | exactly one segment, whatever it is; `*` is another spelling of it |
//! | `#` | zero or more segments; only as the last segment of the pattern |
//!
//! Both are parsed once. Whoever holds a [`Topic`] or a [`TopicPattern`] holds a legal one and checks nothing
//! again.
//!
//! Three questions can be asked of patterns, and each has an exact answer: does it match a topic
//! ([`TopicPattern::matches`]), does it match all that another one matches ([`TopicPattern::covers`]), and
//! what do two of them both match ([`TopicPattern::intersect`])? The answers follow from one picture. A
//! pattern is a row of fixed segments, and an end that is *closed* or *open* (`#`); so it matches topics of
//! certain lengths (its *span*) that agree with its fixed segments. Since no topic has more than four
//! segments, `a.b.c.d.#` matches only `a.b.c.d`; since none has less than one, `#` and `+.#` match the same
//! topics.
//!
//! The text is kept as it is and split at its dots when it is walked: it is at most 261 bytes long, a walk is
//! not on any path that runs per event (see `routing`), and a clone stays one reference count.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// No topic has more segments.
const LEVELS_MAX: usize = 4;
/// No segment is longer: it holds a 63-byte host label, or an id made of a name and a uuid.
pub(crate) const SEGMENT_BYTES_MAX: usize = 64;
/// Four full segments and the dots between them.
const TOPIC_BYTES_MAX: usize = LEVELS_MAX * SEGMENT_BYTES_MAX + (LEVELS_MAX - 1);
/// A topic's length and `.#`.
const PATTERN_BYTES_MAX: usize = TOPIC_BYTES_MAX + 2;

/// The name that an event or a message is published under: `events.process.batch`.
///
/// 1 to 4 segments with dots between them, each 1 to 64 bytes of `a-z`, `0-9`, `_` and `-`. The last one may
/// be an id, and so may also use `A-Z`. A clone costs a reference count.
///
/// ```
/// use daemoneye_eventbus::Topic;
///
/// let topic = Topic::new("control.collector.config.procmond-7F")?;
/// assert_eq!(topic.as_str(), "control.collector.config.procmond-7F");
/// assert!(Topic::new("events.process.+").is_err(), "that is a pattern");
/// # Ok::<(), daemoneye_eventbus::TopicError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Topic(Arc<str>);

impl Topic {
    /// Parses a topic.
    ///
    /// # Errors
    /// [`TopicError`] says which rule the text breaks, and where.
    ///
    /// ```
    /// use daemoneye_eventbus::{Topic, TopicError};
    ///
    /// assert!(Topic::new("events.process.start").is_ok());
    /// assert_eq!(Topic::new("events..start"), Err(TopicError::EmptySegment { at: 7 }));
    /// ```
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_size(text, TOPIC_BYTES_MAX)?;
        if let Some((at, wildcard)) = text.char_indices().find(|&(_, c)| is_wildcard(c)) {
            return Err(TopicError::WildcardInTopic { wildcard, at });
        }
        check_levels(text)?;
        for place in places(text) {
            check_literal(&place)?;
        }
        Ok(Self(text.into()))
    }

    /// The topic as it was written.
    ///
    /// ```
    /// # use daemoneye_eventbus::Topic;
    /// assert_eq!(Topic::new("alerts.high")?.as_str(), "alerts.high");
    /// # Ok::<(), daemoneye_eventbus::TopicError>(())
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, first to last; there are 1 to 4.
    ///
    /// ```
    /// # use daemoneye_eventbus::Topic;
    /// let topic = Topic::new("events.process.batch")?;
    /// assert!(topic.segments().eq(["events", "process", "batch"]));
    /// assert_eq!(topic.segments().next_back(), Some("batch"));
    /// # Ok::<(), daemoneye_eventbus::TopicError>(())
    /// ```
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.0.split('.')
    }

    /// Whether what is published on it are control messages.
    pub(crate) fn is_control(&self) -> bool {
        self.segments().next() == Some("control")
    }
}

/// A set of topics: what a subscription asks for, and what the rows of the topic table are written in.
///
/// Segments are literals as in a [`Topic`], `+` (exactly one segment, also spelled `*`) or, last, `#` (zero
/// or more segments). There are at most 4, not counting a `#`. Equality and order are those of the spelling,
/// with `*` read as `+`: `#` and `+.#` match the same topics and are two patterns.
///
/// ```
/// use daemoneye_eventbus::{Topic, TopicPattern};
///
/// let pattern = TopicPattern::new("events.*.anomaly")?;
/// assert_eq!(pattern.as_str(), "events.+.anomaly");
/// assert!(pattern.matches(&Topic::new("events.network.anomaly")?));
/// # Ok::<(), daemoneye_eventbus::TopicError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TopicPattern(Arc<str>);

/// One segment of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment<'a> {
    /// Exactly this segment.
    Literal(&'a str),
    /// `+`: one segment, whatever it is.
    One,
    /// `#`: zero or more segments. Always the last of its pattern.
    Rest,
}

impl TopicPattern {
    /// Parses a pattern. `*` becomes `+`.
    ///
    /// # Errors
    /// [`TopicError`] says which rule the text breaks, and where.
    ///
    /// ```
    /// use daemoneye_eventbus::{TopicError, TopicPattern};
    ///
    /// assert_eq!(TopicPattern::new("events.*")?.as_str(), "events.+");
    /// assert_eq!(TopicPattern::new("events.#.batch"), Err(TopicError::RestNotLast { at: 7 }));
    /// # Ok::<(), TopicError>(())
    /// ```
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_size(text, PATTERN_BYTES_MAX)?;
        if text != "#" {
            check_levels(text.strip_suffix(".#").unwrap_or(text))?;
        }
        for place in places(text) {
            match place.segment {
                "+" | "*" => {}
                "#" if place.last => {}
                "#" => return Err(TopicError::RestNotLast { at: place.at }),
                _ => check_literal(&place)?,
            }
        }
        // A `*` is a whole segment here, so this touches nothing else.
        Ok(Self(text.replace('*', "+").into()))
    }

    /// The pattern as it was written, but with `+` for `*`.
    ///
    /// ```
    /// # use daemoneye_eventbus::TopicPattern;
    /// assert_eq!(TopicPattern::new("events.*.#")?.as_str(), "events.+.#");
    /// # Ok::<(), daemoneye_eventbus::TopicError>(())
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` is one of those that this pattern names.
    ///
    /// ```
    /// # use daemoneye_eventbus::{Topic, TopicPattern};
    /// let process_events = TopicPattern::new("events.process.#")?;
    /// assert!(process_events.matches(&Topic::new("events.process.start")?));
    /// assert!(process_events.matches(&Topic::new("events.process")?), "`#` may stand for nothing");
    /// assert!(!process_events.matches(&Topic::new("events.network.start")?));
    /// # Ok::<(), daemoneye_eventbus::TopicError>(())
    /// ```
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut names = topic.segments();
        for segment in self.segments() {
            match segment {
                Segment::Rest => return true,
                Segment::One if names.next().is_none() => return false,
                Segment::One => {}
                Segment::Literal(literal) if names.next() != Some(literal) => return false,
                Segment::Literal(_) => {}
            }
        }
        names.next().is_none()
    }

    /// Whether this pattern matches every topic that `other` matches.
    ///
    /// ```
    /// # use daemoneye_eventbus::TopicPattern;
    /// let all_events = TopicPattern::new("events.#")?;
    /// let anomalies = TopicPattern::new("events.+.anomaly")?;
    /// assert!(all_events.covers(&anomalies));
    /// assert!(!anomalies.covers(&all_events));
    /// # Ok::<(), daemoneye_eventbus::TopicError>(())
    /// ```
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let (span, other_span) = (self.span(), other.span());
        if span.start() > other_span.start() || span.end() < other_span.end() {
            return false;
        }
        // `other` may have fewer fixed segments than we do only where it is `#` and we are `+.#`.
        let mut theirs = other.fixed();
        self.fixed().all(|ours| {
            let theirs = theirs.next();
            ours == Segment::One || theirs == Some(ours)
        })
    }

    /// The pattern that matches exactly the topics that both patterns match; `None` if there is no such
    /// topic.
    ///
    /// One pattern always suffices: where both have a fixed segment, the two agree, or one is `+` and gives
    /// way to the other, or there is nothing in common; beyond the shorter one's fixed segments, the longer
    /// one's stand if the shorter one is open; and what is left is open only if both are.
    ///
    /// ```
    /// # use daemoneye_eventbus::TopicPattern;
    /// let asked = TopicPattern::new("events.#")?;
    /// let allowed = TopicPattern::new("+.process.+")?;
    /// assert_eq!(asked.intersect(&allowed), Some(TopicPattern::new("events.process.+")?));
    /// assert_eq!(asked.intersect(&TopicPattern::new("control.#")?), None);
    /// # Ok::<(), daemoneye_eventbus::TopicError>(())
    /// ```
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let (mut ours, mut theirs) = (self.fixed(), other.fixed());
        let mut both = Vec::with_capacity(LEVELS_MAX + 1);
        loop {
            both.push(match (ours.next(), theirs.next()) {
                (None, None) => break,
                (Some(one), None) if other.is_open() => one,
                (None, Some(one)) if self.is_open() => one,
                (Some(Segment::One), Some(one)) | (Some(one), Some(Segment::One)) => one,
                (Some(one), Some(same)) if one == same => one,
                _ => return None,
            });
        }
        if self.is_open() && other.is_open() {
            both.push(Segment::Rest);
        }
        Some(Self::from_segments(&both))
    }

    /// Whether the pattern has no wildcard, so that it names one topic.
    ///
    /// ```
    /// # use daemoneye_eventbus::TopicPattern;
    /// assert!(TopicPattern::new("events.process.batch")?.is_literal());
    /// assert!(!TopicPattern::new("events.process.#")?.is_literal());
    /// # Ok::<(), daemoneye_eventbus::TopicError>(())
    /// ```
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.segments().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// The segments, first to last.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.0.split('.').map(|text| match text {
            "+" => Segment::One,
            "#" => Segment::Rest,
            literal => Segment::Literal(literal),
        })
    }

    /// The segments without a `#`: there are at most [`LEVELS_MAX`].
    fn fixed(&self) -> impl Iterator<Item = Segment<'_>> {
        self.segments().filter(|&segment| segment != Segment::Rest)
    }

    /// Whether the pattern ends with `#`.
    fn is_open(&self) -> bool {
        self.0.ends_with('#')
    }

    /// How many segments a topic may have that this pattern matches. Never empty.
    fn span(&self) -> RangeInclusive<usize> {
        let fixed = self.fixed().count();
        let end = if self.is_open() { LEVELS_MAX } else { fixed };
        fixed.max(1)..=end
    }

    /// Writes segments of legal patterns down again. Whoever calls this has kept their order, so that upper
    /// case and `#` stay where they may be.
    fn from_segments(segments: &[Segment<'_>]) -> Self {
        let texts: Vec<&str> = segments.iter().map(Segment::text).collect();
        Self(texts.join(".").into())
    }
}

impl<'a> Segment<'a> {
    fn text(&self) -> &'a str {
        match self {
            Self::Literal(literal) => literal,
            Self::One => "+",
            Self::Rest => "#",
        }
    }
}

impl From<Topic> for TopicPattern {
    /// The pattern that matches this topic and no other.
    fn from(topic: Topic) -> Self {
        Self(topic.0)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.as_str().to_owned()
    }
}

impl From<TopicPattern> for String {
    fn from(pattern: TopicPattern) -> Self {
        pattern.as_str().to_owned()
    }
}

impl TryFrom<String> for Topic {
    type Error = TopicError;

    fn try_from(text: String) -> Result<Self, TopicError> {
        Self::new(&text)
    }
}

impl TryFrom<String> for TopicPattern {
    type Error = TopicError;

    fn try_from(text: String) -> Result<Self, TopicError> {
        Self::new(&text)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for TopicPattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        Self::new(text)
    }
}

impl FromStr for TopicPattern {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        Self::new(text)
    }
}

/// Why a text is not a topic, or not a pattern: the fault of whoever wrote it.
///
/// `at` is a position in bytes from the start of the text. No variant holds the text itself: who passed it
/// has it.
///
/// ```
/// use daemoneye_eventbus::{Topic, TopicError};
///
/// let error = Topic::new("Events.process").unwrap_err();
/// assert_eq!(error, TopicError::BadCharacter { character: 'E', at: 0 });
/// assert_eq!(
///     error.to_string(),
///     "'E' at byte 0: a segment is made of a-z, 0-9, `_` and `-`, the last one also of A-Z"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The text is empty.
    #[error("empty: at least one segment is needed")]
    Empty,
    /// The text is longer than any legal one; nothing else of it was looked at.
    #[error("{bytes} bytes: at most {bytes_max} are allowed")]
    TooLong {
        /// Length of the text.
        bytes: usize,
        /// Length that is allowed.
        bytes_max: usize,
    },
    /// There are more than four segments, a `#` at the end of a pattern not counted.
    #[error("{levels} levels: at most {LEVELS_MAX} are allowed, and `#` after them in a pattern")]
    TooManyLevels {
        /// Number of segments.
        levels: usize,
    },
    /// Nothing stands before, between or after two dots.
    #[error("empty segment at byte {at}: at least one character is needed")]
    EmptySegment {
        /// Where the segment should be.
        at: usize,
    },
    /// A segment is too long.
    #[error("segment of {bytes} bytes at byte {at}: at most {SEGMENT_BYTES_MAX} are allowed")]
    SegmentTooLong {
        /// Length of the segment.
        bytes: usize,
        /// Where the segment begins.
        at: usize,
    },
    /// A segment holds a character that it may not hold. Upper case is for the last segment only.
    #[error(
        "{character:?} at byte {at}: a segment is made of a-z, 0-9, `_` and `-`, the last one also of A-Z"
    )]
    BadCharacter {
        /// The first such character.
        character: char,
        /// Where it stands.
        at: usize,
    },
    /// A pattern has a wildcard next to other characters, as in `events.proc+`.
    #[error("`{wildcard}` at byte {at} is part of a segment: a wildcard stands alone between dots")]
    WildcardInsideSegment {
        /// `+`, `*` or `#`.
        wildcard: char,
        /// Where it stands.
        at: usize,
    },
    /// A pattern goes on after `#`.
    #[error("`#` at byte {at} is not the last segment: nothing may follow it")]
    RestNotLast {
        /// Where the `#` stands.
        at: usize,
    },
    /// A topic has a wildcard. Only patterns may.
    #[error("`{wildcard}` at byte {at}: a topic names one thing, wildcards are for patterns")]
    WildcardInTopic {
        /// `+`, `*` or `#`.
        wildcard: char,
        /// Where it stands.
        at: usize,
    },
}

/// A segment, and where in the text it stands.
struct Place<'a> {
    segment: &'a str,
    at: usize,
    last: bool,
}

fn places(text: &str) -> impl Iterator<Item = Place<'_>> {
    text.split('.').scan(0, |next, segment| {
        let at = *next;
        *next = at + segment.len() + ".".len();
        Some(Place { segment, at, last: at + segment.len() == text.len() })
    })
}

/// Looked at before anything else, so that a hostile text costs one comparison.
fn check_size(text: &str, bytes_max: usize) -> Result<(), TopicError> {
    match text.len() {
        0 => Err(TopicError::Empty),
        bytes if bytes > bytes_max => Err(TopicError::TooLong { bytes, bytes_max }),
        _ => Ok(()),
    }
}

fn check_levels(text: &str) -> Result<(), TopicError> {
    match text.split('.').count() {
        levels if levels > LEVELS_MAX => Err(TopicError::TooManyLevels { levels }),
        _ => Ok(()),
    }
}

fn check_literal(place: &Place<'_>) -> Result<(), TopicError> {
    let &Place { segment, at, last } = place;
    if segment.is_empty() {
        return Err(TopicError::EmptySegment { at });
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        return Err(TopicError::SegmentTooLong { bytes: segment.len(), at });
    }
    let legal = |c: char| is_name(c) || (last && c.is_ascii_uppercase());
    match segment.char_indices().find(|&(_, c)| !legal(c)) {
        None => Ok(()),
        Some((offset, wildcard)) if is_wildcard(wildcard) => {
            Err(TopicError::WildcardInsideSegment { wildcard, at: at + offset })
        }
        Some((offset, character)) => Err(TopicError::BadCharacter { character, at: at + offset }),
    }
}

/// Whether `c` may stand in any segment, and in a component's name.
pub(crate) fn is_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-')
}

fn is_wildcard(c: char) -> bool {
    matches!(c, '+' | '*' | '#')
}

#[cfg(test)]
mod tests;

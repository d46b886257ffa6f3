//! Messages: what goes over a topic as bytes, with all that the bus knows of it.
//!
//! Who speaks a language of his own over the bus (calls between components, tasks) takes messages in place of events. A message is an owned
//! value and says everything of itself, so it can be kept, or carried on, as bytes. Whoever wrote such bytes, they are judged as a peer's.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::batch::{from_epoch, to_epoch};
use crate::config::{MESSAGE_BYTES_MAX, MESSAGE_TAG_BYTES};
use crate::correlation::{CorrelationError, CorrelationMetadata};
use crate::topic::Topic;
use crate::wire::codec::{self, Undecodable};

const HEARTBEAT_TOPIC: &str = "control.health.heartbeat";
const SHUTDOWN_TOPIC: &str = "control.shutdown";

/// What a message is for. More will come, so a `match` on it needs a catch-all arm.
///
/// ```
/// use daemoneye_eventbus::MessageType;
///
/// assert_eq!(MessageType::default(), MessageType::Event);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum MessageType {
    /// It tells of something.
    #[default]
    Event,
    /// It asks for something, or answers.
    Control,
    /// It says that its publisher is alive.
    Heartbeat,
    /// It says that something is to end.
    Shutdown,
}

impl MessageType {
    /// By the topic that it came on: nothing else says so. `control.health.heartbeat` and what is below it, `control.shutdown`, and the
    /// rest of `control`; all else are events.
    pub(crate) fn of(topic: &Topic) -> Self {
        let mut segments = topic.segments();
        match (segments.next(), segments.next(), segments.next()) {
            (Some("control"), Some("health"), Some("heartbeat")) => Self::Heartbeat,
            (Some("control"), Some("shutdown"), _) => Self::Shutdown,
            (Some("control"), ..) => Self::Control,
            _ => Self::Event,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Event => 0,
            Self::Control => 1,
            Self::Heartbeat => 2,
            Self::Shutdown => 3,
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Event),
            1 => Some(Self::Control),
            2 => Some(Self::Heartbeat),
            3 => Some(Self::Shutdown),
            _ => None,
        }
    }
}

/// Why there is no message in bytes, or are no bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is above the limit.
    #[error("a message of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The bytes are not those of any message. The fault of who wrote them.
    #[error("{bytes} bytes hold no message")]
    Malformed {
        /// How many there are.
        bytes: usize,
    },
    /// More follows the message. The fault of who wrote it.
    #[error("{surplus} bytes follow the message")]
    Trailing {
        /// How many.
        surplus: usize,
    },
    /// Its correlation is above a limit.
    #[error(transparent)]
    Correlation(#[from] CorrelationError),
    /// Its type is none that this version knows: somebody's of a later one.
    #[error("messages of type {code} are unknown to this version")]
    UnknownType {
        /// What stands there.
        code: u8,
    },
}

/// Bytes on a topic, and what the bus knows of them.
///
/// One that [came off the bus](crate::MessageReceiver) has the payload that was published, byte for byte; where that was a typed event, its
/// payload is what [`CollectionEvent::from_bytes`](crate::CollectionEvent::from_bytes) reads.
///
/// ```
/// use daemoneye_eventbus::{CorrelationMetadata, Message, MessageType};
///
/// let scan = CorrelationMetadata::new("scan-42".to_string()).with_stage("collection".to_string());
/// let task = Message::control_with_metadata("control.collector.task".to_string(), scan, b"look".to_vec(), 1);
/// assert_eq!(task.message_type, MessageType::Control);
///
/// let kept = task.to_bytes()?;
/// assert_eq!(Message::from_bytes(&kept)?, task);
/// assert!(Message::from_bytes(&kept[1..]).is_err());
/// # Ok::<(), daemoneye_eventbus::MessageError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Unique. All who receive the same event have the same id for it.
    pub id: Uuid,
    /// Where it was published.
    pub topic: String,
    /// The workflow that it belongs to.
    pub correlation_metadata: CorrelationMetadata,
    /// What it says. The bus does not look inside.
    pub payload: Vec<u8>,
    /// Its publisher's own number of it. Publishers number what goes to all their topics together.
    pub sequence: u64,
    /// When it was published. A claim of the publisher, not a measurement of the bus.
    pub timestamp: SystemTime,
    /// What it is for.
    pub message_type: MessageType,
    /// Its part of what a channel may hold.
    pub(crate) held: Held,
}

impl fmt::Debug for Message {
    /// All but the payload, of which it says how long it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("correlation_metadata", &self.correlation_metadata)
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .field("sequence", &self.sequence)
            .field("timestamp", &self.timestamp)
            .field("message_type", &self.message_type)
            .finish_non_exhaustive()
    }
}

/// A part of a budget, which goes back to it when the message is dropped. It says nothing of the message, and a clone has none.
#[derive(Debug, Default)]
pub(crate) struct Held(
    #[expect(dead_code, reason = "it is there to be dropped")] Option<OwnedSemaphorePermit>,
);

impl Clone for Held {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl PartialEq for Held {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Held {}

impl Message {
    /// A message with a new id (UUID version 4), made now. Nobody looks at the topic before it is published.
    #[must_use]
    pub fn new(
        topic: String,
        correlation_metadata: CorrelationMetadata,
        payload: Vec<u8>,
        sequence: u64,
        message_type: MessageType,
    ) -> Self {
        let (id, timestamp) = (Uuid::new_v4(), SystemTime::now());
        let held = Held::default();
        Self { id, topic, correlation_metadata, payload, sequence, timestamp, message_type, held }
    }

    /// The memory that it takes, or a little more.
    pub(crate) fn weight(&self) -> usize {
        let correlation = &self.correlation_metadata;
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let tags = correlation.correlation_tags.iter();
        let tags = tags.map(|(tag, value)| MESSAGE_TAG_BYTES + tag.len() + value.len()).sum::<usize>();
        let correlation = correlation.correlation_id.len()
            + correlation.root_correlation_id.len()
            + optional(&correlation.parent_correlation_id)
            + optional(&correlation.workflow_stage);
        size_of::<Self>() + self.topic.len() + self.payload.len() + correlation + tags
    }

    /// The same, with its part of what a channel may hold.
    pub(crate) fn weighing(mut self, part: OwnedSemaphorePermit) -> Self {
        self.held = Held(Some(part));
        self
    }

    /// The same, in a workflow of which only the id is known.
    #[must_use]
    pub fn new_with_correlation_id(
        topic: String,
        correlation_id: String,
        payload: Vec<u8>,
        sequence: u64,
        message_type: MessageType,
    ) -> Self {
        Self::new(topic, CorrelationMetadata::new(correlation_id), payload, sequence, message_type)
    }

    /// One that tells of something.
    #[must_use]
    pub fn event(topic: String, correlation_id: String, payload: Vec<u8>, sequence: u64) -> Self {
        Self::new_with_correlation_id(topic, correlation_id, payload, sequence, MessageType::Event)
    }

    /// One that tells of something, with a whole correlation.
    #[must_use]
    pub fn event_with_metadata(
        topic: String,
        correlation_metadata: CorrelationMetadata,
        payload: Vec<u8>,
        sequence: u64,
    ) -> Self {
        Self::new(topic, correlation_metadata, payload, sequence, MessageType::Event)
    }

    /// One that asks for something.
    #[must_use]
    pub fn control(topic: String, correlation_id: String, payload: Vec<u8>, sequence: u64) -> Self {
        Self::new_with_correlation_id(topic, correlation_id, payload, sequence, MessageType::Control)
    }

    /// One that asks for something, with a whole correlation.
    #[must_use]
    pub fn control_with_metadata(
        topic: String,
        correlation_metadata: CorrelationMetadata,
        payload: Vec<u8>,
        sequence: u64,
    ) -> Self {
        Self::new(topic, correlation_metadata, payload, sequence, MessageType::Control)
    }

    /// One without a payload that says that its publisher is alive, on `control.health.heartbeat`.
    #[must_use]
    pub fn heartbeat(sequence: u64) -> Self {
        let correlation = CorrelationMetadata::default();
        Self::new(HEARTBEAT_TOPIC.to_owned(), correlation, Vec::new(), sequence, MessageType::Heartbeat)
    }

    /// One without a payload that says that all is to end, on `control.shutdown`.
    #[must_use]
    pub fn shutdown() -> Self {
        let correlation = CorrelationMetadata::default();
        Self::new(SHUTDOWN_TOPIC.to_owned(), correlation, Vec::new(), 0, MessageType::Shutdown)
    }

    /// The message as bytes. The same message gives the same bytes.
    ///
    /// # Errors
    /// [`MessageError::TooLarge`] above 2 MiB, [`MessageError::Correlation`] if its correlation is above a limit.
    pub fn to_bytes(&self) -> Result<Vec<u8>, MessageError> {
        self.correlation_metadata.check()?;
        let bytes = codec::encode(&Form::of(self));
        check_length(bytes.len())?;
        Ok(bytes)
    }

    /// The message in such bytes: exactly one.
    ///
    /// # Errors
    /// [`MessageError`] says what is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        check_length(bytes.len())?;
        let form: Form<'static> = codec::decode_kept(bytes).map_err(|error| match error {
            Undecodable::Malformed { bytes } => MessageError::Malformed { bytes },
            Undecodable::Trailing { surplus } => MessageError::Trailing { surplus },
        })?;
        let code = form.message_type;
        let message_type = MessageType::of_code(code).ok_or(MessageError::UnknownType { code })?;
        let message = form.into_message(message_type);
        let message = message.ok_or(MessageError::Malformed { bytes: bytes.len() })?;
        message.correlation_metadata.check()?;
        Ok(message)
    }
}

const fn check_length(bytes: usize) -> Result<(), MessageError> {
    match bytes {
        0..=MESSAGE_BYTES_MAX => Ok(()),
        _ => Err(MessageError::TooLarge { bytes, limit: MESSAGE_BYTES_MAX }),
    }
}

/// A message as it is written down. Times may lie before 1970, which serde's own form of them can't say; tags are in order.
#[derive(Serialize, Deserialize)]
struct Form<'a> {
    id: [u8; 16],
    topic: Cow<'a, str>,
    message_type: u8,
    sequence: u64,
    timestamp: (i64, u32),
    correlation_id: Cow<'a, str>,
    parent: Option<Cow<'a, str>>,
    root: Cow<'a, str>,
    correlation_sequence: u64,
    stage: Option<Cow<'a, str>>,
    tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    created_at: (i64, u32),
    payload: Bytes<'a>,
}

impl<'a> Form<'a> {
    fn of(message: &'a Message) -> Self {
        let correlation = &message.correlation_metadata;
        let tags = correlation.correlation_tags.iter();
        let mut tags: Vec<_> = tags.map(|(tag, value)| (tag.into(), value.into())).collect();
        tags.sort_unstable();
        Self {
            id: message.id.into_bytes(),
            topic: (&message.topic).into(),
            message_type: message.message_type.code(),
            sequence: message.sequence,
            timestamp: to_epoch(message.timestamp),
            correlation_id: (&correlation.correlation_id).into(),
            parent: correlation.parent_correlation_id.as_ref().map(Into::into),
            root: (&correlation.root_correlation_id).into(),
            correlation_sequence: correlation.sequence_number,
            stage: correlation.workflow_stage.as_ref().map(Into::into),
            tags,
            created_at: to_epoch(correlation.created_at),
            payload: Bytes((&message.payload).into()),
        }
    }

    /// `None`: tags are not in order or not distinct, or a clock can't hold a time.
    fn into_message(self, message_type: MessageType) -> Option<Message> {
        if !self.tags.is_sorted_by(|(one, _), (next, _)| one < next) {
            return None;
        }
        let tags = self.tags.into_iter().map(|(tag, value)| (tag.into_owned(), value.into_owned()));
        let time = |(seconds, nanos)| from_epoch(seconds, nanos);
        Some(Message {
            id: Uuid::from_bytes(self.id),
            topic: self.topic.into_owned(),
            correlation_metadata: CorrelationMetadata {
                correlation_id: self.correlation_id.into_owned(),
                parent_correlation_id: self.parent.map(Cow::into_owned),
                root_correlation_id: self.root.into_owned(),
                sequence_number: self.correlation_sequence,
                workflow_stage: self.stage.map(Cow::into_owned),
                correlation_tags: tags.collect::<HashMap<_, _>>(),
                created_at: time(self.created_at)?,
            },
            payload: self.payload.0.into_owned(),
            sequence: self.sequence,
            timestamp: time(self.timestamp)?,
            message_type,
            held: Held::default(),
        })
    }
}

/// Bytes in one piece: serde takes them for a list of numbers, one by one.
struct Bytes<'a>(Cow<'a, [u8]>);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        Ok(Bytes(deserializer.deserialize_byte_buf(Visitor)?.into()))
    }
}

#[cfg(test)]
mod tests;

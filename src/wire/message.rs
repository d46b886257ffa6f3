//! The vocabulary of the control plane.
//!
//! A client sends [`Request`]s, the broker [`Notice`]s. A request with a `request` number is answered by exactly one notice
//! with the same number. A notice with an `order` number asks the client to do something and is answered by
//! [`Request::Done`] with that number, once it is done; notices are carried out in the order in which they come.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use shm::{Descriptor, SegmentName};

use super::proof::{Credential, Needed, Nonce, Proof};
use super::relayed::RelayedRecords;
use super::{Claims, Fact, Resource, Sharer, TotalClaim};
use crate::access::{Denial, Withheld};
use crate::config::FRAME_MEMORY_MAX;
use crate::topic::{Topic, TopicPattern};

/// The life of one broker; a new one for each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Epoch(pub(crate) u64);

/// A ring, within one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct RingId(pub(crate) u64);

/// A publisher, within one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PublisherId(pub(crate) u64);

/// A step that the broker waits for, within one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct OrderId(pub(crate) u64);

/// What opens a segment: a descriptor that comes with the frame, or a name in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Handle {
    Descriptor,
    Name(#[serde(with = "name")] SegmentName),
}

impl Handle {
    /// A handle of ours, as it is sent.
    pub(crate) fn split(handle: shm::Handle) -> (Self, Option<Descriptor>) {
        match handle {
            shm::Handle::Descriptor(descriptor) => (Self::Descriptor, Some(descriptor)),
            shm::Handle::Name(name) => (Self::Name(name), None),
        }
    }

    /// A handle as it was sent. `None`: its descriptor is missing.
    pub(crate) fn join(self, descriptor: Option<Descriptor>) -> Option<shm::Handle> {
        match self {
            Self::Descriptor => descriptor.map(shm::Handle::Descriptor),
            Self::Name(name) => Some(shm::Handle::Name(name)),
        }
    }

    /// Where a segment comes from that is opened so.
    pub(crate) fn backing(self) -> shm::Backing {
        match self {
            Self::Descriptor => shm::Backing::Memfd,
            Self::Name(_) => shm::Backing::Named,
        }
    }
}

/// A name as text; what is not well-formed is no message.
mod name {
    use serde::{Deserialize as _, Deserializer, Serializer, de};
    use shm::SegmentName;

    pub(super) fn serialize<S: Serializer>(name: &SegmentName, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SegmentName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The numbers of [`shm::Backing`] on the wire.
#[derive(Serialize, Deserialize)]
#[serde(remote = "shm::Backing")]
enum Backing {
    Memfd,
    Named,
}

/// The versions of the protocol that one side speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// What this build speaks.
    pub(crate) const OURS: Self = Self { oldest: 1, newest: 2 };

    /// The newest version that both sides speak.
    pub(crate) fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// The first message of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) versions: Versions,
    /// Optional abilities, a bit each. None exists in version 1.
    pub(crate) features: u64,
    pub(crate) client_id: String,
    pub(crate) nonce: Nonce,
    pub(crate) credential: Credential,
    pub(crate) life: Life,
    /// That the client knows the secret of its credential, over all of the above and the broker's greeting.
    pub(crate) proof: Option<Proof>,
}

/// One of the sessions that a client has, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// The client's own number, made up once. It means something together with the component alone, which the broker knows for sure.
    pub(crate) client: u64,
    /// Sessions that it had before.
    pub(crate) before: u32,
}

/// The first version that has rings over the broker.
pub(crate) const RELAY_SINCE: u16 = 2;
/// The first version in which clients say that their subscriptions have begun.
pub(crate) const BEGUN_SINCE: u16 = 2;

/// Client to broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    Hello(Box<Hello>),
    /// Resolve a topic for a publisher of this session; both are numbered by the client, from 0 and without gaps.
    Declare {
        request: u32,
        publisher: u32,
        topic_number: u32,
        topic: String,
    },
    /// The publisher is gone.
    ClosePublisher {
        publisher: u32,
    },
    Subscribe {
        request: u32,
        subscription: u32,
        #[serde(deserialize_with = "list")]
        patterns: Vec<String>,
        /// Data bytes of rings that come to be for it; `None`: what the broker has for all.
        ring_bytes: Option<u64>,
    },
    /// Not answered: a subscription that was dropped waits for nothing.
    Unsubscribe {
        subscription: u32,
    },
    /// Our segment of a ring, as a publisher.
    ProducerSegment {
        ring: RingId,
        handle: Handle,
    },
    /// Our segment of a ring, as a subscriber.
    ConsumerSegment {
        ring: RingId,
        handle: Handle,
    },
    /// The order was carried out.
    Done {
        order: OrderId,
    },
    /// The ring, or what belongs to it, can't be had on this side.
    NoRing {
        ring: RingId,
        cause: String,
    },
    /// The other side of the ring broke its laws; we do nothing more with it.
    Poisoned {
        ring: RingId,
        violation: String,
    },
    /// A client that has come back: what it had subscribed to before it has asked for again, and been answered.
    Returned,
    /// The answer to [`Notice::Tell`]. Of version 2.
    Told {
        claims: Box<Claims>,
    },
    /// What the broker knows of its clients, and they say of themselves. For its own user and root. Of version 2.
    Statistics {
        request: u32,
    },
    /// RelayedRecords of a ring that leads over the broker. Of version 2.
    Relay {
        ring: RingId,
        records: RelayedRecords,
    },
    /// So much of what was relayed has been read, in all, of the ring's window. Of version 2.
    Took {
        ring: RingId,
        cost: u64,
    },
    /// The answer to [`Notice::Finish`]. Of version 2.
    Finished,
    /// All subscriptions that were answered since the last such word take what comes for them. Of version 2.
    Begun,
    /// The client goes, and this is what it has counted. Of version 2.
    Leaving {
        totals: TotalClaim,
    },
}

impl Request {
    /// The ring that it is about.
    pub(crate) fn ring_mut(&mut self) -> Option<&mut RingId> {
        match self {
            Self::ProducerSegment { ring, .. }
            | Self::ConsumerSegment { ring, .. }
            | Self::NoRing { ring, .. }
            | Self::Poisoned { ring, .. }
            | Self::Relay { ring, .. }
            | Self::Took { ring, .. } => Some(ring),
            _ => None,
        }
    }
}

/// A list that takes the memory of what is in its frame. By itself serde sets up to 1 MiB aside for what the length claims, and
/// bincode counts 8 bytes for an empty string, which has 24.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == FRAME_MEMORY_MAX / size_of::<T>() {
                    return Err(A::Error::custom("the list takes more memory than a frame may"));
                }
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(List(PhantomData))
}

/// Where a publisher's events of one topic go: a slot of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotTarget {
    pub(crate) ring: RingId,
    pub(crate) slot: u16,
    pub(crate) generation: u16,
}

/// What a client learns when it is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) version: u16,
    pub(crate) epoch: Epoch,
    /// The name that the session is known by.
    pub(crate) component: String,
    /// Data bytes of a ring that nobody has asked to be of another size. Of what fits into it no event is refused.
    pub(crate) ring_bytes: u64,
    /// What rings are made of.
    #[serde(with = "Backing")]
    pub(crate) backing: shm::Backing,
    /// That the broker knows what the client has proven to know. Nothing of a welcome counts before it is checked.
    pub(crate) proof: Option<Proof>,
}

/// Broker to client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Notice {
    Welcome(Welcome),
    /// The answer to a request that is not granted; request 0 is the hello.
    Refused {
        request: u32,
        refusal: Refusal,
    },
    Declared {
        request: u32,
        publisher: PublisherId,
    },
    /// `missed`: components that will not be heard: their session ended because they did not install the route in time or had no memory
    /// for a ring, or they were parted from this one over a broken ring.
    Subscribed {
        request: u32,
        #[serde(deserialize_with = "list")]
        granted: Vec<TopicPattern>,
        #[serde(deserialize_with = "list")]
        withheld: Vec<Withheld>,
        #[serde(deserialize_with = "list")]
        missed: Vec<String>,
    },
    /// Make the writing segment of a ring to the client of this number, of `subscriber`, for so many data bytes. With the doorbell's end.
    MakeProducerSegment {
        ring: RingId,
        publisher: u32,
        ring_bytes: u64,
        subscriber: String,
        client: u64,
    },
    /// Make the reading side's segment of a ring from `publisher` of `component`: by its client's number, and that client's number for
    /// it, it is known again. With the doorbell's end.
    MakeConsumerSegment {
        ring: RingId,
        publisher: PublisherId,
        component: String,
        client: u64,
        number: u32,
    },
    /// The consumer's segment: the ring is complete.
    AttachProducer {
        ring: RingId,
        handle: Handle,
    },
    /// The producer's segment, for so many data bytes: the ring is complete.
    AttachConsumer {
        ring: RingId,
        handle: Handle,
        ring_bytes: u64,
    },
    /// The slot of this ring carries this topic from now on.
    Grant {
        order: OrderId,
        ring: RingId,
        slot: u16,
        generation: u16,
        topic: Topic,
    },
    /// Send events of this topic there too; without a target: to the subscriptions of this session.
    Route {
        order: OrderId,
        publisher: u32,
        topic_number: u32,
        target: Option<SlotTarget>,
    },
    /// Send events of this topic there no longer.
    Unroute {
        order: OrderId,
        publisher: u32,
        topic_number: u32,
        ring: Option<RingId>,
    },
    /// The slot carries nothing any more; what still comes on it is skipped.
    Revoke {
        ring: RingId,
        slot: u16,
    },
    /// The ring ends: a producer drops it, a consumer reads what is there and drops it. `accused`: the other side says that
    /// this one broke it, and how.
    CloseRing {
        ring: RingId,
        accused: Option<String>,
    },
    /// The session ends.
    Goodbye {
        reason: GoodbyeReason,
    },
    /// The first word of a connection: the number over which the hello's proof is to be.
    Greeting {
        nonce: Nonce,
    },
    /// This client of that component has all routes to it that it still may have, and takes what comes over them: it has come back, or its
    /// subscriptions have begun. Said to clients that have come back.
    Settled {
        component: String,
        client: u64,
    },
    /// Say what you have counted. Answered by [`Request::Told`], and not asked again before that. Of version 2.
    Tell,
    /// A part of an answer, and whether there are more. Of version 2.
    Statistics {
        request: u32,
        #[serde(deserialize_with = "list")]
        facts: Vec<Fact>,
        more: bool,
    },
    /// There is a ring over the broker, to the client of this number, of `subscriber`: send records of it, and of them no more than
    /// `window` that are not read. Of version 2.
    RelayTo {
        ring: RingId,
        publisher: u32,
        window: u64,
        subscriber: String,
        client: u64,
    },
    /// There is a ring over the broker, from `publisher` of `component`, as in [`Self::MakeConsumerSegment`]. Of version 2.
    RelayFrom {
        ring: RingId,
        publisher: PublisherId,
        window: u64,
        component: String,
        client: u64,
        number: u32,
    },
    /// RelayedRecords of a ring that leads over the broker. Of version 2.
    Relayed {
        ring: RingId,
        records: RelayedRecords,
    },
    /// So much of what was relayed has been read, in all, of the ring's window. Of version 2.
    Took {
        ring: RingId,
        cost: u64,
    },
    /// The broker is about to go: send what was published over it, and say so. Answered by [`Request::Finished`]. Of version 2.
    Finish,
}

impl Notice {
    /// The ring that it is about.
    pub(crate) fn ring_mut(&mut self) -> Option<&mut RingId> {
        match self {
            Self::MakeProducerSegment { ring, .. }
            | Self::MakeConsumerSegment { ring, .. }
            | Self::AttachProducer { ring, .. }
            | Self::AttachConsumer { ring, .. }
            | Self::Grant { ring, .. }
            | Self::Route { target: Some(SlotTarget { ring, .. }), .. }
            | Self::Unroute { ring: Some(ring), .. }
            | Self::Revoke { ring, .. }
            | Self::CloseRing { ring, .. }
            | Self::RelayTo { ring, .. }
            | Self::RelayFrom { ring, .. }
            | Self::Relayed { ring, .. }
            | Self::Took { ring, .. } => Some(ring),
            _ => None,
        }
    }
}

/// Why the broker does not do what was asked. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No version of the protocol is spoken by both sides.
    #[error("the broker speaks protocol versions {broker}, this client {client}")]
    Version {
        /// What the broker speaks.
        broker: Versions,
        /// What the client offered.
        client: Versions,
    },
    /// The client id is no name for a component.
    #[error("{client_id:?} is no client id: 1 to 64 of a-z, 0-9, '_' and '-' are")]
    BadName {
        /// What was offered, cut to the length of a name.
        client_id: String,
    },
    /// The component is connected already, or the name is not for other processes.
    #[error("the name {component} is taken")]
    NameTaken {
        /// The name asked for.
        component: String,
    },
    /// The component has no right to publish or to subscribe here.
    #[error(transparent)]
    Access(#[from] Denial),
    /// The topic or pattern is not well-formed. A client that checks before it asks never sees this.
    #[error("{text:?} is not well-formed")]
    Malformed {
        /// What was asked for, cut to the length of a topic.
        text: String,
    },
    /// The session, or the broker, has as many of these as it may.
    #[error("there are {limit} {what} already")]
    TooMany {
        /// What there are too many of.
        what: String,
        /// The limit.
        limit: u32,
    },
    /// No ring can be of the size that a subscription asks for. A client that checks before it asks never sees this.
    #[error("a ring holds a power of two of bytes from 64 KiB to 1 GiB, not {bytes}")]
    RingBytes {
        /// What was asked for.
        bytes: u64,
    },
    /// The rings that this needs would take more memory than there is for them: see
    /// [`BrokerOptions::ring_budget_bytes`](crate::BrokerOptions::ring_budget_bytes).
    #[error("{needed} bytes of new rings are too many: {whose} has {in_use} of {limit}")]
    RingBudget {
        /// Whose share is used up.
        whose: Sharer,
        /// Bytes of the rings that would have to be made.
        needed: u64,
        /// Bytes of the rings that are there.
        in_use: u64,
        /// The limit.
        limit: u64,
    },
    /// This session, or the user of this process, has its share of something, or everybody together has all of it: see
    /// [`BrokerOptions::per_uid`](crate::BrokerOptions::per_uid).
    #[error("{needed} more {resource} are too many: {whose} has {in_use} of {limit}")]
    Share {
        /// Of what there is no more.
        resource: Resource,
        /// Whose share is used up.
        whose: Sharer,
        /// How much was asked for.
        needed: u64,
        /// How much is in use.
        in_use: u64,
        /// The limit. That of a stranger grows when others let go of something.
        limit: u64,
    },
    /// The client has not proven who it is.
    #[error("{component} has to prove that it knows {needed}")]
    Unproven {
        /// The name asked for.
        component: String,
        /// What it has to know.
        needed: Needed,
    },
    /// What a broker tells of all its clients is for its own user, and root.
    #[error("uid {uid} may not see the broker's statistics: its own user and root may")]
    NotAnOperator {
        /// The user of this process.
        uid: u32,
    },
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum GoodbyeReason {
    /// The broker is shut down.
    #[error("the broker shuts down")]
    Shutdown,
    /// This side did not follow the protocol.
    #[error("the protocol was not followed: {what}")]
    Protocol {
        /// What was wrong.
        what: String,
    },
    /// This side did not install a route in time, so it would have missed events.
    #[error("a route was not installed within the deadline")]
    RouteDeadline,
    /// This side did not say hello in time.
    #[error("no hello within the deadline")]
    HelloDeadline,
    /// This side could not make or map the shared memory that it needs.
    #[error("no shared memory: {cause}")]
    NoRing {
        /// What the host said.
        cause: String,
    },
    /// This side reads too slowly what the broker sends.
    #[error("more than {limit} control frames wait for this client")]
    TooSlow {
        /// The limit.
        limit: u32,
    },
    /// This side reads too slowly what the broker sends.
    #[error("more than {limit} bytes of control frames wait for this client")]
    TooMuchUnread {
        /// The limit.
        limit: u64,
    },
    /// A publisher has come to topics that this side subscribes to, and its user's share does not hold the ring to it. To hear the
    /// others without a word about this one would be worse.
    #[error("what a subscription needs can't be had any more: {refusal}")]
    Refused {
        /// What was refused.
        refusal: Refusal,
    },
    /// Another session has a better claim to the name: it is a newer one of the same process, or proves by a token, or by its connection, what this
    /// one did not.
    #[error("another session has a better claim to the name")]
    Replaced,
    /// The broker's host lacks something that the session needs.
    #[error("the broker's host: {cause}")]
    Host {
        /// What it said.
        cause: String,
    },
}

//! What a broker tells of itself, and what it is told by its clients: facts one by one, so that any number of them can be cut into frames.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::codec::encode;
use super::{GoodbyeReason, Refusal, Resource, message::list};
use crate::config::{CLAIMS_MAX, FRAME_BYTES_MAX, FRAME_MEMORY_MAX};
use crate::topic::{Topic, TopicPattern};

/// The first version of the protocol that has this.
pub(crate) const STATISTICS_SINCE: u16 = 2;

/// How it is known who a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Identity {
    /// By its user alone: any process of that user which can read the broker's key could have taken the name.
    Weak,
    /// By a launch token that was made for it.
    Token,
    /// By a connection that was made for it.
    Invitation,
    /// It is the process with the broker in it.
    Embedded,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weak => "weak identity",
            Self::Token => "by token",
            Self::Invitation => "by invitation",
            Self::Embedded => "the broker's own process",
        })
    }
}

/// Who answers for the memory of a ring, and for what else the broker keeps: the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Payer {
    /// The process with the broker in it, whoever its user is.
    Agent,
    /// The user of another process, as the kernel names it.
    Uid(u32),
}

/// Whether a client has said what it has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Answer {
    /// It has.
    Told,
    /// It has not answered in time: its process is stopped, say, or has no processor to run on.
    NotAnswering,
    /// It is of a version that can't.
    Unable,
}

/// How far a ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RingState {
    /// Its ends are making their segments.
    Forming,
    /// It may be used.
    Ready,
    /// One of its ends has said that the other broke it: nothing goes over it, and no other comes to be between the two.
    Poisoned,
}

/// What a ring leads through, and why it is not memory if it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RingPath {
    /// Through memory that its two ends share.
    Memory,
    /// Over the broker, since it is for control topics.
    RelayOfControl,
    /// Over the broker, since the broker was told to have all go over it.
    RelayOfAll,
    /// Over the broker, since one of its two ends could not have shared memory.
    RelayInstead {
        /// Why, in the words of that end.
        cause: String,
    },
}

impl RingPath {
    /// Whether it leads over the broker.
    #[must_use]
    pub const fn is_relay(&self) -> bool {
        !matches!(self, Self::Memory)
    }
}

/// What a publisher says that came of its events on one topic, since it declared the topic first, to whichever broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TopicClaim {
    /// Events that were published.
    pub events: u64,
    /// Events that a subscriber's ring, or the queues of its own process, took: an event for two subscribers counts twice.
    pub reached: u64,
    /// Events that were lost, of whatever cause, summed over subscribers: those that found a ring full are what the three next leave of them.
    pub dropped: u64,
    /// Of these, those that a subscriber's ring is too small for.
    pub too_large: u64,
    /// Of these, those that had gone ahead of their batch when the subscriber came.
    pub too_late: u64,
    /// Of these, those that nobody was there for while there was no broker, and that the outbox had no room for.
    pub unkept: u64,
    /// Events that were kept while there was no broker.
    pub kept: u64,
    /// Of these, those that nobody has come for once the broker was back.
    pub expired: u64,
}

impl TopicClaim {
    /// Events that found a subscriber's ring full.
    #[must_use]
    pub const fn ring_full(&self) -> u64 {
        self.dropped.saturating_sub(self.too_large).saturating_sub(self.too_late).saturating_sub(self.unkept)
    }
}

/// What a publisher says that it did with a ring, since the ring was made: one that takes its place with the next broker begins anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RingClaim {
    /// Events that were to go over it, those that it had no room for among them.
    pub events: u64,
    /// Events that it had no room for, or is too small for.
    pub dropped: u64,
    /// Of these, those that it is too small for.
    pub too_large: u64,
    /// Bytes of the records that went into it, with their headers.
    pub bytes: u64,
    /// Of these, the bytes that wait there, by what its subscriber says it has read: one that is stopped leaves them to its publisher to tell.
    pub bytes_waiting: u64,
}

/// What a subscriber says that came of one subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SubscriptionClaim {
    /// Events that came into its queue.
    pub received: u64,
    /// Events that were lost in rings.
    pub lost_in_ring: u64,
    /// Events that found the queue full.
    pub lost_in_queue: u64,
    /// Of those that came, the events that its filters have rejected when they were taken from the queue.
    pub filtered: u64,
}

/// What a subscriber says that came to it of one topic of one publisher, since the way there was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RouteClaim {
    /// Events that were read from the ring.
    pub received: u64,
}

/// What a client says of all rings that lead to it, or led to it since it connected first, to whichever broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReceivedClaim {
    /// Events that were read from rings.
    pub events: u64,
    /// Events whose topic was no longer subscribed to when they arrived.
    pub skipped: u64,
    /// Bytes that waited in the rings when they were last looked at.
    pub bytes_waiting: u64,
    /// The most bytes that ever waited there.
    pub bytes_waiting_max: u64,
    /// How long events took to its application.
    pub latencies: Latencies,
}

/// How long events took, from their publication to the subscription that handed them to its application; an event for two subscriptions counts
/// twice. In nanoseconds, right to a hundredth, and an hour at most. When an event was published its publisher says, in the batch: who
/// hears one that lies has wrong figures. All are 0 while there was no event.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient, Opaque};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let detector = EventBusClient::connect(ConnectOptions::new("detector").path(&path)).await?;
/// let mut batches = detector.subscription(&["events.process.#"]).await?;
/// bus.publisher("events.process.batch").await?.publish(&Opaque(b"an event"))?;
/// assert_eq!(detector.latencies().events, 0, "it was not taken yet");
///
/// batches.recv().await.expect("the bus is there")?;
/// let latencies = detector.latencies();
/// assert_eq!(latencies.events, 1);
/// assert!(latencies.p50_nanos > 0 && latencies.p50_nanos <= latencies.max_nanos);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Latencies {
    /// Events that these figures are of.
    pub events: u64,
    /// Half of them took no longer.
    pub p50_nanos: u64,
    /// Nine of ten took no longer.
    pub p90_nanos: u64,
    /// Of a hundred one took longer.
    pub p99_nanos: u64,
    /// Of a thousand one took longer.
    pub p999_nanos: u64,
    /// The longest.
    pub max_nanos: u64,
}

/// What a client says of all its publishers and subscriptions, those that it has closed among them. It says the same to no other broker: what it has
/// told one before does not count again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TotalClaim {
    /// Events that were published.
    pub published: u64,
    /// Events that came to its subscriptions, without those that their filters have rejected.
    pub delivered: u64,
}

/// The answer of a client that is asked what it has counted. Each list names what it is about, and is cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) totals: TotalClaim,
    pub(crate) received: ReceivedClaim,
    /// By the client's numbers of publisher and topic.
    #[serde(deserialize_with = "list")]
    pub(crate) topics: Vec<(u32, u32, TopicClaim)>,
    /// By the broker's numbers.
    #[serde(deserialize_with = "list")]
    pub(crate) rings: Vec<(u64, RingClaim)>,
    /// By the client's number.
    #[serde(deserialize_with = "list")]
    pub(crate) subscriptions: Vec<(u32, SubscriptionClaim)>,
    /// By the broker's numbers of ring and slot.
    #[serde(deserialize_with = "list")]
    pub(crate) routes: Vec<(u64, u16, RouteClaim)>,
}

impl Claims {
    /// Whether its lists are no longer than they may be.
    pub(crate) fn is_within_limits(&self) -> bool {
        let lists = [self.topics.len(), self.rings.len(), self.subscriptions.len(), self.routes.len()];
        lists.into_iter().all(|items| items <= CLAIMS_MAX)
    }
}

/// One thing that a broker says of itself. What is about a session names it by number, and comes after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fact {
    Broker {
        uptime_ms: u64,
        connections: u64,
        accepted: u64,
        turned_away: u64,
    },
    Session {
        session: u64,
        component: String,
        uid: u32,
        pid: Option<u32>,
        identity: Identity,
        connected_ms: u64,
        answer: Answer,
        totals: Option<TotalClaim>,
        received: Option<ReceivedClaim>,
    },
    Subscription {
        session: u64,
        subscription: u32,
        ring_bytes: u64,
        claim: Option<SubscriptionClaim>,
    },
    /// One pattern of a subscription, or a part of one.
    Pattern {
        session: u64,
        subscription: u32,
        pattern: TopicPattern,
        withheld: bool,
    },
    Topic {
        session: u64,
        publisher: u64,
        topic: Topic,
        claim: Option<TopicClaim>,
    },
    Ring {
        publisher: u64,
        from: u64,
        to: u64,
        bytes: u64,
        state: RingState,
        path: RingPath,
        withheld: u64,
        routes: u32,
        claim: Option<RingClaim>,
    },
    /// Refusals of one cause.
    Refusals {
        count: u64,
        last: Refusal,
    },
    Poisonings {
        component: String,
        by: String,
        count: u64,
        last_violation: String,
    },
    /// Without a payer: of everybody together.
    Share {
        payer: Option<Payer>,
        resource: Resource,
        in_use: u64,
        limit: Option<u64>,
    },
    /// So many facts are left out, since there are too many.
    Omitted {
        facts: u64,
    },
    /// One topic of the ring that was told of last.
    Route {
        topic: Topic,
        active: bool,
        claim: Option<RouteClaim>,
    },
    /// Sessions that are over, and what they have said of themselves.
    Departed {
        sessions: u64,
        without_word: u64,
        totals: TotalClaim,
    },
    /// How often a component has joined and left, how long ago it has left last, and why, if the broker has ended that session.
    Turnover {
        component: String,
        joined: u64,
        left: u64,
        last_left_ms: Option<u64>,
        reason: Option<GoodbyeReason>,
    },
}

/// Facts in parts that are a frame each, in bytes as well as in what it decodes into; at least one part.
pub(crate) fn in_frames(facts: Vec<Fact>) -> Vec<Vec<Fact>> {
    // A part has a number and some lengths beside its facts.
    const BESIDE: usize = 64;
    let (mut parts, mut bytes, mut memory) = (vec![Vec::new()], BESIDE, BESIDE);
    for fact in facts {
        let size = encode(&fact).len();
        // Texts take as much again as they have bytes; a number has its place in the fact, however short it is written.
        let takes = size + size_of::<Fact>();
        if bytes + size > FRAME_BYTES_MAX || memory + takes > FRAME_MEMORY_MAX {
            parts.push(Vec::new());
            (bytes, memory) = (BESIDE, BESIDE);
        }
        bytes += size;
        memory += takes;
        parts.last_mut().expect("there is one from the start").push(fact);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::decode;
    use crate::wire::{Notice, Request};

    #[test]
    fn the_largest_claims_that_may_be_can_be_read() {
        const MOST: u64 = u64::MAX;
        let topic = TopicClaim {
            events: MOST,
            reached: MOST,
            dropped: MOST,
            too_large: MOST,
            too_late: MOST,
            unkept: MOST,
            kept: MOST,
            expired: MOST,
        };
        let ring =
            RingClaim { events: MOST, dropped: MOST, too_large: MOST, bytes: MOST, bytes_waiting: MOST };
        let subscription =
            SubscriptionClaim { received: MOST, lost_in_ring: MOST, lost_in_queue: MOST, filtered: MOST };
        let claims = Claims {
            totals: TotalClaim { published: MOST, delivered: MOST },
            received: ReceivedClaim {
                events: MOST,
                skipped: MOST,
                bytes_waiting: MOST,
                ..Default::default()
            },
            topics: vec![(u32::MAX, u32::MAX, topic); CLAIMS_MAX],
            rings: vec![(MOST, ring); CLAIMS_MAX],
            subscriptions: vec![(u32::MAX, subscription); CLAIMS_MAX],
            routes: vec![(MOST, u16::MAX, RouteClaim { received: MOST }); CLAIMS_MAX],
        };
        let told = Request::Told { claims: Box::new(claims) };
        let frame = encode(&told);
        assert!(frame.len() <= FRAME_BYTES_MAX / 8 * 7, "{} bytes", frame.len());
        assert_eq!(decode(&frame), Ok(told));
    }

    #[test]
    fn however_many_and_small_or_large_facts_are_each_part_can_be_read() {
        let tiny = Fact::Subscription { session: 1, subscription: 1, ring_bytes: 1, claim: None };
        let numbers = Fact::Broker { uptime_ms: 1, connections: 1, accepted: 1, turned_away: 1 };
        let last_violation = "x".repeat(60_000);
        let (component, by) = ("a".to_owned(), "b".to_owned());
        let large = Fact::Poisonings { component, by, count: u64::MAX, last_violation };
        for facts in
            [vec![], vec![tiny.clone(); 30_000], vec![numbers; 30_000], vec![large, tiny.clone(), tiny]]
        {
            let mut read = Vec::new();
            for part in in_frames(facts.clone()) {
                let frame = encode(&Notice::Statistics { request: u32::MAX, facts: part, more: true });
                assert!(frame.len() <= FRAME_BYTES_MAX);
                let Ok(Notice::Statistics { facts, .. }) = decode(&frame) else { panic!("it can't be read") };
                read.extend(facts);
            }
            assert!(read == facts, "{} of {}", read.len(), facts.len());
        }
    }
}

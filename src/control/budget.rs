//! What rings take of the host's memory, and who answers for it: who hears them.
//!
//! A ring is charged, from the moment that it is asked for until it ends, with all bytes of both segments.

use std::collections::{BTreeMap, BTreeSet};

use shm::layout::{CONSUMER_SEGMENT_BYTES, PRODUCER_HEADER_BYTES};

use super::quota::Account;
use super::relay::Lane;
use super::routes::{RouteKey, Stage, Wish};
use super::{Machine, SessionId};
use crate::topic::Topic;
use crate::wire::{Payer, PublisherId, Refusal, Resource};

/// What the rings take that one payer answers for.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient, Payer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// let _publisher = procmond.publisher("events.process.batch").await?;
/// assert!(bus.broker().ring_charges().await.is_empty());
///
/// let _batches = bus.subscription(&["events.process.#"]).await?;
/// let charges = bus.broker().ring_charges().await;
/// assert_eq!((charges[0].payer, charges[0].rings), (Payer::Agent, 1));
/// assert_eq!(charges[0].bytes, (8 << 20) + (8 << 10));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingCharge {
    /// Who answers for them.
    pub payer: Payer,
    /// How many rings they are.
    pub rings: u64,
    /// Bytes of both segments of each.
    pub bytes: u64,
}

/// A ring that is to come to be: what its subscriber asks for, and what it gets.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) asked_bytes: u64,
    pub(super) ring_bytes: Result<u64, Refusal>,
}

/// Bytes of both segments of a ring with so many data bytes.
pub(super) fn bytes_of_ring(ring_bytes: u64) -> u64 {
    (PRODUCER_HEADER_BYTES + CONSUMER_SEGMENT_BYTES) as u64 + ring_bytes
}

impl<F> Machine<F> {
    /// What the rings that there are take, by payer.
    pub(crate) fn ring_charges(&self) -> Vec<RingCharge> {
        let mut charges = BTreeMap::new();
        // Of a broken one both sides let go, what is left of it is a name.
        let live = self.rings.values().filter(|ring| !matches!(ring.stage, Stage::Poisoned));
        let live = live.filter(|ring| ring.relay.is_none());
        for ring in live {
            let payer = ring.account.payer;
            let charge = charges.entry(payer).or_insert(RingCharge { payer, rings: 0, bytes: 0 });
            charge.rings += 1;
            charge.bytes += bytes_of_ring(ring.bytes);
        }
        charges.into_values().collect()
    }

    pub(super) fn account(&self, session: SessionId) -> Account {
        self.sessions[&session].account
    }

    /// Whether a subscription of `subscriber` can have the rings that would come to be for it.
    pub(super) fn afford_subscribe(&self, subscriber: SessionId, wishes: &[Wish]) -> Result<(), Refusal> {
        let needed: BTreeMap<PublisherId, u64> = wishes
            .iter()
            .filter(|wish| self.needs_memory(wish.key) && self.ring_of(wish.key).is_none())
            .map(|wish| (wish.key.publisher, wish.ring_bytes))
            .collect();
        let needed = needed.into_values().map(bytes_of_ring).sum();
        Ok(self.charges.afford(self.account(subscriber), Resource::RingBytes, needed)?)
    }

    /// Whether a route leads through shared memory.
    fn needs_memory(&self, key: RouteKey) -> bool {
        let (session, subscriber) = (self.publishers[&key.publisher].session, key.subscriber);
        let lane = self.lane(session, subscriber, self.topic_of(key));
        session != subscriber && !self.is_relayed(lane, session, subscriber)
    }

    /// What subscribers get who asked for rings of these sizes, now that `session` declares a topic of theirs. `publisher` is
    /// `None` if the topic is its first.
    ///
    /// The publisher pays for none of it: whoever subscribes could use up its share, and so keep it, or others of its user, from
    /// publishing. Where a subscriber's share does not hold what it asked for, the ring is of the broker's own size; where it
    /// does not hold that either, its session ends, since it would miss events and not know. The agent's can't end: the topic is refused.
    pub(super) fn afford_declare(
        &mut self,
        session: SessionId,
        publisher: Option<PublisherId>,
        topic: &Topic,
        asked: &BTreeMap<SessionId, u64>,
    ) -> Result<BTreeMap<SessionId, Terms>, Refusal> {
        let needs_none = |subscriber: &SessionId| {
            let lane = self.lane(session, *subscriber, topic);
            let pair = |publisher| (publisher, *subscriber, Lane::Events);
            *subscriber == session
                || self.is_relayed(lane, session, *subscriber)
                || publisher.is_some_and(|publisher| self.pairs.contains_key(&pair(publisher)))
        };
        let free: BTreeSet<SessionId> = asked.keys().copied().filter(needs_none).collect();
        let mut tried = Vec::new();
        let terms = self.terms(&free, asked, &mut tried);
        // Each ring is charged when it comes to be. A copy of all charges would cost a declaration more, the more sessions there are.
        for (account, bytes) in tried {
            self.charges.release(account, Resource::RingBytes, bytes);
        }
        terms
    }

    /// As above, where these need no ring, and what is charged for it meanwhile.
    fn terms(
        &mut self,
        free: &BTreeSet<SessionId>,
        asked: &BTreeMap<SessionId, u64>,
        tried: &mut Vec<(Account, u64)>,
    ) -> Result<BTreeMap<SessionId, Terms>, Refusal> {
        let charges = &mut self.charges;
        let mut take = |account, bytes| {
            charges.take(account, Resource::RingBytes, bytes).inspect(|()| tried.push((account, bytes)))
        };
        let (mut terms, mut larger) = (BTreeMap::new(), Vec::new());
        for (&subscriber, &asked_bytes) in asked {
            if free.contains(&subscriber) {
                terms.insert(subscriber, Terms { asked_bytes, ring_bytes: Ok(asked_bytes) });
                continue;
            }
            let (account, own) =
                (self.sessions[&subscriber].account, self.settings.ring_bytes.min(asked_bytes));
            let taken = take(account, bytes_of_ring(own));
            if account.payer == Payer::Agent {
                taken?;
            }
            if taken.is_ok() && own < asked_bytes {
                larger.push((account, asked_bytes));
            }
            let ring_bytes = taken.map(|()| own).map_err(Refusal::from);
            terms.insert(subscriber, Terms { asked_bytes, ring_bytes });
        }
        // Once each has the usual size.
        for (account, asked_bytes) in larger {
            if take(account, asked_bytes - self.settings.ring_bytes).is_ok() {
                terms.insert(account.session, Terms { asked_bytes, ring_bytes: Ok(asked_bytes) });
            }
        }
        Ok(terms)
    }
}

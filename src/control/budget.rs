//! What rings may take of the host's memory, together and for each user.
//!
//! A ring is charged, from the moment that it is asked for until it ends, with all bytes of both segments. Charges are not
//! kept: they are the sum of what is there, so that they can't differ from it.

use std::collections::{BTreeMap, BTreeSet};

use shm::layout::{CONSUMER_SEGMENT_BYTES, PRODUCER_HEADER_BYTES};

use super::routes::{Stage, Wish};
use super::{Machine, Origin, SessionId};
use crate::wire::{PublisherId, Refusal};

/// Who answers for the memory of a ring: who asked for what it came to be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payer {
    /// The process with the broker in it, whoever its user is.
    Agent,
    /// The user of another process, as the kernel names it.
    Uid(u32),
}

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

/// Bytes of both segments of a ring with so many data bytes.
pub(super) fn bytes_of_ring(ring_bytes: u64) -> u64 {
    (PRODUCER_HEADER_BYTES + CONSUMER_SEGMENT_BYTES) as u64 + ring_bytes
}

impl<F> Machine<F> {
    /// What the rings that there are take, by payer.
    pub(crate) fn ring_charges(&self) -> Vec<RingCharge> {
        let mut charges = BTreeMap::new();
        for (payer, bytes) in self.charged() {
            let charge = charges.entry(payer).or_insert(RingCharge { payer, rings: 0, bytes: 0 });
            charge.rings += 1;
            charge.bytes += bytes;
        }
        charges.into_values().collect()
    }

    /// Each ring that there is: who pays, and how much. Of a broken one both sides let go, what is left of it is a name.
    fn charged(&self) -> impl Iterator<Item = (Payer, u64)> {
        let live = self.rings.values().filter(|ring| !matches!(ring.stage, Stage::Poisoned));
        live.map(|ring| (ring.payer, bytes_of_ring(ring.bytes)))
    }

    pub(super) fn payer(&self, session: SessionId) -> Payer {
        match self.sessions[&session].origin {
            Origin::Remote { uid } => Payer::Uid(uid),
            Origin::Embedded => Payer::Agent,
        }
    }

    /// Whether `payer` may have `needed` more bytes of rings.
    pub(super) fn afford(&self, payer: Payer, needed: u64) -> Result<(), Refusal> {
        if needed == 0 {
            return Ok(());
        }
        let share = match payer {
            Payer::Uid(uid) => Some((Some(uid), self.settings.ring_budget_per_uid)),
            Payer::Agent => None,
        };
        for (uid, limit) in share.into_iter().chain([(None, self.settings.ring_budget_bytes)]) {
            let counts = |who: &Payer| uid.is_none() || *who == payer;
            let in_use: u64 = self.charged().filter(|(who, _)| counts(who)).map(|(_, bytes)| bytes).sum();
            if in_use.saturating_add(needed) > limit {
                return Err(Refusal::RingBudget { uid, needed, in_use, limit });
            }
        }
        Ok(())
    }

    /// Bytes of the rings that would come to be for a subscription of `subscriber`.
    pub(super) fn needed_to_subscribe(&self, subscriber: SessionId, wishes: &[Wish]) -> u64 {
        let pairs = self.rings.values().filter(|ring| ring.subscriber == subscriber);
        let known: BTreeSet<PublisherId> = pairs.map(|ring| ring.publisher).collect();
        let needed: BTreeMap<PublisherId, u64> = wishes
            .iter()
            .filter(|wish| self.publishers[&wish.key.publisher].session != subscriber)
            .filter(|wish| !known.contains(&wish.key.publisher))
            .map(|wish| (wish.key.publisher, wish.ring_bytes))
            .collect();
        needed.into_values().map(bytes_of_ring).sum()
    }

    /// Bytes of the rings that would come to be for a topic that `session` declares, to these subscribers. `publisher` is `None` if
    /// the topic is its first.
    pub(super) fn needed_to_declare(
        &self,
        session: SessionId,
        publisher: Option<PublisherId>,
        subscribers: &BTreeMap<SessionId, u64>,
    ) -> u64 {
        let pairs = self.rings.values().filter(|ring| Some(ring.publisher) == publisher);
        let known: BTreeSet<SessionId> = pairs.map(|ring| ring.subscriber).collect();
        let fresh = subscribers.iter().filter(|(id, _)| **id != session && !known.contains(id));
        fresh.map(|(_, ring_bytes)| bytes_of_ring(*ring_bytes)).sum()
    }
}

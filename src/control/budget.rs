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

/// A ring that is to come to be: what its subscriber asks for, what it gets, and at whose expense.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) asked_bytes: u64,
    pub(super) ring_bytes: u64,
    pub(super) payer: Payer,
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

    fn in_use(&self) -> BTreeMap<Payer, u64> {
        let mut in_use = BTreeMap::new();
        for (payer, bytes) in self.charged() {
            *in_use.entry(payer).or_insert(0) += bytes;
        }
        in_use
    }

    /// Whether each of these payers may have so many more bytes of rings, beside what is in use.
    fn afford(&self, in_use: &BTreeMap<Payer, u64>, needed: &BTreeMap<Payer, u64>) -> Result<(), Refusal> {
        let within = |uid, limit, needed: u64, in_use: u64| {
            let fits = needed == 0 || in_use.saturating_add(needed) <= limit;
            fits.then_some(()).ok_or(Refusal::RingBudget { uid, needed, in_use, limit })
        };
        for (payer, bytes) in needed {
            if let Payer::Uid(uid) = payer {
                let own = in_use.get(payer).copied().unwrap_or_default();
                within(Some(*uid), self.settings.ring_budget_per_uid, *bytes, own)?;
            }
        }
        within(None, self.settings.ring_budget_bytes, needed.values().sum(), in_use.values().sum())
    }

    /// Whether a subscription of `subscriber` can have the rings that would come to be for it.
    pub(super) fn afford_subscribe(&self, subscriber: SessionId, wishes: &[Wish]) -> Result<(), Refusal> {
        let pairs = self.rings.values().filter(|ring| ring.subscriber == subscriber);
        let known: BTreeSet<PublisherId> = pairs.map(|ring| ring.publisher).collect();
        let needed: BTreeMap<PublisherId, u64> = wishes
            .iter()
            .filter(|wish| self.publishers[&wish.key.publisher].session != subscriber)
            .filter(|wish| !known.contains(&wish.key.publisher))
            .map(|wish| (wish.key.publisher, wish.ring_bytes))
            .collect();
        let needed = needed.into_values().map(bytes_of_ring).sum();
        self.afford(&self.in_use(), &BTreeMap::from([(self.payer(subscriber), needed)]))
    }

    /// Size and payer of the rings that would come to be for a topic that `session` declares, to subscribers who ask for these
    /// sizes. `publisher` is `None` if the topic is its first.
    ///
    /// What is larger than the broker's own size is its subscriber's expense, or else such a size would use up what others
    /// need to publish. Where his share does not hold it, the ring is of the broker's own.
    pub(super) fn afford_declare(
        &self,
        session: SessionId,
        publisher: Option<PublisherId>,
        asked: &BTreeMap<SessionId, u64>,
    ) -> Result<BTreeMap<SessionId, Terms>, Refusal> {
        let pairs = self.rings.values().filter(|ring| Some(ring.publisher) == publisher);
        let known: BTreeSet<SessionId> = pairs.map(|ring| ring.subscriber).collect();
        let fresh = |subscriber: &SessionId| *subscriber != session && !known.contains(subscriber);
        let (own, own_payer) = (self.settings.ring_bytes, self.payer(session));
        let (mut terms, mut least) = (BTreeMap::new(), 0);
        for (&subscriber, &asked_bytes) in asked {
            let ring_bytes = if fresh(&subscriber) { own.min(asked_bytes) } else { asked_bytes };
            least += if fresh(&subscriber) { bytes_of_ring(ring_bytes) } else { 0 };
            terms.insert(subscriber, Terms { asked_bytes, ring_bytes, payer: own_payer });
        }
        let (in_use, mut needed) = (self.in_use(), BTreeMap::from([(own_payer, least)]));
        self.afford(&in_use, &needed)?;
        let smaller = terms.iter_mut().filter(|(_, terms)| terms.ring_bytes < terms.asked_bytes);
        for (subscriber, terms) in smaller {
            let payer = self.payer(*subscriber);
            let mut more = needed.clone();
            more.entry(own_payer).and_modify(|bytes| *bytes -= bytes_of_ring(terms.ring_bytes));
            *more.entry(payer).or_insert(0) += bytes_of_ring(terms.asked_bytes);
            if self.afford(&in_use, &more).is_ok() {
                needed = more;
                *terms = Terms { ring_bytes: terms.asked_bytes, payer, ..*terms };
            }
        }
        Ok(terms)
    }
}

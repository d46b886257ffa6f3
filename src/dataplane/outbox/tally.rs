//! What a publisher has done, by topic and by ring, for who watches the bus from outside.
//!
//! Each number has one writer, the publisher's thread, and is read by the control thread, now and then: so a load and a store are enough,
//! and nothing is ordered by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shm::Progress;

use super::{Delivery, Drops, OutboxShared, Relayed, RingEnd};
use crate::routing::TopicId;
use crate::wire::{RingClaim, RingId, TopicClaim};

/// What came of the events on one topic.
#[derive(Debug, Default)]
pub(super) struct TopicTally {
    events: AtomicU64,
    reached: AtomicU64,
    dropped: AtomicU64,
    too_large: AtomicU64,
    too_late: AtomicU64,
    unkept: AtomicU64,
    kept: AtomicU64,
    /// Written where what was kept is poured, which the lock of the publisher's wishes is held for.
    pub(super) expired: AtomicU64,
}

/// What went over one ring, as of its last flush.
#[derive(Debug)]
pub(super) struct RingTally {
    pub(super) events: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) too_large: AtomicU64,
    pub(super) bytes: AtomicU64,
    reader: Reader,
    capacity: u64,
}

/// Who says what of a ring was read.
#[derive(Debug)]
enum Reader {
    Memory(Progress),
    Broker(Arc<Relayed>),
}

impl RingTally {
    pub(super) fn new(end: &RingEnd) -> Self {
        let (reader, capacity) = match end {
            RingEnd::Memory(producer, progress, _) => {
                (Reader::Memory(progress.clone()), producer.capacity() as u64)
            }
            RingEnd::Broker(line) => (Reader::Broker(line.shared()), line.window()),
        };
        let zero = AtomicU64::default;
        Self { events: zero(), dropped: zero(), too_large: zero(), bytes: zero(), reader, capacity }
    }

    fn claim(&self) -> RingClaim {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (events, bytes) = (read(&self.events), read(&self.bytes));
        let (dropped, too_large) = (read(&self.dropped), read(&self.too_large));
        // The subscriber's word, and of another moment. In a ring that is gone nothing waits.
        let read = match &self.reader {
            Reader::Memory(progress) => progress.read_bytes().unwrap_or(bytes),
            Reader::Broker(relayed) => relayed.took_now(),
        };
        let bytes_waiting = bytes.saturating_sub(read).min(self.capacity);
        RingClaim { events, dropped, too_large, bytes, bytes_waiting }
    }
}

impl TopicTally {
    fn count(&self, delivery: &Delivery, drops: Drops) {
        let add = |counter: &AtomicU64, events| {
            counter.store(counter.load(Ordering::Relaxed) + events, Ordering::Relaxed);
        };
        add(&self.events, delivery.events);
        add(&self.reached, delivery.reached);
        add(&self.dropped, delivery.dropped);
        add(&self.too_large, drops.too_large);
        add(&self.too_late, drops.too_late);
        add(&self.unkept, drops.unkept);
        add(&self.kept, delivery.kept);
    }

    fn claim(&self) -> TopicClaim {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TopicClaim {
            events: read(&self.events),
            reached: read(&self.reached),
            dropped: read(&self.dropped),
            too_large: read(&self.too_large),
            too_late: read(&self.too_late),
            unkept: read(&self.unkept),
            kept: read(&self.kept),
            expired: read(&self.expired),
        }
    }
}

/// Where a publisher counts what it does on each of its topics.
#[derive(Debug, Default)]
pub(super) struct Tallies(Vec<Arc<TopicTally>>);

impl Tallies {
    pub(super) fn follow(&mut self, topics: &[Arc<TopicTally>]) {
        self.0 = topics.to_vec();
    }

    pub(super) fn count(&self, topic: TopicId, delivery: &Delivery, drops: Drops) {
        if let Some(tally) = self.0.get(topic.number()) {
            tally.count(delivery, drops);
        }
    }
}

impl OutboxShared {
    /// By place.
    pub(crate) fn topic_claims(&self) -> Vec<TopicClaim> {
        self.wanted.lock().topics.iter().map(|tally| tally.claim()).collect()
    }

    /// Of all rings that are there, those that nothing was published to yet among them.
    pub(crate) fn ring_claims(&self) -> Vec<(RingId, RingClaim)> {
        let wanted = self.wanted.lock();
        wanted.tallies.iter().map(|(ring, tally)| (*ring, tally.claim())).collect()
    }
}

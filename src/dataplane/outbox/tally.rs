//! What a publisher has done, by topic and by ring, for who watches the bus from outside.
//!
//! Each number has one writer, the publisher's thread, and is read by the control thread, now and then: so a load and a store are enough,
//! and nothing is ordered by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shm::Progress;

use super::{Delivery, OutboxShared, Relayed, RingEnd};
use crate::routing::TopicId;
use crate::wire::{RingClaim, RingId, TopicClaim};

/// What came of the events on one topic.
#[derive(Debug, Default)]
pub(super) struct TopicTally {
    events: AtomicU64,
    reached: AtomicU64,
    dropped: AtomicU64,
}

/// What went over one ring, as of its last flush.
#[derive(Debug)]
pub(super) struct RingTally {
    pub(super) events: AtomicU64,
    pub(super) dropped: AtomicU64,
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
        Self { events: zero(), dropped: zero(), bytes: zero(), reader, capacity }
    }

    fn claim(&self) -> RingClaim {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (events, dropped, bytes) = (read(&self.events), read(&self.dropped), read(&self.bytes));
        // The subscriber's word, and of another moment. In a ring that is gone nothing waits.
        let read = match &self.reader {
            Reader::Memory(progress) => progress.read_bytes().unwrap_or(bytes),
            Reader::Broker(relayed) => relayed.took_now(),
        };
        let bytes_waiting = bytes.saturating_sub(read).min(self.capacity);
        RingClaim { events, dropped, bytes, bytes_waiting }
    }
}

impl TopicTally {
    fn count(&self, delivery: &Delivery) {
        let add = |counter: &AtomicU64, events| {
            counter.store(counter.load(Ordering::Relaxed) + events, Ordering::Relaxed);
        };
        add(&self.events, delivery.events);
        add(&self.reached, delivery.reached);
        add(&self.dropped, delivery.dropped);
    }
}

/// Where a publisher counts what it does on each of its topics.
#[derive(Debug, Default)]
pub(super) struct Tallies(Vec<Arc<TopicTally>>);

impl Tallies {
    pub(super) fn follow(&mut self, topics: &[Arc<TopicTally>]) {
        self.0 = topics.to_vec();
    }

    pub(super) fn count(&self, topic: TopicId, delivery: &Delivery) {
        if let Some(tally) = self.0.get(topic.number()) {
            tally.count(delivery);
        }
    }
}

impl OutboxShared {
    /// By place.
    pub(crate) fn topic_claims(&self) -> Vec<TopicClaim> {
        let wanted = self.wanted.lock();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let claim = |tally: &Arc<TopicTally>| TopicClaim {
            events: read(&tally.events),
            reached: read(&tally.reached),
            dropped: read(&tally.dropped),
        };
        wanted.topics.iter().map(claim).collect()
    }

    /// Of all rings that are there, those that nothing was published to yet among them.
    pub(crate) fn ring_claims(&self) -> Vec<(RingId, RingClaim)> {
        let wanted = self.wanted.lock();
        wanted.tallies.iter().map(|(ring, tally)| (*ring, tally.claim())).collect()
    }
}

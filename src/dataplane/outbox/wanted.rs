//! What the control thread wants of an outbox: where its topics go, and over which rings. The publisher's own thread makes it so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::kept::{Kept, KeptShare, Reader};
use super::tally::{RingTally, TopicTally};
use super::{Delivery, Origin, OutRing, RingEnd, RouteTarget};
use crate::topic::Topic;
use crate::wire::RingId;

/// What the control thread wants of an outbox.
#[derive(Debug)]
pub(crate) struct OutboxShared {
    pub(super) generation: AtomicU64,
    /// The session is over: who is gone is not told by the broker any more.
    pub(super) orphaned: AtomicBool,
    pub(super) wanted: Mutex<Wanted>,
    pub(super) counters: Counters,
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) rings: BTreeMap<RingId, WantedRing>,
    /// Rings that carry nothing yet which those before them, to the same subscriber, carry: all of it is to change over at once, so that order
    /// holds.
    pub(super) held: BTreeMap<RingId, Vec<RingId>>,
    /// Rings that others have taken the place of, and these: what is in them is still read.
    pub(super) released: Vec<(RingId, Option<RingId>)>,
    /// By place.
    pub(super) routes: Vec<(Topic, Vec<RouteTarget>)>,
    /// What came of each topic, by number, and what went over each ring.
    pub(super) topics: Vec<Arc<TopicTally>>,
    pub(super) tallies: BTreeMap<RingId, Arc<RingTally>>,
    pub(super) origin: Option<Arc<Origin>>,
    /// What was published without a broker, and is to be heard yet.
    pub(super) kept: Kept,
}

/// A ring that the control thread wants to be used: with its ends, until the outbox has taken them.
pub(super) type WantedRing = Option<Fresh>;

/// A ring that the outbox has not taken over yet.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is there for a moment")]
pub(super) enum Fresh {
    End(RingEnd),
    /// What was kept was put into it.
    Open(OutRing),
}

/// Running totals, in events.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    /// Of the last call.
    pub(super) subscribers: AtomicU64,
    pub(super) reached: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) kept: AtomicU64,
}

impl OutboxShared {
    /// What is published while there is no broker is kept on account of this share.
    pub(crate) fn new(share: Arc<KeptShare>) -> Self {
        let wanted = Wanted {
            rings: BTreeMap::new(),
            held: BTreeMap::new(),
            released: Vec::new(),
            routes: Vec::new(),
            topics: Vec::new(),
            tallies: BTreeMap::new(),
            origin: None,
            kept: Kept::new(share),
        };
        Self {
            generation: AtomicU64::new(1),
            orphaned: AtomicBool::new(false),
            wanted: Mutex::new(wanted),
            counters: Counters::default(),
        }
    }

    /// Says who publishes here; known once the first topic is declared.
    pub(crate) fn set_origin(&self, origin: Arc<Origin>) {
        self.change(|wanted| wanted.origin = Some(origin));
    }

    /// Adds a topic under the next number.
    pub(crate) fn add_topic(&self, topic: Topic) {
        self.change(|wanted| {
            wanted.routes.push((topic, Vec::new()));
            wanted.topics.push(Arc::default());
        });
    }

    /// Takes the topic that was added last away again: the broker did not grant it.
    pub(crate) fn remove_last_topic(&self) {
        self.change(|wanted| {
            wanted.topics.pop();
            wanted.routes.pop()
        });
    }

    /// Takes all routes of a topic away: it may not be published on any longer.
    pub(crate) fn clear_topic(&self, place: u32) {
        self.change(|wanted| {
            if let Some((_, targets)) = wanted.routes.get_mut(place as usize) {
                targets.clear();
            }
        });
    }

    /// Adds a ring, which waits where others lead to the same subscriber from before.
    pub(crate) fn add_ring(&self, id: RingId, end: RingEnd, reader: Reader, before: Vec<RingId>) {
        let tally = Arc::new(RingTally::new(&end));
        self.change(|wanted| {
            wanted.rings.insert(id, Some(Fresh::End(end)));
            wanted.kept.add_reader(id, reader, &wanted.rings);
            wanted.tallies.insert(id, tally);
            if before.is_empty() {
                wanted.kept.park(id);
            } else {
                wanted.held.insert(id, before);
            }
        });
    }

    /// Has a ring, if there is one, take the place of those that it waited behind. They are closed: who reads them goes on with it.
    pub(crate) fn release_rings(&self, before: &[RingId], by: Option<RingId>) {
        let unused: Vec<_> = self.change(|wanted| {
            if let Some(by) = by {
                wanted.held.remove(&by);
            }
            before.iter().map(|ring| wanted.release_ring(*ring, by)).collect()
        });
        // Rings that were never taken over are unmapped here, outside the lock.
        drop(unused);
    }

    /// The broker of now knows all that is to go to this process's own subscriptions.
    pub(crate) fn forget_former(&self) {
        self.change(|wanted| {
            for (_, targets) in &mut wanted.routes {
                targets.retain(|target| *target != RouteTarget::FormerLocal);
            }
        });
    }

    pub(crate) fn remove_ring(&self, id: RingId) {
        let unused = self.change(|wanted| {
            wanted.held.remove(&id);
            wanted.kept.unpark(id);
            wanted.forget_ring(id)
        });
        // A ring that was never taken over is unmapped here, outside the lock.
        drop(unused);
    }

    pub(crate) fn add_route(&self, topic_number: u32, target: RouteTarget) {
        self.change(|wanted| {
            if let Some((topic, targets)) = wanted.routes.get_mut(topic_number as usize) {
                match target {
                    RouteTarget::Local => targets.retain(|known| *known != RouteTarget::FormerLocal),
                    RouteTarget::Slot { ring, .. } => wanted.kept.routed(ring, topic.is_control()),
                    RouteTarget::FormerLocal => {}
                }
                // One that is there may be asked for once more, when another subscription joins it.
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
        });
    }

    /// Takes the route of this topic over `ring` (`None`: within the process) away.
    pub(crate) fn remove_route(&self, topic_number: u32, ring: Option<RingId>) {
        self.change(|wanted| {
            if let Some((_, targets)) = wanted.routes.get_mut(topic_number as usize) {
                targets.retain(|target| match target {
                    RouteTarget::Local | RouteTarget::FormerLocal => ring.is_some(),
                    RouteTarget::Slot { ring: other, .. } => Some(*other) != ring,
                });
            }
        });
    }

    /// Says that the session is over. Rings stay, and from now on their doorbells tell who is gone. If there may be another, what
    /// comes is kept for those who come with it.
    pub(crate) fn orphan(&self, comes_back: bool) {
        self.change(|wanted| {
            if comes_back {
                wanted.keep_on();
            } else {
                wanted.keep_no_more();
            }
            self.orphaned.store(true, Ordering::Relaxed);
            let targets = wanted.routes.iter_mut().flat_map(|(_, targets)| targets);
            for target in targets.filter(|target| **target == RouteTarget::Local) {
                *target = RouteTarget::FormerLocal;
            }
        });
    }

    /// Sums over all calls so far; `subscribers` are those of the last.
    pub(crate) fn totals(&self) -> Delivery {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Delivery {
            events: read(&self.counters.published),
            subscribers: read(&self.counters.subscribers),
            reached: read(&self.counters.reached),
            dropped: read(&self.counters.dropped),
            kept: read(&self.counters.kept),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Wanted) -> T) -> T {
        let mut wanted = self.wanted.lock();
        let result = change(&mut wanted);
        // Pairs with the load in `Outbox::follow`.
        self.generation.fetch_add(1, Ordering::Release);
        result
    }
}

impl Wanted {
    pub(super) fn forget_ring(&mut self, id: RingId) -> Option<WantedRing> {
        for (_, targets) in &mut self.routes {
            targets.retain(|target| !matches!(target, RouteTarget::Slot { ring, .. } if *ring == id));
        }
        self.tallies.remove(&id);
        self.rings.remove(&id)
    }

    fn release_ring(&mut self, id: RingId, by: Option<RingId>) -> Option<WantedRing> {
        self.held.remove(&id);
        // Whose place it had taken, and the publisher did not see it: the next takes that, too.
        for (_, other) in self.released.iter_mut().filter(|(_, other)| *other == Some(id)) {
            *other = by;
        }
        let ring = self.forget_ring(id);
        // One that was never taken over needs nobody to close it.
        if matches!(ring, Some(None)) {
            self.released.push((id, by));
        }
        ring
    }

    /// Whether a target is to wait: it is over a ring that takes the place of one which carries the topic.
    pub(super) fn waits(
        &self,
        target: RouteTarget,
        targets: &[RouteTarget],
        is_there: impl Fn(RingId) -> bool,
    ) -> bool {
        let RouteTarget::Slot { ring, .. } = target else { return false };
        let Some(before) = self.held.get(&ring) else { return false };
        targets.iter().any(|other| {
            matches!(other, RouteTarget::Slot { ring, .. } if before.contains(ring) && is_there(*ring))
        })
    }
}

//! A topic of a ring, and the queues that it is for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use shm::Moment;

use crate::dataplane::Queue;
use crate::dataplane::queue::Source;
use crate::topic::Topic;

/// One topic of a ring.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) topic: Topic,
    pub(super) generation: u16,
    pub(super) granted: bool,
    /// Whose the events of this slot are, in the queues.
    pub(super) source: Source,
    pub(super) targets: Vec<Target>,
    /// Events that came on it since the ring was made.
    pub(super) received: Arc<AtomicU64>,
}

/// A queue that a topic is for, and since when: what happened before it joined does not concern it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) queue: Arc<Queue>,
    pub(super) since: Moment,
}

impl Target {
    /// The moment of a queue that joins a ring over the broker: when that is, the broker's answer tells.
    pub(super) const NOT_YET: Moment = Moment { position: u64::MAX, sequence: u64::MAX };

    fn waits_for(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.queue, queue) && self.since == Self::NOT_YET
    }
}

impl Slot {
    /// Has a queue that waits for it join now.
    pub(super) fn begin(&mut self, queue: &Arc<Queue>, now: impl FnOnce() -> Moment) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.waits_for(queue)) {
            target.since = now();
        }
    }

    /// Whom a record at this position is for.
    pub(super) fn targets_at(&self, position: u64) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |target| position >= target.since.position)
    }

    /// Tells queues of the loss of the events with these numbers, as far as it concerns each.
    pub(super) fn lost<'a>(&self, targets: impl Iterator<Item = &'a Target>, events: Range<u64>) {
        for target in targets {
            let count = events.end.saturating_sub(events.start.max(target.since.sequence));
            if count > 0 {
                target.queue.lost(count, self.source);
            }
        }
    }
}

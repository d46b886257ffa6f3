//! A batch that grows: its full records go into the rings at once, where nobody sees them before the rest is there.
//!
//! So a record is copied into a ring while the processor's cache still has it, and each is built in the memory of the one before: a
//! scan of 10,000 processes goes through 64 KiB, and not through 3 MB. Only what surely leaves is put there: if a ring has no
//! room, or a subscription of this process is to have the record, it waits with the builder, and so do all that come after.

use shm::Savepoint;

use super::{Delivery, Outbox, Target, part};
use crate::batch::BatchWriter;
use crate::routing::TopicId;

/// Records that are in the rings and were not flushed.
#[derive(Debug)]
pub(super) struct Staged {
    events: u64,
    /// Where each ring stood before, by its index.
    before: Vec<(usize, Savepoint)>,
}

impl Outbox {
    /// Puts a full record into the rings of its topic, until [`publish_staged`](Self::publish_staged) or
    /// [`take_back_staged`](Self::take_back_staged). `false`: it could not go to all of them, and went to none.
    pub(crate) fn stage(&mut self, topic: TopicId, record: &mut BatchWriter) -> bool {
        if self.staged.is_none() && !self.begin_staging(topic) {
            return false;
        }
        for target in self.table.targets(topic) {
            let Target::Ring { index, address } = target else { return false };
            let Some(ring) = &mut self.rings[*index] else { continue };
            // One that is broken has no room; that it is shows at the end.
            if !ring.has_room(record.bytes(), address.urgent) {
                return false;
            }
        }
        self.seal(record);
        for target in self.table.targets(topic) {
            let Target::Ring { index, address } = target else { unreachable!("there are rings alone") };
            let place = &mut self.rings[*index];
            let Some(ring) = place else { continue };
            match ring.push(*address, record, self.sequence) {
                Ok(taken) => assert!(taken, "it had room"),
                Err(over) => part(&self.events, place, over),
            }
        }
        let staged = self.staged.as_mut().expect("it was begun");
        staged.events += record.len() as u64;
        true
    }

    /// Notes where the rings of a topic stand; `false` if there is none, or the topic is not for rings alone.
    fn begin_staging(&mut self, topic: TopicId) -> bool {
        self.follow();
        let mut before = Vec::new();
        for target in self.table.targets(topic) {
            let Target::Ring { index, address } = target else { return false };
            if let Some(ring) = &self.rings[*index] {
                before.push((*index, ring.savepoint(address.slot)));
            }
        }
        let any = !before.is_empty();
        if any {
            self.staged = Some(Staged { events: 0, before });
        }
        any
    }

    /// Makes visible what was staged.
    pub(crate) fn publish_staged(&mut self) -> Delivery {
        let Some(Staged { events, before }) = self.staged.take() else { return Delivery::default() };
        let mut delivery = Delivery { events, ..Delivery::default() };
        for (index, _) in before {
            let place = &mut self.rings[index];
            let Some(ring) = place else { continue };
            match ring.flush() {
                Ok(()) => {
                    delivery.subscribers += 1;
                    delivery.reached += events;
                }
                Err(over) => part(&self.events, place, over),
            }
        }
        self.count(delivery)
    }

    /// Forgets what was staged: it was never attempted.
    pub(crate) fn take_back_staged(&mut self) {
        let Some(Staged { events, before }) = self.staged.take() else { return };
        self.sequence -= events;
        for (index, savepoint) in before {
            if let Some(ring) = &mut self.rings[index] {
                ring.rewind(savepoint, self.sequence);
            }
        }
    }
}

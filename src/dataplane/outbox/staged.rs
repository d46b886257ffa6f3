//! A batch that grows: its full records go into the rings at once, where nobody sees them before the rest is there.
//!
//! So a record is copied into a ring while the processor's cache still has it, and each is built in the memory of the one before: a
//! scan of 10,000 processes goes through 64 KiB, and not through 3 MB. Only what surely leaves is put there: if a ring has no
//! room, or a subscription of this process is to have the record, it waits with the builder, and so do all that come after.
//!
//! Who subscribes while a batch is built comes too late for what has gone ahead, and in time for the batch: it is told of that as lost.

use super::kept::Keeping;
use super::ring::{Address, Pushed, Savepoint, Sealed};
use super::{Delivery, OutRing, Outbox, Source, Target, part};
use crate::batch::BatchWriter;
use crate::config::SLOTS_MAX;
use crate::routing::TopicId;
use crate::wire::RingId;

/// Records that are in the rings and were not flushed.
#[derive(Debug)]
pub(super) struct Staged {
    events: u64,
    before: Vec<Before>,
}

/// Where a ring stood, and where in it the records go.
#[derive(Debug)]
struct Before {
    index: usize,
    ring: RingId,
    address: Address,
    savepoint: Savepoint,
}

impl Before {
    /// Whether what was staged here is for this target, and not for an earlier grant of its slot.
    fn is_for(&self, ring: &OutRing, address: &Address) -> bool {
        let own = (ring.id, address.slot, address.generation);
        (self.ring, self.address.slot, self.address.generation) == own || ring.follows(self.ring)
    }
}

impl Outbox {
    /// Puts a full record into the rings of its topic, until [`publish_staged`](Self::publish_staged) or
    /// [`take_back_staged`](Self::take_back_staged). `false`: it could not go to all of them, and went to none.
    pub(crate) fn stage(&mut self, topic: TopicId, record: &mut BatchWriter) -> bool {
        if self.staged.is_none() && !self.begin_staging(topic) {
            return false;
        }
        for target in self.table.targets(topic) {
            let Target::Ring { index, address, .. } = target else { return false };
            let Some(ring) = &mut self.rings[*index] else { continue };
            // One that is broken has no room; that it is shows at the end.
            if !ring.has_room(record.bytes(), address.urgent) {
                return false;
            }
        }
        self.seal(record);
        let sealed = Sealed::of(record);
        for target in self.table.targets(topic) {
            let Target::Ring { index, address, .. } = target else { unreachable!("there are rings alone") };
            let place = &mut self.rings[*index];
            let Some(ring) = place else { continue };
            match ring.push(*address, &sealed, self.sequence) {
                Ok(pushed) => assert_eq!(pushed, Pushed::Taken, "it had room"),
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
        if self.keeps {
            return false;
        }
        let mut before = Vec::new();
        for target in self.table.targets(topic) {
            let Target::Ring { index, address, .. } = target else { return false };
            if usize::from(address.slot) >= SLOTS_MAX {
                // No correct broker names such a slot; it shows when the record is pushed.
                return false;
            }
            if let Some(ring) = &mut self.rings[*index] {
                let (ring, savepoint) = (ring.id, ring.savepoint(address.slot));
                before.push(Before { index: *index, ring, address: *address, savepoint });
            }
        }
        let any = !before.is_empty();
        if any {
            self.staged = Some(Staged { events: 0, before });
        }
        any
    }

    /// Makes visible what was staged, and tells who has come since of what it misses.
    pub(crate) fn publish_staged(&mut self, topic: TopicId) -> Delivery {
        let staged = self.staged.take().filter(|staged| staged.events > 0);
        let Some(Staged { events, before }) = staged else { return Delivery::default() };
        for Before { index, .. } in &before {
            let place = &mut self.rings[*index];
            if let Some(Err(over)) = place.as_mut().map(OutRing::flush) {
                part(&self.events, place, over);
            }
        }
        self.follow();
        let mut delivery = Delivery { events, ..Delivery::default() };
        let few = u32::try_from(events).expect("a ring holds fewer");
        if self.keeps {
            // Nobody is there who misses it, and who comes is told.
            let mut heard = self.heard(topic);
            heard.rings.extend(before.iter().map(|before| before.ring));
            if self.shared.keep_loss(topic, few, heard, self.sequence) == Keeping::Off {
                self.follow();
            }
        }
        for target in self.table.targets(topic) {
            let reached = match target {
                Target::Local { queues, .. } if queues.is_empty() => continue,
                Target::Local { queues, urgent, .. } => {
                    let source = Source { publisher: self.number, urgent: *urgent };
                    queues.iter().for_each(|queue| queue.lost(events, source));
                    false
                }
                Target::Ring { index, address, .. } => {
                    let place = &mut self.rings[*index];
                    let Some(ring) = place else { continue };
                    let reached = before.iter().any(|before| before.is_for(ring, address));
                    if !reached
                        && let Err(over) = ring.lose(*address, few, self.sequence).and_then(|()| ring.flush())
                    {
                        part(&self.events, place, over);
                        continue;
                    }
                    reached
                }
            };
            delivery.subscribers += 1;
            *(if reached { &mut delivery.reached } else { &mut delivery.dropped }) += events;
            self.drops.too_late += if reached { 0 } else { events };
        }
        self.count(topic, delivery)
    }

    /// Forgets what was staged: it was never attempted.
    pub(crate) fn take_back_staged(&mut self) {
        let Some(Staged { events, before }) = self.staged.take() else { return };
        self.sequence -= events;
        for Before { index, savepoint, .. } in before {
            if let Some(ring) = &mut self.rings[index] {
                ring.rewind(savepoint, self.sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shm::{Backing, ConsumerSegment, ConsumerView, Doorbell, Producer, ProducerSegment};

    use super::super::{KeptShare, OutboxShared, Reader, RingEnd, RouteTarget};
    use super::*;
    use crate::access::Component;
    use crate::batch::Opaque;
    use crate::correlation::CorrelationMetadata;
    use crate::dataplane::{Hub, Origin, Queue};
    use crate::topic::{Topic, TopicPattern};
    use crate::wire::{Epoch, PublisherId};

    const RING_BYTES: usize = 1 << 16;

    fn outbox() -> (Arc<OutboxShared>, Outbox) {
        let (shared, hub) = (Arc::new(OutboxShared::new(Arc::new(KeptShare::new(0)))), Arc::new(Hub::new()));
        let component = Component::from_client_id("procmond").expect("a legal id");
        shared.set_origin(Arc::new(Origin { component, publisher: PublisherId(1), epoch: Epoch(1) }));
        shared.add_topic(Topic::new("events.process.batch").expect("a legal topic"));
        let events = tokio::sync::mpsc::unbounded_channel().0;
        let outbox = Outbox::new(Arc::clone(&shared), hub, events, RING_BYTES as u32 / 8);
        (shared, outbox)
    }

    /// A ring with a route of the one topic, behind these. Yields the subscriber's end of the doorbell.
    fn add_ring(shared: &OutboxShared, ring: u64, before: Vec<RingId>) -> Doorbell {
        let data = ProducerSegment::create(RING_BYTES, Backing::default()).expect("memory");
        let marks = ConsumerSegment::create(Backing::default()).expect("memory");
        let marks = ConsumerView::attach(marks.handle().try_clone().expect("a descriptor"));
        let marks = marks.expect("it is as agreed");
        let (progress, producer) = (marks.progress(), Producer::new(data, marks));
        let (doorbell, theirs) = Doorbell::pair().expect("descriptors");
        let end = RingEnd::Memory(Box::new(producer), progress, doorbell);
        let reader = Reader { component: "agent".into(), client: ring };
        shared.add_ring(RingId(ring), end, reader, before);
        shared.add_route(0, RouteTarget::Slot { ring: RingId(ring), slot: 0, generation: 0 });
        theirs
    }

    fn record() -> BatchWriter {
        let mut record = BatchWriter::new(RING_BYTES as u32 / 8);
        record.begin(&CorrelationMetadata::new("scan".into())).expect("it is small");
        (0..3).for_each(|_| record.push(&Opaque(b"event"), None).expect("it is small"));
        record
    }

    #[test]
    fn a_subscription_of_this_process_that_comes_while_a_batch_is_built_is_told_what_it_misses() {
        let (shared, mut outbox) = outbox();
        let _theirs = add_ring(&shared, 1, vec![]);
        let (mut record, hub) = (record(), Arc::clone(&outbox.hub));
        assert!(outbox.stage(TopicId::nth(0), &mut record));

        let queue = Arc::new(Queue::new(1 << 20));
        hub.add(1, vec![TopicPattern::new("events.#").expect("a pattern")], Arc::clone(&queue));
        shared.add_route(0, RouteTarget::Local);
        hub.begin(1);

        let delivery = outbox.publish_staged(TopicId::nth(0));
        assert_eq!((delivery.subscribers, delivery.reached, delivery.dropped), (2, 3, 3));
        assert_eq!(queue.losses().ring, 3);
    }

    #[test]
    fn a_batch_that_outlasts_two_brokers_is_not_said_to_be_lost() {
        let (shared, mut outbox) = outbox();
        let mut bells = vec![add_ring(&shared, 1, vec![])];
        let mut record = record();
        assert!(outbox.stage(TopicId::nth(0), &mut record));
        for ring in 2..=3 {
            bells.push(add_ring(&shared, ring, vec![RingId(ring - 1)]));
            shared.release_rings(&[RingId(ring - 1)], Some(RingId(ring)));
        }
        let delivery = outbox.publish_staged(TopicId::nth(0));
        assert_eq!((delivery.subscribers, delivery.reached, delivery.dropped), (1, 3, 0));
    }
}

//! One ring, as the data thread reads it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use shm::{Consumer, Doorbell, Heard, Moment, Record};
use zerocopy::IntoBytes;

use super::relay::RelayedRing;
use super::slot::{Slot, Target};
use super::{InEnd, InboxCounters, Lineage};
use crate::batch::event_count;
use crate::config::{RECORDS_PER_TURN, TURNS_PER_RING};
use crate::dataplane::chunk::{CHUNK_BYTES, Chunk, Pool, own};
use crate::dataplane::hub::Queues;
use crate::dataplane::queue::Source;
use crate::dataplane::{DataEvent, DataEvents, Hub, Origin, Queue};
use crate::hidden::Hidden;
use crate::hierarchy;
use crate::topic::Topic;
use crate::wire::{PublisherId, RelayedRecords, RingId};

#[derive(Debug)]
pub(super) struct InRing {
    pub(super) id: RingId,
    pub(super) origin: Arc<Origin>,
    way: Way,
    slots: Vec<Option<Slot>>,
    /// What was read last: copied out of the ring before it is judged, and from here to where it stays.
    payload: Hidden<Vec<u64>>,
    /// What was read and has not gone to the queues yet.
    open: Option<Open>,
    /// Whom to wake at the end of the turn.
    readers: Vec<Waker>,
    /// The publisher is gone: what is there now is read, and no more.
    ending: bool,
    /// The broker has said that it ends.
    closed: bool,
    /// Whose it is, whatever broker it came from.
    lineage: Lineage,
    /// This process's own number for that publisher.
    publisher: PublisherId,
    /// One of a broker before, of the same publisher, is not read to its end: order holds for each publisher. Two of one broker are of
    /// topics that have no order between them.
    pub(super) is_behind: bool,
    /// Its broker is gone, and will not say that it ends.
    pub(super) is_orphan: bool,
    /// That was too long ago.
    pub(super) is_cut_off: bool,
    /// Brokers that were gone when it began.
    pub(super) life: u32,
}

/// What a ring is made of.
#[derive(Debug)]
enum Way {
    Memory(Memory),
    /// It leads over the broker.
    Broker(RelayedRing),
}

#[derive(Debug)]
struct Memory {
    consumer: Consumer,
    doorbell: Doorbell,
    /// The publisher may sleep for space that it has by now: the kernel had no memory for its bell.
    owes_ring: bool,
    /// The doorbell has rung, and that was not taken in yet.
    rung: bool,
}

/// What a look at a ring came to.
#[derive(Debug)]
pub(super) enum Turn {
    Idle,
    Busy,
    /// All that will ever come has been read.
    Ended,
    /// The publisher broke its laws, in this way.
    Broken(String),
}

enum Taken {
    Nothing,
    /// One record of so many bytes.
    Record(usize),
}

/// RelayedRecords of one slot that came in a row, on their way to the same queues.
#[derive(Debug)]
struct Open {
    slot: u16,
    position: u64,
    /// A queue of this slot has joined after the first record: the next may be for it, and this one is not.
    alone: bool,
    chunk: Arc<Chunk>,
}

impl Open {
    fn at(record: &Record, slot: &Slot, pool: &mut Pool, origin: &Arc<Origin>) -> Self {
        let alone = slot.targets.iter().any(|target| record.position < target.since.position);
        let chunk = pool.take(record.bytes, &slot.topic, origin);
        Self { slot: record.slot, position: record.position, alone, chunk }
    }

    /// Whether a record may go along.
    fn takes(&self, record: &Record) -> bool {
        record.slot == self.slot && !self.alone && self.chunk.bytes() + record.bytes <= CHUNK_BYTES
    }
}

/// Gives what is open to the queues of its slot. Yields those who wait for it.
fn deliver(open: &mut Option<Open>, slots: &[Option<Slot>], readers: &mut Vec<Waker>, pool: &mut Pool) {
    let Some(open) = open.take_if(|open| open.chunk.len() > 0) else { return };
    if let Some(slot) = &slots[usize::from(open.slot)] {
        let queues = slot.targets_at(open.position).map(|target| &target.queue);
        readers.extend(queues.filter_map(|queue| queue.push(&open.chunk, slot.source)));
    }
    pool.keep(&open.chunk);
}

fn number_of(index: usize) -> u16 {
    u16::try_from(index).expect("slots are numbered by u16")
}

/// Adds to a counter that only this thread writes.
fn add(counter: &AtomicU64, events: u64) {
    counter.store(counter.load(Ordering::Relaxed) + events, Ordering::Relaxed);
}

impl InRing {
    pub(super) fn new(
        id: RingId,
        end: InEnd,
        origin: Arc<Origin>,
        lineage: Lineage,
        publisher: PublisherId,
    ) -> Self {
        let way = match end {
            InEnd::Memory(consumer, doorbell) => {
                Way::Memory(Memory { consumer: *consumer, doorbell, owes_ring: false, rung: false })
            }
            InEnd::Broker { window } => Way::Broker(RelayedRing::new(window)),
        };
        Self {
            id,
            origin,
            way,
            slots: Vec::new(),
            payload: Hidden::default(),
            open: None,
            readers: Vec::new(),
            ending: false,
            closed: false,
            lineage,
            publisher,
            is_behind: false,
            is_orphan: false,
            is_cut_off: false,
            life: 0,
        }
    }

    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    pub(super) fn publisher(&self) -> PublisherId {
        self.publisher
    }

    pub(super) fn grant(&mut self, slot: u16, generation: u16, topic: Topic, queues: &Queues) {
        let index = usize::from(slot);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        let since = self.now(slot, generation);
        let targets = queues.iter().map(|queue| Target { queue: Arc::clone(queue), since }).collect();
        let source = Source { publisher: self.publisher, urgent: hierarchy::is_urgent(&topic) };
        let received = Arc::default();
        self.slots[index] = Some(Slot { topic, generation, granted: true, source, targets, received });
    }

    /// Has what comes on a slot counted there.
    pub(super) fn count_in(&mut self, slot: u16, received: Arc<AtomicU64>) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(slot)) {
            slot.received = received;
        }
    }

    pub(super) fn revoke(&mut self, slot: u16) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(slot)) {
            slot.granted = false;
        }
    }

    /// Looks up anew which queues each topic is for.
    pub(super) fn refresh(&mut self, hub: &Hub) {
        for number in 0..self.slots.len() {
            let Some(slot) = &self.slots[number] else { continue };
            let (queues, generation) = (hub.targets(&slot.topic), slot.generation);
            let since = match self.way {
                // Only now: whoever joined after this moment would be told of what happened in between.
                Way::Memory(_) => self.now(number_of(number), generation),
                Way::Broker(_) => Target::NOT_YET,
            };
            let Some(slot) = &mut self.slots[number] else { continue };
            let known: HashMap<*const Queue, Moment> =
                slot.targets.iter().map(|target| (Arc::as_ptr(&target.queue), target.since)).collect();
            slot.targets = queues
                .iter()
                .map(|queue| Target {
                    queue: Arc::clone(queue),
                    since: known.get(&Arc::as_ptr(queue)).copied().unwrap_or(since),
                })
                .collect();
        }
    }

    /// The broker has answered for a queue: what was lost before it asked has been told by now.
    pub(super) fn begin(&mut self, queue: &Arc<Queue>) {
        let Way::Broker(ring) = &self.way else { return };
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            let generation = slot.generation;
            slot.begin(queue, || ring.now(number_of(number), generation));
        }
    }

    /// From when on a queue that joins now is told of a slot, under this grant.
    fn now(&mut self, slot: u16, generation: u16) -> Moment {
        match &mut self.way {
            // What breaks here breaks again at the next look, and is reported there.
            Way::Memory(Memory { consumer, .. }) => consumer.now(slot).unwrap_or_default(),
            Way::Broker(ring) => ring.now(slot, generation),
        }
    }

    /// Takes records that came over the broker.
    pub(super) fn relayed(&mut self, records: RelayedRecords) {
        // The broker speaks of rings as it has made them.
        if let Way::Broker(ring) = &mut self.way {
            ring.push(records);
        }
    }

    /// What is slept on until something comes; a ring over the broker has no bell of its own.
    pub(super) fn doorbell(&self) -> Option<&Doorbell> {
        match &self.way {
            Way::Memory(Memory { doorbell, .. }) => Some(doorbell),
            Way::Broker(_) => None,
        }
    }

    /// The doorbell has rung, or has not.
    pub(super) fn note_bell(&mut self, has_rung: bool) {
        if let Way::Memory(Memory { rung, .. }) = &mut self.way {
            *rung = has_rung;
        }
    }

    /// Takes in what rang. Not at once, but before the next sleep: what it rang for goes first.
    pub(super) fn hear(&mut self) {
        if let Way::Memory(Memory { rung, doorbell, .. }) = &mut self.way
            && std::mem::take(rung)
            && doorbell.hear() == Heard::PeerGone
        {
            self.end_soon();
        }
    }

    /// The publisher is gone. Its memory may still change, if it lied about that, so what is there now is the end.
    pub(super) fn end_soon(&mut self) {
        if !self.ending {
            self.ending = true;
            match &mut self.way {
                Way::Memory(Memory { consumer, .. }) => consumer.freeze(),
                Way::Broker(ring) => ring.close(),
            }
        }
    }

    /// Whether its publisher has let go of it, and there is nothing left to be read.
    pub(super) fn is_void(&mut self) -> bool {
        if self.doorbell().is_some_and(|doorbell| doorbell.hear() == Heard::PeerGone) {
            self.end_soon();
        }
        self.ending && self.occupied() == 0 && matches!(self.at_the_tail(0), Ok(Turn::Ended))
    }

    /// The broker ends the ring.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.end_soon();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes so many records and about so many bytes at most, and no more than a part of the ring; stops early when commands wait.
    pub(super) fn turn(
        &mut self,
        most: usize,
        waiting: &AtomicBool,
        counters: &InboxCounters,
        events: &DataEvents,
        pool: &mut Pool,
    ) -> Turn {
        let bytes_max = usize::try_from(self.capacity()).unwrap_or(usize::MAX) / TURNS_PER_RING;
        let bytes_max = bytes_max.min(most);
        let (mut taken, mut bytes) = (0, 0);
        let turn = loop {
            // Pairs with the store in `Inbox::tell`.
            if taken == RECORDS_PER_TURN || bytes >= bytes_max || waiting.load(Ordering::Acquire) {
                break Ok(Turn::Busy);
            }
            match self.take(counters, pool) {
                Ok(Taken::Record(record_bytes)) => {
                    taken += 1;
                    bytes += record_bytes;
                }
                Ok(Taken::Nothing) => {
                    self.deliver(pool);
                    break self.at_the_tail(taken);
                }
                Err(violation) => break Err(violation),
            }
        };
        self.deliver(pool);
        self.release(events);
        turn.unwrap_or_else(Turn::Broken)
    }

    /// Gives the room of what was read back to the publisher.
    fn release(&mut self, events: &DataEvents) {
        match &mut self.way {
            Way::Memory(Memory { consumer, doorbell, owes_ring, .. }) => {
                if consumer.release() || *owes_ring {
                    // A publisher that is gone waits for nothing, and is heard of when we sleep.
                    *owes_ring = doorbell.ring() == Ok(false);
                }
            }
            Way::Broker(ring) => {
                if let Some(cost) = ring.release() {
                    // Without a control thread there is nobody to tell.
                    let _ = events.send(DataEvent::Took { ring: self.id, cost });
                }
            }
        }
    }

    fn read(&mut self) -> Result<Option<Record>, String> {
        match &mut self.way {
            Way::Memory(Memory { consumer, .. }) => {
                consumer.read(&mut self.payload).map_err(|error| error.to_string())
            }
            Way::Broker(ring) => ring.read(&mut self.payload),
        }
    }

    /// Wakes who waited for what came in this turn; whether anybody did.
    pub(super) fn wake_readers(&mut self) -> bool {
        let any = !self.readers.is_empty();
        self.readers.drain(..).for_each(Waker::wake);
        any
    }

    /// Takes one record, if there is one.
    fn take(&mut self, counters: &InboxCounters, pool: &mut Pool) -> Result<Taken, String> {
        let Some(record) = self.read()? else {
            return Ok(Taken::Nothing);
        };
        // A slot is known here before its publisher may use it.
        let granted = self.slots.get(usize::from(record.slot)).and_then(Option::as_ref);
        let Some(slot) = granted.filter(|slot| record.generation <= slot.generation) else {
            let Record { slot, generation, .. } = record;
            return Err(format!("a record of slot {slot}, grant {generation}, which was never granted"));
        };
        let payload = &self.payload.as_bytes()[..record.bytes];
        let events = event_count(payload).map_err(|error| error.to_string())?;
        let lost = match &mut self.way {
            Way::Memory(Memory { consumer, .. }) => {
                consumer.settle(&record, events.into()).map_err(|error| error.to_string())?
            }
            Way::Broker(ring) => ring.settle(&record, events.into())?,
        };
        if !slot.granted || record.generation != slot.generation {
            add(&counters.skipped, events.into());
            return Ok(Taken::Record(record.bytes));
        }
        if lost > 0 || !self.open.as_ref().is_some_and(|open| open.takes(&record)) {
            deliver(&mut self.open, &self.slots, &mut self.readers, pool);
        }
        if lost > 0 {
            slot.lost(slot.targets_at(record.position), record.sequence - lost..record.sequence);
        }
        let open = self.open.get_or_insert_with(|| Open::at(&record, slot, pool, &self.origin));
        own(&mut open.chunk).push(&mut self.payload, record.bytes).map_err(|error| error.to_string())?;
        add(&counters.received, events.into());
        add(&slot.received, events.into());
        Ok(Taken::Record(record.bytes))
    }

    fn deliver(&mut self, pool: &mut Pool) {
        deliver(&mut self.open, &self.slots, &mut self.readers, pool);
    }

    /// The ring is empty: tells of losses behind the last record, and sees whether this is the end.
    fn at_the_tail(&mut self, taken: usize) -> Result<Turn, String> {
        let mut losses = Vec::new();
        match &mut self.way {
            Way::Memory(Memory { consumer, .. }) => {
                let told = consumer.tail_loss(|slot, events| losses.push((slot, events)));
                told.map_err(|error| error.to_string())?;
            }
            Way::Broker(ring) => {
                let slots = &self.slots;
                let of = |slot: u16| slots.get(usize::from(slot)).and_then(Option::as_ref);
                let told = ring.take_losses().into_iter().filter(|(slot, generation, _)| {
                    of(*slot).is_some_and(|slot| slot.generation == *generation)
                });
                losses = told.map(|(slot, _, events)| (slot, events)).collect();
            }
        }
        for (number, events) in losses {
            let end = match &self.way {
                Way::Memory(Memory { consumer, .. }) => consumer.settled_on(number),
                Way::Broker(ring) => ring.settled_on(number),
            };
            if let Some(Some(slot)) = self.slots.get(usize::from(number))
                && slot.granted
            {
                slot.lost(slot.targets.iter(), end - events..end);
            }
        }
        let (ended, idle) = match &mut self.way {
            Way::Memory(Memory { consumer, .. }) => {
                (self.ending || consumer.ended().map_err(|error| error.to_string())?, true)
            }
            Way::Broker(ring) => (ring.has_ended(), ring.is_idle()),
        };
        if ended {
            return Ok(Turn::Ended);
        }
        Ok(if taken > 0 || !idle { Turn::Busy } else { Turn::Idle })
    }

    /// Asks to be woken for so many bytes; `false` if there is something to look at first.
    pub(super) fn arm(&mut self, want: u64) -> bool {
        match &mut self.way {
            // What breaks here breaks again at the next look, and is reported there.
            Way::Memory(Memory { consumer, owes_ring, .. }) => {
                !self.ending && !*owes_ring && consumer.arm(want).unwrap_or(false)
            }
            // What comes is a command, which wakes whoever sleeps.
            Way::Broker(ring) => ring.is_idle(),
        }
    }

    pub(super) fn disarm(&mut self) {
        if let Way::Memory(Memory { consumer, .. }) = &mut self.way {
            consumer.disarm();
        }
    }

    /// Bytes that wait.
    pub(super) fn occupied(&mut self) -> u64 {
        match &mut self.way {
            Way::Memory(Memory { consumer, .. }) => consumer.occupied().unwrap_or(0),
            Way::Broker(ring) => ring.occupied(),
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        match &self.way {
            Way::Memory(Memory { consumer, .. }) => consumer.capacity() as u64,
            Way::Broker(ring) => ring.window(),
        }
    }

    /// All queues that this ring feeds.
    pub(super) fn queues(&self) -> impl Iterator<Item = Arc<Queue>> {
        self.slots
            .iter()
            .flatten()
            .flat_map(|slot| slot.targets.iter().map(|target| Arc::clone(&target.queue)))
    }
}

//! One ring, as the data thread reads it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use shm::{Consumer, Doorbell, Heard, Moment, Record};
use zerocopy::IntoBytes;

use super::{InboxCounters, Slot, Source, Target};
use crate::batch::event_count;
use crate::config::{TURN_BYTES_MAX, TURNS_PER_RING};
use crate::dataplane::chunk::{CHUNK_BYTES, Chunk, Pool, own};
use crate::dataplane::hub::Queues;
use crate::dataplane::{Hub, Origin, Queue};
use crate::hierarchy;
use crate::topic::Topic;
use crate::wire::RingId;

#[derive(Debug)]
pub(super) struct InRing {
    pub(super) id: RingId,
    pub(super) doorbell: Doorbell,
    pub(super) origin: Arc<Origin>,
    consumer: Consumer,
    slots: Vec<Option<Slot>>,
    /// What was read last: copied out of the ring before it is judged, and from here to where it stays.
    payload: Vec<u64>,
    /// What was read and has not gone to the queues yet.
    open: Option<Open>,
    /// Whom to wake at the end of the turn.
    readers: Vec<Waker>,
    /// The publisher is gone: what is there now is read, and no more.
    ending: bool,
    /// The broker has said that it ends.
    closed: bool,
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

/// Records of one slot that came in a row, on their way to the same queues.
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

/// Adds to a counter that only this thread writes.
fn add(counter: &AtomicU64, events: u64) {
    counter.store(counter.load(Ordering::Relaxed) + events, Ordering::Relaxed);
}

impl InRing {
    pub(super) fn new(id: RingId, consumer: Consumer, doorbell: Doorbell, origin: Arc<Origin>) -> Self {
        Self {
            id,
            doorbell,
            origin,
            consumer,
            slots: Vec::new(),
            payload: Vec::new(),
            open: None,
            readers: Vec::new(),
            ending: false,
            closed: false,
            owes_ring: false,
            rung: false,
        }
    }

    pub(super) fn grant(&mut self, slot: u16, generation: u16, topic: Topic, queues: &Queues) {
        let index = usize::from(slot);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        let since = self.now(slot);
        let targets = queues.iter().map(|queue| Target { queue: Arc::clone(queue), since }).collect();
        let source = Source { publisher: self.origin.publisher, urgent: hierarchy::is_urgent(&topic) };
        self.slots[index] = Some(Slot { topic, generation, granted: true, source, targets });
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
            let queues = hub.targets(&slot.topic);
            // Only now: whoever joined after this moment would be told of what happened in between.
            let since = self.now(u16::try_from(number).expect("slots are numbered by u16"));
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

    /// From when on a queue that joins now is told of a slot.
    fn now(&mut self, slot: u16) -> Moment {
        // What breaks here breaks again at the next look, and is reported there.
        self.consumer.now(slot).unwrap_or_default()
    }

    /// The doorbell has rung, or has not.
    pub(super) fn note_bell(&mut self, rung: bool) {
        self.rung = rung;
    }

    /// Takes in what rang. Not at once, but before the next sleep: what it rang for goes first.
    pub(super) fn hear(&mut self) {
        if std::mem::take(&mut self.rung) && self.doorbell.hear() == Heard::PeerGone {
            self.end_soon();
        }
    }

    /// The publisher is gone. Its memory may still change, if it lied about that, so what is there now is the end.
    pub(super) fn end_soon(&mut self) {
        if !self.ending {
            self.ending = true;
            self.consumer.freeze();
        }
    }

    /// The broker ends the ring.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.end_soon();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes up to `records` records, or a part of the ring; stops early when commands wait.
    pub(super) fn turn(
        &mut self,
        records: usize,
        waiting: &AtomicBool,
        counters: &InboxCounters,
        pool: &mut Pool,
    ) -> Turn {
        let bytes_max = (self.consumer.capacity() / TURNS_PER_RING).min(TURN_BYTES_MAX);
        let (mut taken, mut bytes) = (0, 0);
        let turn = loop {
            // Pairs with the store in `Inbox::tell`.
            if taken == records || bytes >= bytes_max || waiting.load(Ordering::Acquire) {
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
        if self.consumer.release() || self.owes_ring {
            // A publisher that is gone waits for nothing, and is heard of when we sleep.
            self.owes_ring = self.doorbell.ring() == Ok(false);
        }
        turn.unwrap_or_else(Turn::Broken)
    }

    /// Wakes who waited for what came in this turn; whether anybody did.
    pub(super) fn wake_readers(&mut self) -> bool {
        let any = !self.readers.is_empty();
        self.readers.drain(..).for_each(Waker::wake);
        any
    }

    /// Takes one record, if there is one.
    fn take(&mut self, counters: &InboxCounters, pool: &mut Pool) -> Result<Taken, String> {
        let Some(record) = self.consumer.read(&mut self.payload).map_err(|error| error.to_string())? else {
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
        let lost = self.consumer.settle(&record, events.into()).map_err(|error| error.to_string())?;
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
        Ok(Taken::Record(record.bytes))
    }

    fn deliver(&mut self, pool: &mut Pool) {
        deliver(&mut self.open, &self.slots, &mut self.readers, pool);
    }

    /// The ring is empty: tells of losses behind the last record, and sees whether this is the end.
    fn at_the_tail(&mut self, taken: usize) -> Result<Turn, String> {
        let mut losses = Vec::new();
        let told = self.consumer.tail_loss(|slot, events| losses.push((slot, events)));
        told.map_err(|error| error.to_string())?;
        for (number, events) in losses {
            let end = self.consumer.settled_on(number);
            if let Some(Some(slot)) = self.slots.get(usize::from(number))
                && slot.granted
            {
                slot.lost(slot.targets.iter(), end - events..end);
            }
        }
        if self.ending || self.consumer.ended().map_err(|error| error.to_string())? {
            return Ok(Turn::Ended);
        }
        Ok(if taken > 0 { Turn::Busy } else { Turn::Idle })
    }

    /// Asks to be woken for so many bytes; `false` if there is something to look at first.
    pub(super) fn arm(&mut self, want: u64) -> bool {
        // What breaks here breaks again at the next look, and is reported there.
        !self.ending && !self.owes_ring && self.consumer.arm(want).unwrap_or(false)
    }

    pub(super) fn disarm(&mut self) {
        self.consumer.disarm();
    }

    /// Bytes that wait.
    pub(super) fn occupied(&mut self) -> u64 {
        self.consumer.occupied().unwrap_or(0)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.consumer.capacity() as u64
    }

    /// All queues that this ring feeds.
    pub(super) fn queues(&self) -> impl Iterator<Item = Arc<Queue>> {
        self.slots
            .iter()
            .flatten()
            .flat_map(|slot| slot.targets.iter().map(|target| Arc::clone(&target.queue)))
    }
}

#[cfg(test)]
mod tests {
    use shm::{Backing, ConsumerSegment, ConsumerView, Producer, ProducerSegment, ProducerView};

    use std::task::{Context, Poll};

    use parking_lot::Mutex;

    use super::super::{Command, DataThread, Hub, RecvError, Shared};
    use super::*;
    use crate::access::Component;
    use crate::batch::{BatchWriter, Opaque};
    use crate::correlation::CorrelationMetadata;
    use crate::dataplane::Taken;
    use crate::dataplane::wait::{Wait, WaitPolicy};
    use crate::wire::{Epoch, PublisherId};

    const RING_BYTES: usize = 1 << 16;

    fn ring() -> (Producer, InRing) {
        let (data, marks) = (
            ProducerSegment::create(RING_BYTES, Backing::default()).expect("memory"),
            ConsumerSegment::create(Backing::default()).expect("memory"),
        );
        let share = |handle: &shm::Handle| handle.try_clone().expect("a descriptor");
        let seen_data = ProducerView::attach(share(data.handle()), RING_BYTES).expect("it is as agreed");
        let seen_marks = ConsumerView::attach(share(marks.handle())).expect("it is as agreed");
        let component = Component::from_client_id("procmond").expect("a legal id");
        let origin = Arc::new(Origin { component, publisher: PublisherId(1), epoch: Epoch(1) });
        let (doorbell, _) = Doorbell::pair().expect("descriptors");
        let mut ring = InRing::new(RingId(1), Consumer::new(seen_data, marks), doorbell, origin);
        ring.grant(0, 0, Topic::new("events.process.batch").expect("a legal topic"), &Arc::from([]));
        (Producer::new(data, seen_marks), ring)
    }

    /// Large records, as batches are: a turn's worth of them is far more than the ring holds.
    #[test]
    fn a_turn_gives_space_back_long_before_it_has_read_the_whole_ring() {
        let (mut producer, mut ring) = ring();
        let mut record = BatchWriter::new(RING_BYTES as u32 / 8);
        record.begin(&CorrelationMetadata::new("scan".into())).expect("it is small");
        record.push(&Opaque(&[7; 2048]), None).expect("it is small");
        record.seal(0, std::time::UNIX_EPOCH, 0);
        while producer.push(0, 0, 1, &record.parts()).is_ok() {}
        let _ = producer.flush();
        let full = producer.occupied().expect("nothing is broken");

        let turn = ring.turn(256, &AtomicBool::new(false), &InboxCounters::default(), &mut Pool::default());

        assert!(matches!(turn, Turn::Busy), "{turn:?}");
        let left = producer.occupied().expect("nothing is broken");
        assert!(left < full && left > full / 2, "{left} of {full} bytes are left");
    }

    /// A single event, published.
    fn publish(producer: &mut Producer) {
        let mut record = BatchWriter::new(RING_BYTES as u32 / 8);
        record.begin(&CorrelationMetadata::new("scan".into())).expect("it is small");
        record.push(&Opaque(b"event"), None).expect("it is small");
        record.seal(0, std::time::UNIX_EPOCH, 0);
        producer.push(0, 0, 1, &record.parts()).expect("there is room");
        let _ = producer.flush();
    }

    fn begun_queue() -> Arc<Queue> {
        let queue = Queue::new(1 << 20);
        queue.begin();
        Arc::new(queue)
    }

    fn count_of(queue: &Queue) -> usize {
        let (mut taken, mut count) = (Taken::default(), 0);
        while let Poll::Ready(Some(Ok(_))) =
            queue.poll_next(&mut taken, &mut Context::from_waker(Waker::noop()))
        {
            count += 1;
        }
        count
    }

    #[test]
    fn a_queue_that_joins_between_two_records_of_a_burst_gets_the_second() {
        let (mut producer, mut ring) = ring();
        let (hub, queues) = (Hub::new(), [begun_queue(), begun_queue()]);
        for (number, queue) in queues.iter().enumerate() {
            let pattern = crate::topic::TopicPattern::new("events.#").expect("a pattern");
            hub.add(number as u32, vec![pattern], Arc::clone(queue));
            ring.refresh(&hub);
            publish(&mut producer);
        }
        let turn = ring.turn(256, &AtomicBool::new(false), &InboxCounters::default(), &mut Pool::default());
        assert!(matches!(turn, Turn::Busy), "{turn:?}");
        assert_eq!(queues.map(|queue| count_of(&queue)), [2, 1]);
    }

    #[test]
    fn what_came_before_a_breach_is_delivered() {
        let (mut producer, ring) = ring();
        let (mut thread, queue) = thread_with(ring);
        publish(&mut producer);
        producer.push(0, 0, 1, &[&[7; 64]]).expect("there is room");
        let _ = producer.flush();
        thread.turn();
        assert!(thread.rings.is_empty(), "it is broken");
        assert_eq!(count_of(&queue), 1);
    }

    /// A data thread with this one ring, to be driven by hand, and the queue that the ring feeds.
    fn thread_with(mut ring: InRing) -> (DataThread, Arc<Queue>) {
        let queue = begun_queue();
        let topic = Topic::new("events.process.batch").expect("a legal topic");
        ring.grant(0, 0, topic, &Arc::from([Arc::clone(&queue)]));
        let (wake, woken) = Doorbell::pair().expect("descriptors");
        let shared = Shared {
            commands: Mutex::default(),
            waiting: AtomicBool::new(false),
            wake,
            counters: Arc::default(),
        };
        let thread = DataThread {
            shared: Arc::new(shared),
            woken,
            hub: Arc::new(Hub::new()),
            events: tokio::sync::mpsc::unbounded_channel().0,
            rings: vec![ring],
            ended: Vec::new(),
            pool: Pool::default(),
            hub_seen: 1,
            session_over: false,
            wait: Wait::new(WaitPolicy::default()),
            woke: false,
            rung: Vec::new(),
        };
        (thread, queue)
    }

    /// The publisher lets go of a ring that it holds to be broken, and the broker's word about it comes later.
    #[test]
    fn an_accusation_is_told_also_behind_the_end_of_its_ring() {
        let (mut producer, ring) = ring();
        let _ = producer.close();
        let (mut thread, queue) = thread_with(ring);
        thread.turn();
        assert!(thread.rings.is_empty(), "it has ended");

        thread.carry_out(Command::Close { ring: RingId(1), accused: Some("its head".into()) });

        let next = queue.poll_next(&mut Taken::default(), &mut Context::from_waker(Waker::noop()));
        assert!(matches!(next, Poll::Ready(Some(Err(RecvError::Poisoned { .. })))), "{next:?}");
        assert!(thread.ended.is_empty(), "nothing is left of the ring");
    }

    #[test]
    fn of_a_ring_that_the_broker_closes_first_nothing_is_left_either() {
        let (_producer, ring) = ring();
        let (mut thread, _queue) = thread_with(ring);
        thread.carry_out(Command::Close { ring: RingId(1), accused: None });
        thread.turn();
        assert!(thread.rings.is_empty() && thread.ended.is_empty());
    }
}

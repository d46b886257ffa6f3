//! The ring against a plain queue: whatever is done in whatever order, the same records, the same losses, the same totals.

use std::collections::VecDeque;

use proptest::prelude::*;
use shm::{
    Backing, Consumer, ConsumerSegment, ConsumerView, Producer, ProducerSegment, ProducerView, PushError,
};

const CAPACITY: usize = 1 << 16;
const PAYLOAD_BYTES_MAX: usize = shm::layout::payload_bytes_max(CAPACITY);
const SLOTS: usize = 3;
/// What is pushed on this slot is urgent.
const URGENT: u16 = 2;
const RESERVE: u64 = CAPACITY as u64 / 8;
const BACKINGS: [Backing; 2] = [Backing::Memfd, Backing::Named];

#[derive(Debug, Clone)]
enum Step {
    Push { slot: u16, events: u32, bytes: usize, split: bool },
    Flush,
    Read { records_max: usize },
    Release,
    TailLoss,
    Arm { want: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![0..64_usize, 0..=PAYLOAD_BYTES_MAX, Just(PAYLOAD_BYTES_MAX)];
    prop_oneof![
        8 => (0..SLOTS as u16, 1..6_u32, bytes, any::<bool>())
            .prop_map(|(slot, events, bytes, split)| Step::Push { slot, events, bytes, split }),
        2 => Just(Step::Flush),
        3 => (1..12_usize).prop_map(|records_max| Step::Read { records_max }),
        2 => Just(Step::Release),
        1 => Just(Step::TailLoss),
        1 => (1..=2 * CAPACITY as u64).prop_map(|want| Step::Arm { want }),
    ]
}

/// What became of one push on a slot.
#[derive(Debug)]
struct Outcome {
    events: u64,
    taken: bool,
    flushed: bool,
}

#[derive(Debug)]
struct Expected {
    slot: u16,
    generation: u16,
    events: u32,
    payload: Vec<u8>,
    flushed: bool,
}

/// The front of `queue`, if it is as asked for.
fn pop_if<T>(queue: &mut VecDeque<T>, asked: impl FnOnce(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(asked) { queue.pop_front() } else { None }
}

struct Model {
    /// Open until it is closed, there until it is dropped.
    producer: Option<Producer>,
    open: bool,
    consumer: Consumer,
    records: VecDeque<Expected>,
    slots: [VecDeque<Outcome>; SLOTS],
    /// Bytes of records, without padding, that were pushed and not released; of those, read.
    held: u64,
    read: u64,
    pushes: u16,
    attempted: u64,
    /// Of those attempted, the events that a flush has behind it.
    published: u64,
}

impl Model {
    fn new(backing: Backing) -> Self {
        let data = ProducerSegment::create(CAPACITY, backing).unwrap();
        let marks = ConsumerSegment::create(backing).unwrap();
        let seen_data = ProducerView::attach(data.handle().try_clone().unwrap(), CAPACITY).unwrap();
        let seen_marks = ConsumerView::attach(marks.handle().try_clone().unwrap()).unwrap();
        let mut producer = Producer::new(data, seen_marks);
        producer.set_reserve(RESERVE);
        Self {
            producer: Some(producer),
            open: true,
            consumer: Consumer::new(seen_data, marks),
            records: VecDeque::new(),
            slots: std::array::from_fn(|_| VecDeque::new()),
            held: 0,
            read: 0,
            pushes: 0,
            attempted: 0,
            published: 0,
        }
    }

    fn producer(&mut self) -> &mut Producer {
        self.producer.as_mut().expect("it was not dropped")
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Push { slot, events, bytes, split } if self.open => self.push(slot, events, bytes, split),
            Step::Flush if self.open => self.flush(),
            Step::Push { .. } | Step::Flush => {}
            Step::Read { records_max } => {
                for _ in 0..records_max {
                    if !self.read() {
                        break;
                    }
                }
            }
            Step::Release => self.release(),
            Step::TailLoss => self.tail_loss(),
            Step::Arm { want } => {
                let published = self.records.iter().any(|record| record.flushed);
                self.release();
                let sleeps = self.consumer.arm(want).unwrap();
                assert!(want > 1 || !(published && sleeps), "asleep with records to read");
                assert!(self.open || self.producer.is_none() || !sleeps, "asleep after the end");
                self.consumer.disarm();
            }
        }
    }

    fn push(&mut self, slot: u16, events: u32, bytes: usize, split: bool) {
        self.pushes += 1;
        let generation = self.pushes;
        let payload: Vec<u8> = (0..bytes).map(|index| (index as u16 ^ generation) as u8).collect();
        let cut = if split { bytes / 16 * 8 } else { 0 };
        let parts: &[&[u8]] = &[&payload[..cut], &payload[cut..]];
        let size = 16 + (bytes as u64).next_multiple_of(8);
        let (pushed, limit) = if slot == URGENT {
            (self.producer().push_urgent(slot, generation, events, parts), CAPACITY as u64)
        } else {
            (self.producer().push(slot, generation, events, parts), CAPACITY as u64 - RESERVE)
        };
        let taken = match pushed {
            Ok(()) => true,
            Err(PushError::Full) => false,
            Err(error) => panic!("{error}"),
        };
        // At most one padding is in the ring, and it is shorter than the record behind it.
        let longest = shm::layout::payload_bytes_max(CAPACITY) as u64 + 16;
        assert!(!taken || self.held + size <= limit, "taken into a full ring");
        assert!(taken || self.held + size + 2 * longest > limit, "refused by a ring with space");
        if taken {
            self.held += size;
            self.records.push_back(Expected { slot, generation, events, payload, flushed: false });
        }
        self.attempted += u64::from(events);
        let outcome = Outcome { events: events.into(), taken, flushed: false };
        self.slots[usize::from(slot)].push_back(outcome);
    }

    fn flush(&mut self) {
        let _nobody_sleeps = self.producer().flush();
        self.flushed();
    }

    fn flushed(&mut self) {
        self.published = self.attempted;
        self.records.iter_mut().for_each(|record| record.flushed = true);
        self.slots.iter_mut().flatten().for_each(|outcome| outcome.flushed = true);
    }

    fn read(&mut self) -> bool {
        let mut payload = Vec::new();
        let found = self.consumer.read(&mut payload).unwrap();
        let Some(expected) = pop_if(&mut self.records, |record| record.flushed) else {
            assert_eq!(found, None, "a record that was never flushed");
            return false;
        };
        let found = found.expect("a record was flushed");
        assert_eq!((found.slot, found.generation), (expected.slot, expected.generation));
        assert_eq!(found.bytes, expected.payload.len());
        let bytes: Vec<u8> = payload.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes[..found.bytes], expected.payload);
        assert!(bytes[found.bytes..].iter().all(|&byte| byte == 0), "the last word is filled up with zeros");

        let outcomes = &mut self.slots[usize::from(found.slot)];
        let mut lost = 0;
        while let Some(outcome) = pop_if(outcomes, |outcome| !outcome.taken) {
            lost += outcome.events;
        }
        assert!(outcomes.pop_front().is_some_and(|outcome| outcome.taken));
        assert_eq!(self.consumer.settle(&found, expected.events).unwrap(), lost);
        self.read += 16 + (found.bytes as u64).next_multiple_of(8);
        true
    }

    fn release(&mut self) {
        let wake = self.consumer.release();
        assert!(!wake, "the producer is awake");
        self.released();
    }

    fn released(&mut self) {
        self.held -= std::mem::take(&mut self.read);
    }

    fn tail_loss(&mut self) {
        let mut told = Vec::new();
        self.consumer.tail_loss(|slot, events| told.push((slot, events))).unwrap();
        if self.records.front().is_some_and(|record| record.flushed) {
            assert_eq!(told, [], "a later record tells of it");
            return;
        }
        let mut expected = Vec::new();
        for (slot, outcomes) in (0..).zip(&mut self.slots) {
            let mut lost = 0;
            while let Some(outcome) = pop_if(outcomes, |outcome| outcome.flushed) {
                assert!(!outcome.taken);
                lost += outcome.events;
            }
            if lost > 0 {
                expected.push((slot, lost));
            }
        }
        assert_eq!(told, expected);
    }

    fn close(&mut self) {
        let _nobody_sleeps = self.producer().close();
        self.flushed();
        self.open = false;
    }

    /// The producer is gone without a word.
    fn drop_producer(&mut self) {
        self.producer = None;
        self.open = false;
        self.consumer.freeze();
    }

    fn end(mut self) {
        self.close();
        self.drain();
    }

    fn drain(mut self) {
        while self.read() {}
        self.release();
        self.tail_loss();
        let closed = self.producer.is_some();
        assert_eq!(self.consumer.ended().unwrap(), closed);
        assert!(!(closed && self.consumer.arm(1).unwrap()), "nothing wakes a consumer after the end");
        assert_eq!(self.consumer.attempted(), self.published);
        assert_eq!(self.consumer.settled(), self.published);
        if let Some(producer) = &mut self.producer {
            assert_eq!(producer.attempted(), self.attempted);
            assert_eq!(producer.occupied().unwrap(), 0);
        }
    }

    /// The consumer is gone without a word: the producer goes on, and finds the ring full.
    fn go_on_without_consumer(self, steps: &[Step]) {
        let Self { producer, consumer, mut attempted, .. } = self;
        let mut producer = producer.expect("it was not dropped");
        drop(consumer);
        let occupied = producer.occupied().unwrap();
        let mut taken = 0;
        for step in steps {
            match *step {
                Step::Push { slot, events, bytes, .. } => {
                    attempted += u64::from(events);
                    match producer.push(slot, 0, events, &[&vec![0; bytes]]) {
                        Ok(()) => taken += 16 + (bytes as u64).next_multiple_of(8),
                        refused => assert_eq!(refused, Err(PushError::Full)),
                    }
                }
                Step::Flush => assert!(!producer.flush(), "nobody sleeps"),
                _ => {}
            }
            assert!(producer.occupied().unwrap() <= CAPACITY as u64);
        }
        assert!(producer.occupied().unwrap() >= occupied + taken, "nobody gives space back");
        assert!(!producer.close(), "nobody sleeps");
        assert_eq!(producer.attempted(), attempted);
    }
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Close,
    DropProducer,
    DropConsumer,
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![3 => Just(Ending::Close), 1 => Just(Ending::DropProducer), 1 => Just(Ending::DropConsumer)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ring_is_a_queue_that_counts_what_it_refuses(
        before in prop::collection::vec(step(), 1..200),
        ending in ending(),
        after in prop::collection::vec(step(), 0..100),
        backing in prop::sample::select(BACKINGS.as_slice()),
    ) {
        let mut model = Model::new(backing);
        before.iter().for_each(|step| model.take(step));
        match ending {
            Ending::Close => model.close(),
            Ending::DropProducer => model.drop_producer(),
            Ending::DropConsumer => {
                model.go_on_without_consumer(&after);
                return Ok(());
            }
        }
        after.iter().for_each(|step| model.take(step));
        model.drain();
    }
}

#[test]
fn a_record_above_the_limit_is_refused_and_not_counted() {
    let mut model = Model::new(Backing::default());
    let error = model.producer().push(0, 0, 1, &[&vec![0; PAYLOAD_BYTES_MAX + 1]]).unwrap_err();
    assert_eq!(error, PushError::TooLarge { bytes: PAYLOAD_BYTES_MAX + 1, limit: PAYLOAD_BYTES_MAX });
    let slot = shm::layout::SLOTS_MAX as u16;
    let error = model.producer().push(slot, 0, 1, &[]).unwrap_err();
    assert_eq!(error, PushError::NoSuchSlot { slot, limit: shm::layout::SLOTS_MAX });
    model.end();
}

#[test]
fn a_ring_takes_records_to_its_last_byte() {
    BACKINGS.into_iter().for_each(takes_records_to_its_last_byte);
}

fn takes_records_to_its_last_byte(backing: Backing) {
    let mut model = Model::new(backing);
    let bytes = 64 - 16;
    let records = (CAPACITY / 64) as u64;
    for _ in 0..records {
        model.push(URGENT, 1, bytes, false);
    }
    model.flush();
    // From now on each record needs exactly the space of the one that was just read.
    for taken in records..3 * records {
        model.push(URGENT, 1, 0, false);
        assert_eq!(model.producer().occupied().unwrap(), CAPACITY as u64, "full");
        assert!(model.read());
        model.release();
        model.push(URGENT, 1, bytes, false);
        assert_eq!(model.records.len() as u64, records, "the ring has space for record {taken}");
        model.flush();
    }
    model.end();
}

//! A peer that owns the other segment and writes what it likes: each breach has its name, sticks, and never panics.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use shm::layout::{
    AWAKE, CONSUMER_SEGMENT_BYTES, MAGIC_CONSUMER, MAGIC_PRODUCER, PADDING, PRODUCER_HEADER_BYTES, SLOTS_MAX,
    payload_bytes_max,
};
use shm::{
    Consumer, ConsumerSegment, ConsumerView, Producer, ProducerSegment, ProducerView, PushError, Violation,
};

use super::BACKING;
use crate::hand_made::HandMade;

const CAPACITY: u64 = 1 << 16;
// The map of `layout.rs`, written down a second time: a hostile peer knows it too.
pub(crate) const TAIL: usize = 128;
const ATTEMPTED: usize = 136;
const LOST: usize = 256;
const CLOSED: usize = 384;
const ROOM_AT: usize = 392;
const SLOTS: usize = 512;
pub(crate) const HEAD: usize = 128;
const WAKE_AT: usize = 256;

pub(crate) struct HostileProducer(HandMade);

impl HostileProducer {
    pub(crate) fn new() -> (Self, Consumer) {
        let bytes = PRODUCER_HEADER_BYTES + CAPACITY as usize;
        let data = HandMade::as_agreed(bytes, MAGIC_PRODUCER, BACKING);
        let view = ProducerView::attach(data.hand_over(), CAPACITY as usize).unwrap();
        (Self(data), Consumer::new(view, ConsumerSegment::create(BACKING).unwrap()))
    }

    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        self.0.word(offset)
    }

    pub(crate) fn set(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }

    fn set_data(&self, position: u64, value: u64) {
        self.set(PRODUCER_HEADER_BYTES + (position % CAPACITY) as usize, value);
    }

    /// A well-formed record of `bytes` of payload at `position`.
    pub(crate) fn set_record(&self, position: u64, slot: u16, sequence: u64, bytes: u32) -> u64 {
        self.set_data(position, tag(bytes, slot));
        self.set_data(position + 8, sequence);
        position + 16 + u64::from(bytes).next_multiple_of(8)
    }
}

pub(crate) fn tag(length: u32, slot: u16) -> u64 {
    u64::from(length) | (u64::from(slot) << 32)
}

pub(crate) fn read(consumer: &mut Consumer) -> Result<Option<shm::Record>, Violation> {
    consumer.read(&mut Vec::new())
}

#[track_caller]
fn is_poisoned(consumer: &mut Consumer, violation: Violation) {
    for _ in 0..2 {
        assert_eq!(read(consumer), Err(violation));
        assert_eq!(consumer.tail_loss(|_, _| unreachable!("nothing is told any more")), Err(violation));
        assert_eq!(consumer.arm(1), Err(violation));
        assert_eq!(consumer.ended(), Err(violation));
        assert_eq!(consumer.occupied(), Err(violation));
    }
}

#[test]
fn a_tail_that_no_producer_sets_poisons_the_consumer() {
    let steps = [(0, 1), (0, 4), (0, u64::MAX), (0, u64::MAX - 7), (0, CAPACITY + 8), (0, 1 << 63)];
    let backwards = [(64, 0), (64, 32), (64, 56), (64, 65), (64, CAPACITY + 72)];
    for (first, found) in steps.into_iter().chain(backwards) {
        let (peer, mut consumer) = HostileProducer::new();
        let mut end = 0;
        while end < first {
            end = peer.set_record(end, 0, end / 16, 0);
        }
        peer.set(TAIL, first);
        while read(&mut consumer).unwrap().is_some() {}
        peer.set(TAIL, found);
        let violation = Violation::Tail { found, last: first, read: first };
        assert_eq!(read(&mut consumer), Err(violation));
        peer.set(TAIL, first);
        is_poisoned(&mut consumer, violation);
    }
}

#[test]
fn a_tail_that_takes_records_back_poisons_the_consumer() {
    let (peer, mut consumer) = HostileProducer::new();
    for position in (0..64).step_by(16) {
        peer.set_record(position, 0, position / 16, 0);
    }
    peer.set(TAIL, 64);
    assert!(read(&mut consumer).unwrap().is_some());
    // Not yet read, but it was there.
    peer.set(TAIL, 32);
    let violation = Violation::Tail { found: 32, last: 64, read: 16 };
    assert_eq!(consumer.occupied(), Err(violation));
    is_poisoned(&mut consumer, violation);
}

#[test]
fn a_whole_ring_of_records_is_no_violation() {
    let (peer, mut consumer) = HostileProducer::new();
    for position in (0..CAPACITY).step_by(16) {
        peer.set_record(position, 0, position / 16, 0);
    }
    peer.set(TAIL, CAPACITY);
    for _ in 0..CAPACITY / 16 {
        let record = read(&mut consumer).unwrap().unwrap();
        assert_eq!(consumer.settle(&record, 1), Ok(0));
    }
    assert_eq!(read(&mut consumer), Ok(None));
}

#[test]
fn a_length_beyond_what_there_is_poisons_the_consumer() {
    let limit = payload_bytes_max(CAPACITY as usize) as u32;
    // What the header says, and the tail.
    for (length, tail) in [
        (1, 16),                 // beyond the tail
        (17, 32),                // by one byte
        (0, 8),                  // half a header
        (limit + 1, CAPACITY),   // above the limit for one record
        (PADDING - 1, CAPACITY), // as much as can be said
    ] {
        let (peer, mut consumer) = HostileProducer::new();
        peer.set_data(0, tag(length, 0));
        peer.set(TAIL, tail);
        let violation = Violation::Length { position: 0, length, room: tail };
        assert_eq!(read(&mut consumer), Err(violation));
        is_poisoned(&mut consumer, violation);
    }
}

/// Reads up to `position`, over well-formed records.
fn advance(peer: &HostileProducer, consumer: &mut Consumer, position: u64) {
    let mut end = 0;
    for sequence in 0.. {
        if end == position {
            break;
        }
        let bytes = (position - end - 16).min(4096);
        let bytes = if position - end - 16 - bytes == 8 { bytes - 8 } else { bytes };
        end = peer.set_record(end, 0, sequence, bytes as u32);
    }
    peer.set(TAIL, end);
    while let Some(record) = read(consumer).unwrap() {
        consumer.settle(&record, 1).unwrap();
    }
}

#[test]
fn a_record_across_the_end_of_the_ring_poisons_the_consumer() {
    for to_end in [8, 16, 64] {
        let (peer, mut consumer) = HostileProducer::new();
        let position = CAPACITY - to_end;
        advance(&peer, &mut consumer, position);
        peer.set_data(position, tag(56, 0));
        peer.set(TAIL, position + 72);
        let violation = Violation::Length { position, length: 56, room: to_end };
        assert_eq!(read(&mut consumer), Err(violation));
        is_poisoned(&mut consumer, violation);
    }
}

#[test]
fn padding_out_of_place_poisons_the_consumer() {
    let end = CAPACITY as u32;
    // Where it stands, what its header says, and the tail.
    for (position, word, tail) in [
        (0, tag(PADDING, 0), 64),                                         // in the middle
        (0, tag(PADDING | 56, 0), 64),                                    // up to the tail
        (0, tag(PADDING | (end - 8), 0), CAPACITY),                       // a whole ring of it
        (CAPACITY - 64, tag(PADDING | 48, 0), CAPACITY + 16),             // ends before the end
        (CAPACITY - 64, tag(PADDING | 64, 0), CAPACITY + 16),             // ends behind it
        (CAPACITY - 64, tag(PADDING | (PADDING - 1), 0), CAPACITY + 16),  // as far as can be said
        (CAPACITY - 64, tag(PADDING | 56, 0), CAPACITY - 8),              // beyond the tail
        (CAPACITY - 64, tag(PADDING | 56, 1), CAPACITY + 16),             // for a slot
        (CAPACITY - 64, tag(PADDING | 56, 0) | (1 << 48), CAPACITY + 16), // with a generation
    ] {
        let (peer, mut consumer) = HostileProducer::new();
        advance(&peer, &mut consumer, position);
        peer.set_data(position, word);
        peer.set(TAIL, tail);
        let violation = Violation::Padding { position };
        assert_eq!(read(&mut consumer), Err(violation), "{word:#x} at {position}");
        is_poisoned(&mut consumer, violation);
    }
}

#[test]
fn padding_behind_padding_poisons_the_consumer() {
    let (peer, mut consumer) = HostileProducer::new();
    advance(&peer, &mut consumer, CAPACITY - 64);
    peer.set_data(CAPACITY - 64, tag(PADDING | 56, 0));
    peer.set_data(CAPACITY, tag(PADDING | (CAPACITY as u32 - 8), 0));
    peer.set(TAIL, CAPACITY + 64);
    let violation =
        Violation::Length { position: CAPACITY, length: PADDING | (CAPACITY as u32 - 8), room: 64 };
    assert_eq!(read(&mut consumer), Err(violation));
    is_poisoned(&mut consumer, violation);
}

#[test]
fn a_slot_that_no_ring_has_poisons_the_consumer() {
    for slot in [SLOTS_MAX as u16, u16::MAX] {
        let (peer, mut consumer) = HostileProducer::new();
        let tail = peer.set_record(0, slot, 0, 8);
        peer.set(TAIL, tail);
        assert_eq!(read(&mut consumer), Err(Violation::Slot { slot }));
        is_poisoned(&mut consumer, Violation::Slot { slot });
    }
}

#[test]
fn a_sequence_that_cannot_follow_poisons_the_consumer() {
    // Two records of five events each: the slot and sequence of the first, and the sequence of the second, on slot 0.
    let cases = [
        (0, 0, 4),
        (0, 7, 0),
        (0, 7, 11),
        (0, 0, u64::MAX),
        (0, 0, u64::MAX - 4),
        // After the first, no event of another slot can be counted any more.
        (1, u64::MAX - 5, 0),
    ];
    for (slot, first, second) in cases {
        let (peer, mut consumer) = HostileProducer::new();
        let next = peer.set_record(0, slot, first, 8);
        let tail = peer.set_record(next, 0, second, 8);
        peer.set(TAIL, tail);
        let record = read(&mut consumer).unwrap().unwrap();
        assert_eq!(consumer.settle(&record, 5), Ok(first));
        let record = read(&mut consumer).unwrap().unwrap();
        let expected = if slot == 0 { first + 5 } else { 0 };
        let violation = Violation::Sequence { slot: 0, found: second, expected };
        assert_eq!(consumer.settle(&record, 5), Err(violation));
        is_poisoned(&mut consumer, violation);
    }
}

#[test]
fn counters_of_losses_may_lie_but_not_overflow() {
    let (peer, mut consumer) = HostileProducer::new();
    peer.set(LOST, u64::MAX);
    consumer.tail_loss(|_, _| unreachable!("no slot lost anything")).unwrap();
    peer.set(LOST, 1);
    peer.set(SLOTS, 3);
    let mut told = Vec::new();
    consumer.tail_loss(|slot, events| told.push((slot, events))).unwrap();
    assert_eq!(told, [(0, 3)]);
    // Backwards: not told a second time, and not taken back.
    peer.set(LOST, 2);
    peer.set(SLOTS, 1);
    consumer.tail_loss(|_, _| unreachable!("already told")).unwrap();
    peer.set(LOST, 3);
    peer.set(SLOTS, 3);
    peer.set(SLOTS + 8, u64::MAX);
    let violation = consumer.tail_loss(|_, _| unreachable!("more than can be counted")).unwrap_err();
    assert_eq!(violation, Violation::Sequence { slot: 1, found: u64::MAX, expected: 0 });
    is_poisoned(&mut consumer, violation);
}

#[test]
fn an_end_may_lie_but_ends_nothing_that_can_still_be_read() {
    for closed in [1, 2, u64::MAX] {
        let (peer, mut consumer) = HostileProducer::new();
        let tail = peer.set_record(0, 0, 0, 8);
        peer.set(TAIL, tail);
        peer.set(CLOSED, closed);
        assert_eq!(consumer.ended(), Ok(false));
        assert!(!consumer.arm(1).unwrap());
        assert!(read(&mut consumer).unwrap().is_some());
        assert_eq!(consumer.ended(), Ok(true));
    }
}

#[test]
fn bytes_that_change_after_the_read_change_nothing() {
    let (peer, mut consumer) = HostileProducer::new();
    let tail = peer.set_record(0, 0, 0, 8);
    peer.set_data(16, 7);
    peer.set(TAIL, tail);
    let mut payload = Vec::new();
    let record = consumer.read(&mut payload).unwrap().unwrap();
    for position in (0..tail).step_by(8) {
        peer.set_data(position, u64::MAX);
    }
    assert_eq!((record.slot, record.bytes, payload.as_slice()), (0, 8, [7].as_slice()));
    assert_eq!(consumer.settle(&record, 1), Ok(0));
}

pub(crate) struct HostileConsumer(HandMade);

impl HostileConsumer {
    pub(crate) fn new() -> (Self, Producer) {
        let marks = HandMade::as_agreed(CONSUMER_SEGMENT_BYTES, MAGIC_CONSUMER, BACKING);
        let view = ConsumerView::attach(marks.hand_over()).unwrap();
        (Self(marks), Producer::new(ProducerSegment::create(CAPACITY as usize, BACKING).unwrap(), view))
    }

    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        self.0.word(offset)
    }

    fn set(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }
}

#[test]
fn a_head_that_no_consumer_sets_poisons_the_producer() {
    // What is published, the last valid head, and the one that can't be.
    for (published, last, found) in [
        (64, 0, 1),
        (64, 0, 4),
        (64, 0, 72),
        (64, 0, u64::MAX),
        (64, 0, u64::MAX - 7),
        (64, 32, 0),
        (64, 32, 24),
        (0, 0, 8),
    ] {
        let (peer, mut producer) = HostileConsumer::new();
        for _ in 0..published / 16 {
            producer.push(0, 0, 1, &[]).unwrap();
        }
        let _nobody_sleeps = producer.flush();
        // Pushed and not published: nobody can have read it.
        producer.push(0, 0, 1, &[&[0; 64]]).unwrap();
        peer.set(HEAD, last);
        producer.occupied().unwrap();
        peer.set(HEAD, found);
        let violation = Violation::Head { found, last, published };
        assert_eq!(producer.occupied(), Err(violation));
        peer.set(HEAD, last);
        let before = producer.attempted();
        for _ in 0..2 {
            assert_eq!(producer.occupied(), Err(violation));
            assert_eq!(producer.push(0, 0, 1, &[&[0; 8]]), Err(PushError::Poisoned(violation)));
            let _nobody_sleeps = producer.flush();
        }
        assert_eq!(producer.attempted(), before + 2, "what a poisoned ring refuses is counted as lost");
        let _nobody_sleeps = producer.close();
    }
}

#[test]
fn a_bad_head_is_found_by_the_push_that_needs_the_space() {
    let (peer, mut producer) = HostileConsumer::new();
    peer.set(HEAD, 8);
    let mut pushed = 0;
    let refused = loop {
        match producer.push(0, 0, 1, &[&[0; 48]]) {
            Ok(()) => pushed += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(pushed, CAPACITY / 64);
    let violation = Violation::Head { found: 8, last: 0, published: 0 };
    assert_eq!(refused, PushError::Poisoned(violation));
}

#[test]
fn a_wake_at_that_no_consumer_sets_costs_at_most_a_ring_per_flush() {
    for wake_at in [0, 1, 7, 63, 64, 65, CAPACITY, 1 << 63, u64::MAX - 1, AWAKE] {
        let (peer, mut producer) = HostileConsumer::new();
        peer.set(WAKE_AT, wake_at);
        for _ in 0..3 {
            producer.push(0, 0, 1, &[&[0; 48]]).unwrap();
            let before = 64 * (producer.attempted() - 1);
            assert_eq!(producer.flush(), before < wake_at && wake_at <= before + 64, "{wake_at}");
            assert!(!producer.flush(), "nothing new, nothing to wake for");
        }
        assert_eq!(producer.close(), wake_at != AWAKE);
    }
}

/// Words as an attacker would choose them: ends of ranges, and what is nearly right.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => (0..=CAPACITY / 8).prop_map(|words| words * 8),
        2 => (0..64_u64).prop_map(|words| words * 8),
        1 => 0..=2 * CAPACITY,
        1 => (0..64_u64).prop_map(|back| u64::MAX - back),
        1 => any::<u64>(),
        1 => (0..96_u32, 0..3_u16).prop_map(|(length, slot)| tag(length, slot)),
        1 => (0..96_u32).prop_map(|length| tag(PADDING | (length * 8), 0)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_word_makes_the_consumer_panic(
        data in prop::collection::vec(word(), 32),
        writes in prop::collection::vec((0..8_usize, word(), 0..6_u8, 0..4_u32), 1..60),
    ) {
        let (peer, mut consumer) = HostileProducer::new();
        for (index, &value) in (0..).zip(&data) {
            peer.set_data(index * 8, value);
            peer.set_data(CAPACITY - 256 + index * 8, value);
        }
        let offsets = [TAIL, TAIL, ATTEMPTED, LOST, CLOSED, ROOM_AT, SLOTS, SLOTS + 8];
        let mut poisoned = None;
        for (target, value, call, events) in writes {
            peer.set(offsets[target], value);
            let mut payload = Vec::new();
            let result = match call {
                0..=2 => match consumer.read(&mut payload) {
                    Ok(Some(record)) => {
                        assert!(record.bytes <= payload.len() * 8 && payload.len() * 8 < record.bytes + 8);
                        consumer.settle(&record, events).map(drop)
                    }
                    Ok(None) => Ok(()),
                    Err(violation) => Err(violation),
                },
                3 => consumer.tail_loss(|_, _| {}),
                4 => { let _wake = consumer.release(); consumer.arm(value).map(drop) }
                _ => consumer.ended().map(drop),
            };
            let _wake = consumer.release();
            let _lie = consumer.attempted();
            match poisoned {
                Some(violation) => assert_eq!(result, Err(violation), "a violation sticks"),
                None => poisoned = result.err(),
            }
        }
    }

    #[test]
    fn no_word_makes_the_producer_panic(
        writes in prop::collection::vec((0..2_usize, word(), 0..5_u8, 0..8000_usize), 1..60),
    ) {
        let (peer, mut producer) = HostileConsumer::new();
        let mut poisoned = None;
        for (target, value, call, bytes) in writes {
            peer.set([HEAD, WAKE_AT][target], value);
            let result = match call {
                0 | 1 => match producer.push(0, 0, 1, &[&vec![0; bytes]]) {
                    Err(PushError::Poisoned(violation)) => Err(violation),
                    other => {
                        assert!(matches!(other, Ok(()) | Err(PushError::Full)));
                        Ok(())
                    }
                },
                2 => { let _wake = producer.flush(); continue }
                3 => { let _wake = producer.flush(); producer.arm(value).map(drop) }
                _ => producer.occupied().map(drop),
            };
            match poisoned {
                Some(violation) => assert_eq!(result, Err(violation), "a violation sticks"),
                None => poisoned = result.err(),
            }
        }
        let _wake = producer.close();
    }
}

//! Small laws of the two ends, each on a ring in plain memory whose words the test can see.

#[path = "support/heap.rs"]
mod heap;

use std::sync::atomic::{AtomicU64, Ordering};

use heap::Heap;
use shm::layout::AWAKE;
use shm::{Consumer, Memory, Producer, PushError};

const CAPACITY: usize = 1 << 10;
const RECORD_BYTES: u64 = 64;
const PAYLOAD: [u8; 48] = [7; 48];

fn ring() -> (Heap, Producer<Heap>, Consumer<Heap>) {
    let memory = Heap::new(CAPACITY, 2);
    (memory.clone(), Producer::over(memory.clone()), Consumer::over(memory))
}

fn push(producer: &mut Producer<Heap>) -> bool {
    match producer.push(0, 0, 1, &[&PAYLOAD]) {
        Ok(()) => true,
        Err(PushError::Full) => false,
        Err(error) => panic!("{error}"),
    }
}

fn read(consumer: &mut Consumer<Heap>) -> bool {
    let record = consumer.read(&mut Vec::new()).unwrap();
    record.is_some_and(|record| consumer.settle(&record, 1).is_ok())
}

fn value(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// A ring that is full, published, and read, with nothing given back.
fn read_to_the_end() -> (Heap, Producer<Heap>, Consumer<Heap>) {
    let (memory, mut producer, mut consumer) = ring();
    while push(&mut producer) {}
    assert!(!producer.flush());
    while read(&mut consumer) {}
    (memory, producer, consumer)
}

#[test]
fn a_consumer_that_is_frozen_reads_what_was_there_and_nothing_more() {
    let (_, mut producer, mut consumer) = ring();
    assert!(push(&mut producer) && !producer.flush());
    consumer.freeze();
    assert!(push(&mut producer) && !producer.flush());
    assert!(read(&mut consumer));
    assert!(!read(&mut consumer), "it came after");
}

#[test]
fn space_rings_once_and_only_when_it_is_what_the_producer_waits_for() {
    let (memory, mut producer, mut consumer) = ring();
    for _ in 0..CAPACITY as u64 / RECORD_BYTES {
        assert!(push(&mut producer));
    }
    assert!(!producer.flush());
    assert!(producer.arm(2 * RECORD_BYTES).unwrap());
    let mut rung = Vec::new();
    for _ in 0..4 {
        assert!(read(&mut consumer));
        rung.push(consumer.release());
    }
    assert_eq!(rung, [false, true, false, false]);
    assert!(!producer.arm(2 * RECORD_BYTES).unwrap(), "there is room");
    assert_eq!(value(memory.room_at()), AWAKE);
}

#[test]
fn a_loss_rings_once_for_each_sleep() {
    let (_, mut producer, mut consumer) = read_to_the_end();
    consumer.tail_loss(|_, _| {}).unwrap();
    let _nobody_waits = consumer.release();
    assert!(consumer.arm(CAPACITY as u64 / 2).unwrap());
    // The producer takes back what was read when it runs out of space, so this fills the ring once more.
    let mut rung = 0;
    for _ in 0..3 {
        while push(&mut producer) {}
        rung += u64::from(producer.flush());
    }
    assert_eq!(rung, 1, "the first flush crosses what it waits for, and the losses after it ring no more");
}

#[test]
fn what_is_taken_back_was_never_there() {
    let (memory, mut producer, mut consumer) = ring();
    assert!(push(&mut producer) && !producer.flush());
    let before = producer.savepoint(0);
    while push(&mut producer) {
        // The last one is lost, which can't be taken back; so stop before.
        if !producer.has_room(2 * RECORD_BYTES).unwrap() {
            break;
        }
    }
    producer.rewind(before);
    assert_eq!((producer.attempted(), producer.tail()), (1, RECORD_BYTES));
    let behind = &memory.data()[RECORD_BYTES as usize / 8..];
    assert!(
        behind.iter().all(|word| value(word) == 0),
        "nothing of it is in the memory that the consumer sees"
    );
    assert!(push(&mut producer) && !producer.flush());
    assert!(read(&mut consumer) && read(&mut consumer) && !read(&mut consumer));
    assert_eq!(consumer.settled(), 2, "no gap");
}

#[test]
#[should_panic(expected = "only what nobody knows of is taken back")]
fn to_take_back_what_was_flushed_is_a_bug() {
    let (_, mut producer, _consumer) = ring();
    let before = producer.savepoint(0);
    assert!(push(&mut producer));
    let _ = producer.flush();
    producer.rewind(before);
}

#[test]
#[should_panic(expected = "only what nobody knows of is taken back")]
fn to_take_back_a_loss_is_a_bug() {
    let (_, mut producer, _consumer) = ring();
    let before = producer.savepoint(0);
    while push(&mut producer) {}
    producer.rewind(before);
}

#[test]
#[should_panic(expected = "only what nobody knows of is taken back")]
fn to_take_back_what_was_pushed_on_another_slot_is_a_bug() {
    let (_, mut producer, _consumer) = ring();
    let before = producer.savepoint(1);
    assert!(push(&mut producer));
    producer.rewind(before);
}

#[test]
fn urgent_records_find_room_where_others_leave_it() {
    let (_, mut producer, mut consumer) = ring();
    producer.set_reserve(2 * RECORD_BYTES);
    let records = CAPACITY as u64 / RECORD_BYTES;
    assert_eq!((0..).take_while(|_| push(&mut producer)).count() as u64, records - 2);
    assert_eq!(producer.has_room(producer.room_for(PAYLOAD.len())), Ok(false));
    assert_eq!(producer.room_for(PAYLOAD.len()), 3 * RECORD_BYTES, "the record, and the reserve");
    let urgent = (0..4).take_while(|_| producer.push_urgent(1, 0, 1, &[&PAYLOAD]).is_ok()).count();
    assert_eq!(urgent, 2, "as many as fit into the reserve");
    assert!(!producer.flush());
    assert_eq!(
        (0..).take_while(|_| read(&mut consumer)).count() as u64,
        records,
        "in the order of the pushes"
    );
    let mut lost = Vec::new();
    consumer.tail_loss(|slot, events| lost.push((slot, events))).unwrap();
    assert_eq!(lost, [(0, 1), (1, 1)]);
}

#[test]
#[should_panic(expected = "ordinary records fill more than half of the ring")]
fn a_reserve_that_a_sleeping_consumer_would_never_be_woken_over_is_a_bug() {
    let (_, mut producer, _consumer) = ring();
    producer.set_reserve(CAPACITY as u64 / 4 + 8);
}

#[test]
fn what_no_record_can_bring_is_told_as_lost_in_its_place_and_behind_the_last() {
    let (_, mut producer, mut consumer) = ring();
    let limit = producer.payload_bytes_max();
    let large = vec![0; limit + 1];
    assert_eq!(producer.push(1, 0, 3, &[&large]), Err(PushError::TooLarge { bytes: limit + 1, limit }));
    assert_eq!(producer.attempted(), 0, "it was never tried");
    assert!(consumer.arm(1).unwrap());
    producer.lose(1, 3).unwrap();
    assert!(producer.flush(), "who sleeps is told");
    consumer.disarm();
    let mut lost = Vec::new();
    consumer.tail_loss(|slot, events| lost.push((slot, events))).unwrap();
    assert_eq!(lost, [(1, 3)]);
    producer.lose(1, 2).unwrap();
    producer.push(1, 0, 1, &[&PAYLOAD]).unwrap();
    assert!(!producer.flush());
    let record = consumer.read(&mut Vec::new()).unwrap().expect("a record");
    assert_eq!((record.sequence, consumer.settle(&record, 1).unwrap()), (5, 2), "between the others");
    assert_eq!(producer.attempted(), 6);
    assert_eq!(producer.lose(2, 1), Err(PushError::NoSuchSlot { slot: 2, limit: 2 }));
    assert_eq!(producer.attempted(), 6);
}

/// No record crosses the position that it sleeps for, however many such losses there are.
#[test]
fn each_loss_that_no_record_can_bring_ends_a_sleep() {
    let (_, mut producer, mut consumer) = ring();
    for _ in 0..3 {
        assert!(consumer.arm(1).unwrap());
        producer.lose(1, 2).unwrap();
        assert!(producer.flush(), "who sleeps is told");
        consumer.disarm();
        let mut lost = Vec::new();
        consumer.tail_loss(|slot, events| lost.push((slot, events))).unwrap();
        assert_eq!(lost, [(1, 2)]);
    }
}

#[test]
fn who_does_not_sleep_is_not_armed() {
    let (memory, mut producer, mut consumer) = ring();
    assert!(push(&mut producer) && !producer.flush());
    assert!(!consumer.arm(1).unwrap(), "there is a record");
    assert_eq!(value(memory.wake_at()), AWAKE);
    assert!(read(&mut consumer) && !consumer.release());
    assert!(consumer.arm(u64::MAX).unwrap());
    assert_eq!(value(memory.wake_at()), RECORD_BYTES + CAPACITY as u64 / 2, "at most half of the ring");
    consumer.disarm();
    assert_eq!(value(memory.wake_at()), AWAKE);
}

#[test]
fn padding_leaves_nothing_of_what_was_there() {
    let (memory, mut producer, mut consumer) = ring();
    // Positions off the end by less than the longest record.
    while push(&mut producer) {}
    assert!(!producer.flush());
    while read(&mut consumer) {}
    assert!(!consumer.release());
    for _ in 0..CAPACITY as u64 / RECORD_BYTES - 1 {
        assert!(push(&mut producer));
    }
    assert!(!producer.flush());
    while read(&mut consumer) {}
    assert!(!consumer.release());
    let before = producer.room_for(100);
    assert!(before > 16 + 104, "it needs padding");
    producer.push(0, 0, 1, &[&[9; 100]]).unwrap();
    let padding = &memory.data()[CAPACITY / 8 - RECORD_BYTES as usize / 8..];
    assert_eq!(value(&padding[0]), (1 << 31) | (RECORD_BYTES - 8));
    assert!(padding[1..].iter().all(|word| value(word) == 0), "of the record before");
}

#[test]
#[should_panic(expected = "I2: the consumer can reach the room that a sleeper asks for")]
fn a_producer_that_sleeps_over_records_that_nobody_sees_is_a_bug() {
    let (_, mut producer, _consumer) = ring();
    assert!(push(&mut producer));
    let _ = producer.arm(1);
}

#[test]
#[should_panic(expected = "I2: the producer can reach what a sleeper asks for")]
fn a_consumer_that_sleeps_on_space_that_it_keeps_is_a_bug() {
    let (_, mut producer, mut consumer) = ring();
    assert!(push(&mut producer) && !producer.flush());
    assert!(read(&mut consumer));
    let _ = consumer.arm(1);
}

#[test]
fn a_breach_is_an_error_also_where_a_sleeper_would_have_been_a_bug() {
    let (memory, mut producer, _consumer) = ring();
    assert!(push(&mut producer));
    memory.head().store(u64::MAX - 7, Ordering::Relaxed);
    assert!(producer.occupied().is_err());
    assert!(producer.arm(1).is_err());
}

//! Grants that change while records are on their way: each record counts for the grant that it was pushed under, each loss for
//! the time it happened in.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use loom_tests::segment::RECORDS_PER_LAP;
use loom_tests::{Consumer, explore, full_ring, push, push_granted, ring};

/// The broker's word, which orders what its sender did before with what its receiver does after.
#[derive(Clone, Default)]
struct Message(Arc<AtomicBool>);

impl Message {
    fn send(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn has_come(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[test]
fn a_slot_that_is_granted_again_carries_nothing_of_its_old_grant() {
    explore(3, 2_000, || {
        let (mut producer, mut consumer) = ring();
        // Shrinking: the publisher first. Growing: the receiver first.
        let (unrouted, granted) = (Message::default(), Message::default());
        let (tell_unrouted, await_granted) = (unrouted.clone(), granted.clone());
        let writer = thread::spawn(move || {
            for value in 0..2 {
                push_granted(&mut producer, 1, 1, value);
                let _nobody_sleeps = producer.flush();
            }
            tell_unrouted.send();
            while !await_granted.has_come() {
                thread::yield_now();
            }
            push_granted(&mut producer, 1, 2, 2);
            let _nobody_sleeps = producer.flush();
        });
        let reader = thread::spawn(move || {
            let (mut generation, mut since) = (1, 0);
            let (mut old, mut new, mut skipped) = (Vec::new(), Vec::new(), 0);
            while new.is_empty() {
                if generation == 1 && unrouted.has_come() {
                    generation = 2;
                    since = consumer.now(1).unwrap().position;
                    granted.send();
                }
                let mut payload = Vec::new();
                let Some(record) = consumer.read(&mut payload).unwrap() else {
                    thread::yield_now();
                    continue;
                };
                assert_eq!(consumer.settle(&record, 1), Ok(0));
                assert!(record.generation <= generation, "a grant is known before it is used");
                assert_eq!(record.position >= since, record.generation == generation);
                match (record.generation == generation, generation) {
                    (true, 1) => old.push(payload[0]),
                    (true, _) => new.push(payload[0]),
                    (false, _) => skipped += 1,
                }
            }
            assert_eq!((old.len() + skipped, &new[..]), (2, &[2][..]));
            assert!([0, 1].starts_with(&old));
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// Where each event of a slot stands: its sequence, and whether it is of the time after the moment.
fn events_since(consumer: &mut Consumer, position: u64, sequence: u64) -> Vec<(u64, bool)> {
    let mut events = Vec::new();
    let mut payload = Vec::new();
    while let Some(record) = consumer.read(&mut payload).unwrap() {
        let lost = consumer.settle(&record, 1).unwrap();
        events.extend((record.sequence - lost..record.sequence).map(|number| (number, number >= sequence)));
        events.push((record.sequence, record.position >= position));
    }
    let mut told = 0;
    consumer.tail_loss(|_, lost| told += lost).unwrap();
    let end = consumer.settled_on(0);
    events.extend((end - told..end).map(|number| (number, number >= sequence)));
    events
}

#[test]
fn a_loss_that_came_before_the_moment_has_no_record_before_it_that_came_after() {
    explore(3, 60, || {
        let (mut producer, mut consumer) = full_ring();
        let mut payload = Vec::new();
        while let Some(record) = consumer.read(&mut payload).unwrap() {
            consumer.settle(&record, 1).unwrap();
        }
        let _nobody_waits = consumer.release();
        let writer = thread::spawn(move || {
            // One lap of records, of which the last finds no room.
            for value in 0..=RECORDS_PER_LAP {
                push(&mut producer, 0, RECORDS_PER_LAP + value);
            }
            let _nobody_sleeps = producer.flush();
        });
        let reader = thread::spawn(move || (consumer.now(0).unwrap(), consumer));
        writer.join().unwrap();
        let (moment, mut consumer) = reader.join().unwrap();
        let events = events_since(&mut consumer, moment.position, moment.sequence);
        assert_eq!(events.len() as u64, RECORDS_PER_LAP + 1);
        let lost = events.last().copied().expect("the last was lost");
        assert!(lost.1 || events.iter().all(|(_, after)| !after), "{events:?} at {moment:?}");
    });
}

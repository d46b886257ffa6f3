//! Records: their order, their bytes, their space, and the end after the last of them.

use loom::thread;
use loom_tests::segment::RECORDS_PER_LAP;
use loom_tests::{Account, doorbell, explore, flush, full_ring, push, ring};

#[test]
fn records_arrive_in_order_with_their_bytes() {
    explore(3, 100, || {
        let (mut producer, mut consumer) = ring();
        let writer = thread::spawn(move || {
            for value in 0..3 {
                push(&mut producer, 0, 100 + value);
                let _nobody_sleeps = producer.flush();
            }
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            while account.received.len() < 3 {
                if !account.read(&mut consumer) {
                    thread::yield_now();
                }
            }
            assert_eq!(account.received, [(0, 0, 100), (0, 1, 101), (0, 2, 102)]);
            assert_eq!(account.lost, []);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn space_is_written_again_only_once_it_was_read() {
    explore(3, 100, || {
        // The next record needs padding before it as well.
        let (mut producer, mut consumer) = full_ring();
        let writer = thread::spawn(move || {
            for value in RECORDS_PER_LAP..RECORDS_PER_LAP + 3 {
                push(&mut producer, 0, value);
                thread::yield_now();
            }
            let _nobody_sleeps = producer.close();
            producer.attempted()
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            for _ in 0..4 {
                // Two at a time, so that a part of the space comes back before the rest.
                let _ = account.read(&mut consumer) && account.read(&mut consumer);
                let _nobody_waits = consumer.release();
            }
            (account, consumer)
        });
        let attempted = writer.join().unwrap();
        let (mut account, mut consumer) = reader.join().unwrap();
        account.turn(&mut consumer);
        assert!(consumer.ended().unwrap());
        assert_eq!(account.events(), attempted);
        for (slot, sequence, value) in account.received {
            assert_eq!((slot, sequence), (0, value));
        }
    });
}

#[test]
fn the_end_is_seen_after_all_that_came_before_it() {
    explore(3, 10, || {
        let (mut producer, mut consumer) = ring();
        let writer = thread::spawn(move || {
            push(&mut producer, 0, 7);
            let _nobody_sleeps = producer.close();
        });
        let reader = thread::spawn(move || {
            // A consumer that has read nothing yet: only the end can tell it that something is there.
            assert!(!consumer.ended().unwrap(), "one record is to come");
            consumer
        });
        writer.join().unwrap();
        let mut consumer = reader.join().unwrap();
        let mut account = Account::default();
        account.turn(&mut consumer);
        assert_eq!(account.received, [(0, 0, 7)]);
        assert!(consumer.ended().unwrap());
    });
}

#[test]
fn what_is_counted_as_attempted_can_be_read() {
    explore(3, 100, || {
        let (mut producer, mut consumer) = ring();
        let writer = thread::spawn(move || {
            for value in 0..2 {
                push(&mut producer, 0, value);
                let _nobody_sleeps = producer.flush();
            }
        });
        let reader = thread::spawn(move || {
            let attempted = consumer.attempted();
            let mut account = Account::default();
            account.turn(&mut consumer);
            assert!(account.events() >= attempted);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_record_wakes_the_consumer() {
    explore(3, 100, || {
        let (mut producer, mut consumer) = ring();
        let (bell, heard) = doorbell();
        let writer = thread::spawn(move || {
            for value in 0..2 {
                push(&mut producer, 0, value);
                flush(&mut producer, &bell);
            }
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            account.sleep_until(&mut consumer, &heard, 2);
            assert_eq!(account.received, [(0, 0, 0), (0, 1, 1)]);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn the_end_wakes_the_consumer() {
    explore(3, 20, || {
        let (mut producer, mut consumer) = ring();
        let (bell, heard) = doorbell();
        let writer = thread::spawn(move || {
            if producer.close() {
                bell.ring();
            }
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            account.sleep_until_end(&mut consumer, &heard);
            assert_eq!(account.events(), 0);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

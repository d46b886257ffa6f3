//! Waiting: a consumer for as much as it asked for, a producer for room.

use loom::thread;
use loom_tests::segment::{RECORD_BYTES, RECORDS_PER_LAP};
use loom_tests::{Account, Doorbell, Producer, doorbell, explore, flush, full_ring, push, ring, sleep};

#[test]
fn a_consumer_that_wants_two_records_is_woken_by_the_second_and_by_it_alone() {
    explore(3, 100, || {
        let (mut producer, mut consumer) = ring();
        let (bell, heard) = doorbell();
        let writer = thread::spawn(move || {
            let mut rings = [false; 2];
            for (value, rung) in (0..).zip(&mut rings) {
                push(&mut producer, 0, value);
                *rung = producer.flush();
                if *rung {
                    bell.ring();
                }
            }
            rings
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            // Whoever is woken by nothing asks for what is left.
            while account.events() < 2 {
                sleep(&mut consumer, &heard, (2 - account.events()) * RECORD_BYTES as u64);
                account.turn(&mut consumer);
            }
            assert_eq!(account.received, [(0, 0, 0), (0, 1, 1)]);
        });
        let [first, _second] = writer.join().unwrap();
        assert!(!first, "one record is not what it waits for");
        reader.join().unwrap();
    });
}

/// Pushes a record that must not be lost.
fn push_with_patience(producer: &mut Producer, heard: &Doorbell, value: u64) {
    let room = producer.room_for(size_of::<u64>());
    while !producer.has_room(room).unwrap() {
        if producer.arm(room).unwrap() {
            heard.sleep();
            producer.disarm();
        }
    }
    push(producer, 0, value);
}

#[test]
fn a_producer_that_waits_for_room_is_woken_and_loses_nothing() {
    explore(2, 2_000, || {
        let (mut producer, mut consumer) = full_ring();
        let (bell, heard) = doorbell();
        let (room_bell, room_heard) = doorbell();
        let writer = thread::spawn(move || {
            // The first needs the room of two records, for the padding before it.
            for value in RECORDS_PER_LAP..RECORDS_PER_LAP + 2 {
                push_with_patience(&mut producer, &room_heard, value);
                flush(&mut producer, &bell);
            }
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            while account.events() < RECORDS_PER_LAP + 2 {
                // Few at a time, so that room comes back in parts.
                for _ in 0..3 {
                    account.read(&mut consumer);
                }
                if consumer.release() {
                    room_bell.ring();
                }
                if account.events() >= RECORDS_PER_LAP && account.events() < RECORDS_PER_LAP + 2 {
                    sleep(&mut consumer, &heard, 1);
                }
            }
            assert_eq!(account.lost, []);
            assert!(account.received.iter().all(|(_, sequence, value)| sequence == value));
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn both_ends_can_sleep_for_each_other() {
    explore(3, 1_000, || {
        let (mut producer, mut consumer) = full_ring();
        let (bell, heard) = doorbell();
        let (room_bell, room_heard) = doorbell();
        let writer = thread::spawn(move || {
            // The whole ring: only a consumer that has read everything gives that much.
            while !producer.has_room(u64::MAX).unwrap() {
                if producer.arm(u64::MAX).unwrap() {
                    room_heard.sleep();
                    producer.disarm();
                }
            }
            push(&mut producer, 0, RECORDS_PER_LAP);
            flush(&mut producer, &bell);
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            while account.events() <= RECORDS_PER_LAP {
                while account.read(&mut consumer) {}
                if consumer.release() {
                    room_bell.ring();
                }
                if account.events() <= RECORDS_PER_LAP {
                    sleep(&mut consumer, &heard, 1);
                }
            }
            assert_eq!(account.lost, []);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

//! Losses: told once, told exactly, told before the consumer sleeps over them.

use loom::thread;
use loom_tests::segment::RECORDS_PER_LAP;
use loom_tests::{Account, doorbell, explore, flush, full_ring, push};

#[test]
fn each_loss_is_told_once_and_exactly() {
    explore(2, 2_000, || {
        let (mut producer, mut consumer) = full_ring();
        let (bell, heard) = doorbell();
        let writer = thread::spawn(move || {
            push(&mut producer, 0, RECORDS_PER_LAP);
            flush(&mut producer, &bell);
            push(&mut producer, 0, RECORDS_PER_LAP + 1);
            if producer.close() {
                bell.ring();
            }
            producer.attempted()
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            account.sleep_until_end(&mut consumer, &heard);
            (account, consumer.settled())
        });
        let attempted = writer.join().unwrap();
        let (account, settled) = reader.join().unwrap();
        assert_eq!((settled, account.events()), (attempted, attempted));
        assert!(account.received.is_sorted_by(|one, other| one.1 < other.1), "in order, and none twice");
    });
}

#[test]
fn a_loss_wakes_the_consumer() {
    explore(2, 200, || {
        let (mut producer, mut consumer) = full_ring();
        let (bell, heard) = doorbell();
        let writer = thread::spawn(move || {
            push(&mut producer, 0, RECORDS_PER_LAP);
            flush(&mut producer, &bell);
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            account.sleep_until(&mut consumer, &heard, RECORDS_PER_LAP + 1);
            assert!(account.lost_events() <= 1);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_second_loss_wakes_the_consumer_again() {
    explore(2, 2_000, || {
        let (mut producer, mut consumer) = full_ring();
        let (bell, heard) = doorbell();
        let writer = thread::spawn(move || {
            for value in 0..2 {
                push(&mut producer, 0, RECORDS_PER_LAP + value);
                flush(&mut producer, &bell);
            }
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            account.sleep_until(&mut consumer, &heard, RECORDS_PER_LAP + 2);
            assert!(account.lost_events() <= 2);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_loss_is_told_although_records_follow_it() {
    explore(2, 2_000, || {
        let (mut producer, mut consumer) = full_ring();
        let (bell, heard) = doorbell();
        let writer = thread::spawn(move || {
            // Lost on one slot unless the consumer was quick; then one that finds space, on the other slot.
            push(&mut producer, 1, 0);
            flush(&mut producer, &bell);
            push(&mut producer, 0, RECORDS_PER_LAP);
            flush(&mut producer, &bell);
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            account.sleep_until(&mut consumer, &heard, RECORDS_PER_LAP + 2);
            assert!(account.lost_events() <= 2);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_loss_is_told_behind_the_records_before_it() {
    explore(3, 2_000, || {
        // Empty, and the producer has one loss to tell.
        let (mut producer, mut consumer) = full_ring();
        push(&mut producer, 1, 0);
        let mut account = Account::default();
        account.turn(&mut consumer);
        let _nobody_waits = consumer.release();
        let writer = thread::spawn(move || {
            let _nobody_sleeps = producer.flush();
            // Records and a second loss, all on the slot whose first loss the consumer may just be looking for.
            for value in 0..=RECORDS_PER_LAP {
                push(&mut producer, 1, 1 + value);
            }
            let _nobody_sleeps = producer.flush();
            producer.attempted()
        });
        let reader = thread::spawn(move || {
            let attempted = consumer.attempted();
            // The second flush can interrupt a turn; nothing can interrupt the next.
            account.turn(&mut consumer);
            account.turn(&mut consumer);
            assert!(consumer.settled() >= attempted, "what is counted can be settled");
            (account, consumer)
        });
        let attempted = writer.join().unwrap();
        let (mut account, mut consumer) = reader.join().unwrap();
        account.turn(&mut consumer);
        assert_eq!((account.events(), account.lost_events()), (attempted, 2));
    });
}

#[test]
fn each_sleep_is_ended_by_a_loss() {
    explore(1, 2_000, || {
        let (mut producer, mut consumer) = full_ring();
        let (bell, heard) = doorbell();
        let writer = thread::spawn(move || {
            // Two losses with a whole ring of records between them, unless the consumer is quick.
            push(&mut producer, 0, RECORDS_PER_LAP);
            flush(&mut producer, &bell);
            for value in 1..=RECORDS_PER_LAP {
                push(&mut producer, 0, RECORDS_PER_LAP + value);
            }
            flush(&mut producer, &bell);
            push(&mut producer, 0, 2 * RECORDS_PER_LAP + 1);
            flush(&mut producer, &bell);
        });
        let reader = thread::spawn(move || {
            let mut account = Account::default();
            account.sleep_until(&mut consumer, &heard, 2 * RECORDS_PER_LAP + 2);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

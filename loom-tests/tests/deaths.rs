//! Death: a producer that is killed between any two of its stores leaves a ring that can be read to its end.

use loom::thread;
use loom_tests::segment::RECORDS_PER_LAP;
use loom_tests::sync::Life;
use loom_tests::{Account, Consumer, Doorbell, doorbell, explore, flush, mortal_ring, push, sleep};

/// Reads until the ring ends or the other end has hung up, then what it left.
fn read_what_it_left(consumer: &mut Consumer, doorbell: &Doorbell) -> Account {
    let mut account = Account::default();
    while !doorbell.is_hung_up() && !consumer.ended().unwrap() {
        account.turn(consumer);
        sleep(consumer, doorbell, 1);
    }
    consumer.freeze();
    account.turn(consumer);
    account
}

/// What can be said of a ring whose producer is gone.
fn is_whole(account: &Account, consumer: &mut Consumer) {
    assert!(account.received.is_sorted_by(|one, other| one.1 < other.1), "in order, and none twice");
    assert!(account.received.iter().all(|(_, sequence, value)| sequence == value), "whole records alone");
    assert!(consumer.settled() >= consumer.attempted(), "what is counted can be settled");
    assert_eq!(consumer.occupied(), Ok(0), "nothing is left behind");
}

#[test]
fn what_a_killed_producer_published_is_read_to_the_end() {
    // Per flush: four words of a record, its place and its count; the producer's first word and its last three.
    for stores in 0..=14 {
        explore(2, 400, move || {
            let (mut producer, mut consumer) = mortal_ring(&Life::of(stores));
            let (bell, heard) = doorbell();
            let writer = thread::spawn(move || {
                for value in 0..2 {
                    push(&mut producer, 0, value);
                    flush(&mut producer, &bell);
                }
                if producer.close() {
                    bell.ring();
                }
                bell.hang_up();
            });
            let reader = thread::spawn(move || {
                let account = read_what_it_left(&mut consumer, &heard);
                is_whole(&account, &mut consumer);
                let published = stores.saturating_sub(4).div_ceil(5).min(2) as u64;
                assert_eq!(account.events(), published, "killed after {stores} stores");
            });
            writer.join().unwrap();
            reader.join().unwrap();
        });
    }
}

#[test]
fn a_producer_that_is_killed_over_a_loss_leaves_no_false_account() {
    let full = 1 + 3 * RECORDS_PER_LAP as usize + 2;
    // The place, the slot's count, the loss, the count; and again.
    for stores in full..=full + 8 {
        explore(2, 500, move || {
            let (mut producer, mut consumer) = mortal_ring(&Life::of(stores));
            for value in 0..RECORDS_PER_LAP {
                push(&mut producer, 0, value);
            }
            let _nobody_sleeps = producer.flush();
            let (bell, heard) = doorbell();
            let writer = thread::spawn(move || {
                for value in 0..2 {
                    push(&mut producer, 0, RECORDS_PER_LAP + value);
                    flush(&mut producer, &bell);
                }
                bell.hang_up();
            });
            let reader = thread::spawn(move || {
                let account = read_what_it_left(&mut consumer, &heard);
                is_whole(&account, &mut consumer);
                assert!(account.events() <= RECORDS_PER_LAP + 2);
                assert_eq!(account.events(), consumer.settled());
            });
            writer.join().unwrap();
            reader.join().unwrap();
        });
    }
}

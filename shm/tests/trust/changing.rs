//! Words that change between two looks: each is looked at once, and what was checked is what is used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shm::Violation;
use shm::layout::{PADDING, PRODUCER_HEADER_BYTES};

use super::words::{HEAD, HostileConsumer, HostileProducer, TAIL, read, tag};

/// Fresh rings, each with a word that changes as fast as it can.
const RINGS: usize = 500;

/// Looks at most so often at one ring, which is over when the wrong value was seen.
const LOOKS: usize = 200;

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `look` while the word alternates between two values.
fn while_changing(word: &AtomicU64, values: [u64; 2], look: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let begun = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                word.store(values[1], Ordering::Relaxed);
                word.store(values[0], Ordering::Relaxed);
                begun.store(true, Ordering::Relaxed);
            }
        });
        while !begun.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        // Also where a look fails.
        let _end = Stop(&stop);
        look();
    });
}

#[test]
fn a_tail_that_changes_is_used_as_it_was_checked() {
    for _ in 0..RINGS {
        let (peer, mut consumer) = HostileProducer::new();
        while_changing(peer.word(TAIL), [64, u64::MAX - 7], || {
            for _ in 0..LOOKS {
                match consumer.occupied() {
                    Ok(bytes) => assert!(bytes == 0 || bytes == 64, "{bytes} bytes"),
                    Err(violation) => {
                        return assert!(matches!(violation, Violation::Tail { found, .. } if found > 64));
                    }
                }
            }
        });
    }
}

#[test]
fn a_header_that_changes_is_used_as_it_was_checked() {
    for _ in 0..RINGS {
        let (peer, mut consumer) = HostileProducer::new();
        let tail = peer.set_record(0, 0, 0, 8);
        peer.set(TAIL, tail);
        let honest = tag(8, 0);
        while_changing(peer.word(PRODUCER_HEADER_BYTES), [honest, tag(PADDING - 1, 500)], || {
            match read(&mut consumer) {
                Ok(record) => {
                    let record = record.expect("one was published");
                    assert_eq!((record.slot, record.bytes), (0, 8));
                }
                Err(violation) => assert!(matches!(violation, Violation::Length { .. }), "{violation}"),
            }
        });
    }
}

#[test]
fn a_head_that_changes_is_used_as_it_was_checked() {
    for _ in 0..RINGS {
        let (peer, mut producer) = HostileConsumer::new();
        producer.push(0, 0, 1, &[&[0; 48]]).unwrap();
        let _nobody_sleeps = producer.flush();
        while_changing(peer.word(HEAD), [64, u64::MAX - 7], || {
            for _ in 0..LOOKS {
                match producer.occupied() {
                    Ok(bytes) => assert!(bytes == 0 || bytes == 64, "{bytes} bytes"),
                    Err(violation) => {
                        return assert!(matches!(violation, Violation::Head { found, .. } if found > 64));
                    }
                }
            }
        });
    }
}

//! Histories of a ring: whatever is done in whatever order, what is seen is what was pushed, and each loss is told.
//!
//! The ring is as small as it can be, so that it is full, and wraps, all the time.

mod checker;
mod faults;
#[path = "../support/heap.rs"]
mod heap;
mod recorded;

use std::thread;
use std::time::{Duration, Instant};

use checker::{Consumed, Produced, judge};
use heap::Heap;
use proptest::prelude::*;
use recorded::{Recorder, Witness};
use shm::Memory;
use shm::layout::payload_bytes_max;

/// Nothing here takes a hundredth of it.
const DEADLINE: Duration = Duration::from_secs(60);

const CAPACITY: usize = 1 << 10;
const SLOTS: u16 = 3;

#[derive(Debug, Clone)]
enum Step {
    Push {
        slot: u16,
        events: u8,
        bytes: usize,
    },
    /// Several pushes, and one flush for all of them.
    Batch {
        slot: u16,
        records: usize,
        bytes: usize,
    },
    Flush,
    Read {
        records_max: usize,
    },
    Release,
    TailLoss,
    Arm {
        want: u64,
    },
}

/// What becomes of one end while the other goes on.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Close,
    DropProducer,
    DropConsumer,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = || prop_oneof![8..40_usize, 8..=payload_bytes_max(CAPACITY)];
    let step = prop_oneof![
        4 => (0..SLOTS, 1..6_u8, bytes()).prop_map(|(slot, events, bytes)| Step::Push { slot, events, bytes }),
        3 => (0..SLOTS, 1..12_usize, bytes())
            .prop_map(|(slot, records, bytes)| Step::Batch { slot, records, bytes }),
        2 => Just(Step::Flush),
        3 => (1..20_usize).prop_map(|records_max| Step::Read { records_max }),
        2 => Just(Step::Release),
        1 => Just(Step::TailLoss),
        1 => (1..=2 * CAPACITY as u64).prop_map(|want| Step::Arm { want }),
    ];
    prop::collection::vec(step, 0..150)
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![3 => Just(Ending::Close), 1 => Just(Ending::DropProducer), 1 => Just(Ending::DropConsumer)]
}

/// The history of a ring with a producer over one memory and a consumer over another, or the same.
fn history<P: Memory, C: Memory>(
    (producing, consuming): (P, C),
    before: &[Step],
    ending: Ending,
    after: &[Step],
) -> (Produced, Consumed) {
    let mut recorder = Recorder::over(producing);
    let mut witness = Witness::over(consuming);
    let take = |recorder: &mut Recorder<P>, witness: &mut Witness<C>, step: &Step| {
        recorder.take(step);
        witness.take(step);
    };
    before.iter().for_each(|step| take(&mut recorder, &mut witness, step));
    match ending {
        Ending::Close => recorder.close(),
        Ending::DropProducer => {
            recorder.producer = None;
            witness.consumer.iter_mut().for_each(shm::Consumer::freeze);
        }
        Ending::DropConsumer => witness.consumer = None,
    }
    after.iter().for_each(|step| take(&mut recorder, &mut witness, step));
    witness.drain();
    (recorder.produced, witness.consumed)
}

fn of_one_memory() -> (Heap, Heap) {
    let memory = Heap::new(CAPACITY, SLOTS.into());
    (memory.clone(), memory)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_seen_is_what_was_pushed(before in steps(), ending in ending(), after in steps()) {
        let (produced, consumed) = history(of_one_memory(), &before, ending, &after);
        prop_assert_eq!(judge(&produced, &consumed), Ok(()), "{:?}\n{:?}", produced, consumed);
    }
}

#[test]
fn what_one_thread_pushes_is_what_another_sees() {
    let (producing, consuming) = of_one_memory();
    let since = Instant::now();
    let producer = thread::spawn(move || {
        let mut recorder = Recorder::over(producing);
        for number in 0..100_000_usize {
            recorder.push((number % 5 % 3) as u16, 1 + (number % 4) as u8, 8 + number * 5 % 100);
            if number % 7 < 3 {
                recorder.flush();
            }
            if number % 100 == 99 {
                // Else the producer never finds space, and nearly all is lost.
                recorder.flush();
                let producer = recorder.producer.as_mut().expect("it is there");
                while producer.occupied().unwrap() > CAPACITY as u64 / 2 {
                    assert!(since.elapsed() < DEADLINE, "the consumer gives no space back");
                    thread::yield_now();
                }
            }
        }
        recorder.close();
        recorder.produced
    });
    let mut witness = Witness::over(consuming);
    while !witness.ended {
        assert!(since.elapsed() < DEADLINE);
        for step in [Step::Read { records_max: 5 }, Step::Release, Step::TailLoss] {
            witness.take(&step);
        }
        thread::yield_now();
    }
    witness.drain();
    let produced = producer.join().unwrap();
    assert_eq!(judge(&produced, &witness.consumed), Ok(()));
    let taken = produced.attempts.iter().filter(|attempt| attempt.taken).count();
    assert!(taken > 1_000, "{taken} records");
}

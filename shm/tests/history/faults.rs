//! A checker is worth what it catches: one fault after the other is planted between a ring and the checker, which has to name
//! each of them.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use shm::Memory;

use crate::checker::{Consumed, Produced, Seen, Verdict, judge};
use crate::heap::Heap;
use crate::recorded::number;
use crate::{CAPACITY, Ending, SLOTS, Step, history, of_one_memory, steps};

/// What stands between a consumer and the checker, and does one thing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    RecordTwice,
    OldRecordAgain,
    RecordsSwapped,
    RecordDropped,
    LastRecordDropped,
    ByteFlipped,
    NameFlipped,
    SlotChanged,
    SequenceChanged,
    RefusedDelivered,
    UnflushedDelivered,
    LossDropped,
    LossTwice,
    LossTooLarge,
    LossTooSmall,
    LossLate,
    LossEarly,
    LossOfOther,
    EndEarly,
    EndTwice,
    EndDropped,
    EndInvented,
}

const FAULTS: [Fault; 22] = [
    Fault::RecordTwice,
    Fault::OldRecordAgain,
    Fault::RecordsSwapped,
    Fault::RecordDropped,
    Fault::LastRecordDropped,
    Fault::ByteFlipped,
    Fault::NameFlipped,
    Fault::SlotChanged,
    Fault::SequenceChanged,
    Fault::RefusedDelivered,
    Fault::UnflushedDelivered,
    Fault::LossDropped,
    Fault::LossTwice,
    Fault::LossTooLarge,
    Fault::LossTooSmall,
    Fault::LossLate,
    Fault::LossEarly,
    Fault::LossOfOther,
    Fault::EndEarly,
    Fault::EndTwice,
    Fault::EndDropped,
    Fault::EndInvented,
];

/// One of `candidates`, if there are any.
fn choose<T: Copy>(candidates: impl Iterator<Item = T>, choice: usize) -> Option<T> {
    let candidates: Vec<T> = candidates.collect();
    candidates.get(choice % candidates.len().max(1)).copied()
}

fn is_record(seen: &Seen) -> bool {
    matches!(seen, Seen::Record { .. })
}

fn slot_of(seen: &Seen) -> Option<u16> {
    match *seen {
        Seen::Record { slot, .. } | Seen::Loss { slot, .. } => Some(slot),
        Seen::End => None,
    }
}

/// The next thing that was seen of the same slot.
fn next_of_slot(seen: &[Seen], at: usize) -> Option<usize> {
    (at + 1..seen.len()).find(|&next| slot_of(&seen[next]) == slot_of(&seen[at]))
}

fn last_of_slot(seen: &[Seen], at: usize) -> Option<usize> {
    (0..at).rev().find(|&last| slot_of(&seen[last]) == slot_of(&seen[at]))
}

fn attempt(seen: &Seen) -> usize {
    let Seen::Record { payload, .. } = seen else { panic!("it is no record: {seen:?}") };
    number(payload)
}

/// The record that an attempt would have been.
fn as_record(produced: &Produced, attempt: usize) -> Seen {
    let pushed = &produced.attempts[attempt];
    let before = produced.attempts[..attempt].iter().filter(|before| before.slot == pushed.slot);
    let sequence = before.map(|before| u64::from(before.events)).sum();
    Seen::Record { slot: pushed.slot, sequence, payload: pushed.payload.clone() }
}

impl Fault {
    /// Plants the fault, and says what has to come of it; `None` where this history has no place for it.
    fn plant(self, produced: &Produced, seen: &mut Vec<Seen>, choice: usize) -> Option<Verdict> {
        match self {
            Self::RecordTwice
            | Self::OldRecordAgain
            | Self::RecordsSwapped
            | Self::RecordDropped
            | Self::LastRecordDropped => self.plant_in_order(seen, choice),
            Self::ByteFlipped | Self::NameFlipped | Self::SlotChanged | Self::SequenceChanged => {
                self.plant_in_record(seen, choice)
            }
            Self::RefusedDelivered | Self::UnflushedDelivered => self.plant_record(produced, seen, choice),
            Self::LossDropped
            | Self::LossTwice
            | Self::LossTooLarge
            | Self::LossTooSmall
            | Self::LossOfOther => self.plant_in_loss(seen, choice),
            Self::LossLate => move_behind_record(seen, choice),
            Self::LossEarly => move_before_record(seen, choice),
            Self::EndEarly | Self::EndTwice | Self::EndDropped | Self::EndInvented => self.plant_at_end(seen),
        }
    }

    fn plant_in_order(self, seen: &mut Vec<Seen>, choice: usize) -> Option<Verdict> {
        let records = (0..seen.len()).filter(|&at| is_record(&seen[at]));
        let last = records.clone().next_back()?;
        if self == Self::LastRecordDropped {
            // Nothing of its slot behind it, which would be missed first.
            let attempt = attempt(&seen[last]);
            return next_of_slot(seen, last).is_none().then(|| {
                seen.remove(last);
                Verdict::Unread { attempt }
            });
        }
        let at = choose(records.take_while(|&at| at < last), choice)?;
        let next = (at + 1..=last).find(|&next| is_record(&seen[next]))?;
        let attempt = attempt(&seen[at]);
        Some(match self {
            Self::RecordTwice => {
                seen.insert(at + 1, seen[at].clone());
                Verdict::Duplicate { at: at + 1, attempt }
            }
            Self::OldRecordAgain => {
                seen.insert(last + 1, seen[at].clone());
                Verdict::Duplicate { at: last + 1, attempt }
            }
            Self::RecordsSwapped => {
                seen.swap(at, next);
                Verdict::Reordered { at: next, attempt, behind: crate::faults::attempt(&seen[at]) }
            }
            _ => {
                seen.remove(at);
                Verdict::LeftOut { at: next - 1, attempt }
            }
        })
    }

    fn plant_in_record(self, seen: &mut [Seen], choice: usize) -> Option<Verdict> {
        let long = |seen: &Seen| matches!(seen, Seen::Record { payload, .. } if payload.len() > 8);
        let at = choose((0..seen.len()).filter(|&at| long(&seen[at])), choice)?;
        let Seen::Record { slot, sequence, payload } = &mut seen[at] else { return None };
        let attempt = number(payload);
        Some(match self {
            Self::ByteFlipped => {
                *payload.last_mut().expect("it has more than a name") ^= 1;
                Verdict::Altered { at, attempt }
            }
            Self::NameFlipped => {
                payload[6] ^= 1;
                Verdict::Stranger { at }
            }
            Self::SlotChanged => {
                *slot = (*slot + 1) % SLOTS;
                Verdict::OtherSlot { at, attempt }
            }
            _ => {
                *sequence += 1;
                Verdict::Misnumbered { at, attempt, due: *sequence - 1 }
            }
        })
    }

    fn plant_record(self, produced: &Produced, seen: &mut Vec<Seen>, choice: usize) -> Option<Verdict> {
        let refused = self == Self::RefusedDelivered;
        let attempts = (0..produced.attempts.len()).filter(|&attempt| {
            let taken = produced.attempts[attempt].taken;
            if refused { !taken } else { taken && attempt >= produced.flushed }
        });
        let attempt = choose(attempts, choice)?;
        let at = if seen.last() == Some(&Seen::End) { seen.len() - 1 } else { seen.len() };
        seen.insert(at, as_record(produced, attempt));
        Some(if refused { Verdict::Refused { at, attempt } } else { Verdict::Unflushed { at, attempt } })
    }

    fn plant_in_loss(self, seen: &mut Vec<Seen>, choice: usize) -> Option<Verdict> {
        let at = choose(whole_losses(seen), choice)?;
        let next = next_of_slot(seen, at);
        let Seen::Loss { slot, events } = &mut seen[at] else { return None };
        let (lossy, lost) = (*slot, *events);
        Some(match self {
            Self::LossDropped => {
                seen.remove(at);
                match next {
                    Some(next) => Verdict::Silent { at: next - 1, slot: lossy, events: lost },
                    None => Verdict::Untold { slot: lossy, events: lost },
                }
            }
            Self::LossTwice => {
                seen.insert(at + 1, seen[at].clone());
                Verdict::ToldTwice { at: at + 1, slot: lossy, events: lost }
            }
            Self::LossOfOther => {
                *slot = SLOTS;
                Verdict::ToldOfOther { at, slot: SLOTS, lossy }
            }
            _ => {
                *events = if self == Self::LossTooLarge { lost + 1 } else { lost - 1 };
                Verdict::Miscounted { at, slot: lossy, told: *events, lost }
            }
        })
    }

    fn plant_at_end(self, seen: &mut Vec<Seen>) -> Option<Verdict> {
        let at = seen.len().checked_sub(1)?;
        let ended = seen[at] == Seen::End;
        match self {
            Self::EndEarly if ended && at > 0 => seen.swap(at - 1, at),
            Self::EndTwice if ended => seen.push(Seen::End),
            Self::EndDropped if ended => drop(seen.pop()),
            Self::EndInvented if !ended => seen.push(Seen::End),
            _ => return None,
        }
        Some(match self {
            Self::EndDropped => Verdict::Endless,
            Self::EndInvented => Verdict::OpenEnd { at: at + 1 },
            _ => Verdict::AfterEnd { at: seen.len() - 1 },
        })
    }
}

/// Losses that are all that was lost before the next record of their slot.
fn whole_losses(seen: &[Seen]) -> impl Iterator<Item = usize> {
    let is_loss = |at: usize| matches!(seen[at], Seen::Loss { .. });
    let whole = move |at: usize| next_of_slot(seen, at).is_none_or(|next| !is_loss(next));
    (0..seen.len()).filter(move |&at| {
        is_loss(at) && whole(at) && last_of_slot(seen, at).is_none_or(|last| !is_loss(last))
    })
}

fn move_behind_record(seen: &mut Vec<Seen>, choice: usize) -> Option<Verdict> {
    let moves = whole_losses(seen).filter_map(|at| Some((at, next_of_slot(seen, at)?)));
    let (at, next) = choose(moves, choice)?;
    let loss = seen.remove(at);
    seen.insert(next, loss);
    let Seen::Loss { slot, events } = seen[next] else { return None };
    Some(Verdict::Silent { at: next - 1, slot, events })
}

fn move_before_record(seen: &mut Vec<Seen>, choice: usize) -> Option<Verdict> {
    let moves = whole_losses(seen).filter_map(|at| Some((at, last_of_slot(seen, at)?)));
    let (at, last) = choose(moves, choice)?;
    let loss = seen.remove(at);
    seen.insert(last, loss);
    let Seen::Loss { slot, events } = seen[last] else { return None };
    Some(Verdict::ToldEarly { at: last, slot, events })
}

/// Loss and wrap on two slots, told before a record and behind the last one.
fn eventful() -> Vec<Step> {
    let mut steps = Vec::new();
    for (slot, bytes) in [(0, 100), (1, 60), (0, 112), (1, 112), (0, 30)] {
        steps.push(Step::Batch { slot, records: 3, bytes });
        steps.push(Step::Push { slot: 2, events: 3, bytes: 20 });
        for events in [4, 5] {
            steps.extend((0..8).map(|_| Step::Push { slot, events, bytes: 112 }));
        }
        steps.extend([Step::Flush, Step::Read { records_max: 30 }, Step::Release]);
    }
    steps
}

fn faultless(ending: Ending) -> (Produced, Consumed) {
    // The dropped producer has pushed something that it never flushed.
    let unflushed = Step::Push { slot: 2, events: 1, bytes: 20 };
    history(of_one_memory(), &[eventful(), vec![unflushed]].concat(), ending, &[])
}

#[test]
fn each_planted_fault_is_named() {
    for fault in FAULTS {
        let ending = match fault {
            Fault::UnflushedDelivered | Fault::EndInvented => Ending::DropProducer,
            _ => Ending::Close,
        };
        let (produced, mut consumed) = faultless(ending);
        assert_eq!(judge(&produced, &consumed), Ok(()), "{consumed:?}");
        let verdict = fault.plant(&produced, &mut consumed.seen, 1).expect("the history has a place for it");
        assert_eq!(judge(&produced, &consumed), Err(verdict), "{fault:?}\n{consumed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_fault_passes_wherever_it_is(
        before in steps(),
        closed in any::<bool>(),
        after in steps(),
        choice in any::<usize>(),
    ) {
        let ending = if closed { Ending::Close } else { Ending::DropProducer };
        let (produced, faultless) = history(of_one_memory(), &before, ending, &after);
        for fault in FAULTS {
            let mut consumed = faultless.clone();
            let planted = fault.plant(&produced, &mut consumed.seen, choice);
            let Some(verdict) = planted else { continue };
            let found = judge(&produced, &consumed).expect_err("the fault passes");
            // What a wrong loss looks like depends on the losses around it.
            let named = found == verdict || (found.is_gap() && verdict.is_gap());
            prop_assert!(named, "{fault:?} is {found:?}, not {verdict:?}");
        }
    }
}

/// A ring that is broken itself, as the consumer sees it.
#[derive(Debug)]
struct Broken {
    memory: Heap,
    fault: Word,
    wrong: AtomicU64,
    zeros: Vec<AtomicU64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    LostHidden,
    SlotsHidden,
    ClosedHidden,
    ClosedAhead,
    TailStuck,
}

impl Memory for Broken {
    fn tail(&self) -> &AtomicU64 {
        let tail = self.memory.tail().load(Ordering::Relaxed);
        if self.fault != Word::TailStuck {
            return self.memory.tail();
        }
        if tail <= CAPACITY as u64 {
            self.wrong.store(tail, Ordering::Relaxed);
        }
        &self.wrong
    }
    fn attempted(&self) -> &AtomicU64 {
        self.memory.attempted()
    }
    fn lost(&self) -> &AtomicU64 {
        if self.fault == Word::LostHidden { &self.wrong } else { self.memory.lost() }
    }
    fn closed(&self) -> &AtomicU64 {
        match self.fault {
            Word::ClosedHidden | Word::ClosedAhead => &self.wrong,
            _ => self.memory.closed(),
        }
    }
    fn room_at(&self) -> &AtomicU64 {
        self.memory.room_at()
    }
    fn slots(&self) -> &[AtomicU64] {
        if self.fault == Word::SlotsHidden { &self.zeros } else { self.memory.slots() }
    }
    fn data(&self) -> &[AtomicU64] {
        self.memory.data()
    }
    fn head(&self) -> &AtomicU64 {
        self.memory.head()
    }
    fn wake_at(&self) -> &AtomicU64 {
        self.memory.wake_at()
    }
}

#[test]
fn each_broken_ring_is_named() {
    for (fault, word) in [
        (Word::LostHidden, 0),
        (Word::SlotsHidden, 0),
        (Word::ClosedHidden, 0),
        (Word::ClosedAhead, 1),
        (Word::TailStuck, 0),
    ] {
        let memory = Heap::new(CAPACITY, SLOTS.into());
        let zeros = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        let broken = Broken { memory: memory.clone(), fault, wrong: AtomicU64::new(word), zeros };
        let look = |step: &Step| matches!(step, Step::Release).then_some(Step::TailLoss);
        let steps = eventful().into_iter().flat_map(|step| [look(&step), Some(step)]).flatten();
        let (produced, consumed) = history((memory, broken), &steps.collect::<Vec<_>>(), Ending::Close, &[]);
        let verdict = judge(&produced, &consumed).expect_err("the fault passes");
        let named = match fault {
            Word::LostHidden | Word::SlotsHidden => matches!(verdict, Verdict::Untold { .. }),
            Word::ClosedHidden => verdict == Verdict::Endless,
            Word::ClosedAhead => matches!(verdict, Verdict::AfterEnd { .. }),
            // Losses are told for which the records before them are missing.
            Word::TailStuck => verdict.is_gap(),
        };
        assert!(named, "{fault:?} is not {verdict:?}");
    }
}

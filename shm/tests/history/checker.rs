//! Judges a history: what a producer did against what a consumer saw.
//!
//! Neither of the two has a clock: all that counts is the order of each. The laws, in the order in which they are judged:
//! nothing after the end; no phantoms; each record once and in order, and none left out; each loss told once, on its
//! slot, before the next record of that slot, and as large as it was; everything by the end.

use std::collections::HashMap;

/// One push. The first eight bytes of the payload are its name: no other push has the same.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) slot: u16,
    pub(crate) events: u32,
    pub(crate) payload: Vec<u8>,
    pub(crate) taken: bool,
}

/// What a producer did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Produced {
    pub(crate) attempts: Vec<Attempt>,
    /// How many of the attempts its last flush had behind it.
    pub(crate) flushed: usize,
    pub(crate) closed: bool,
}

/// One thing that a consumer saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Record { slot: u16, sequence: u64, payload: Vec<u8> },
    Loss { slot: u16, events: u64 },
    End,
}

/// What a consumer saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Consumed {
    pub(crate) seen: Vec<Seen>,
    /// Whether it went on, after the producer's last act, until there was nothing more.
    pub(crate) drained: bool,
}

/// What is wrong with a history. `at` is the place in what was seen, `attempt` in what was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Something comes after the end.
    AfterEnd { at: usize },
    /// Phantom: a record that nobody pushed.
    Stranger { at: usize },
    /// Phantom: a record with other bytes than were pushed.
    Altered { at: usize, attempt: usize },
    /// Phantom: a record on another slot than it was pushed to.
    OtherSlot { at: usize, attempt: usize },
    /// Phantom: a record with a sequence that was not its own.
    Misnumbered { at: usize, attempt: usize, due: u64 },
    /// Phantom: a record that the ring refused.
    Refused { at: usize, attempt: usize },
    /// Phantom: a record that was never flushed.
    Unflushed { at: usize, attempt: usize },
    /// A record comes a second time.
    Duplicate { at: usize, attempt: usize },
    /// A record comes after one that was pushed later.
    Reordered { at: usize, attempt: usize, behind: usize },
    /// The record at this place comes, and the attempt before it never did.
    LeftOut { at: usize, attempt: usize },
    /// Gap: a record comes, and these losses before it were not told.
    Silent { at: usize, slot: u16, events: u64 },
    /// Gap: a loss is told a second time.
    ToldTwice { at: usize, slot: u16, events: u64 },
    /// Gap: a loss is told before a record that was pushed before it.
    ToldEarly { at: usize, slot: u16, events: u64 },
    /// Gap: a loss is told of a slot that had none, while another had it.
    ToldOfOther { at: usize, slot: u16, lossy: u16 },
    /// Gap: more or fewer are told than were lost.
    Miscounted { at: usize, slot: u16, told: u64, lost: u64 },
    /// The end is seen of a ring that was not closed.
    OpenEnd { at: usize },
    /// It is over, and a record was not read.
    Unread { attempt: usize },
    /// It is over, and losses were not told.
    Untold { slot: u16, events: u64 },
    /// The ring was closed, and the end was not seen.
    Endless,
}

impl Verdict {
    /// Whether what was lost is not what was told.
    pub(crate) fn is_gap(self) -> bool {
        matches!(
            self,
            Self::Silent { .. }
                | Self::ToldTwice { .. }
                | Self::ToldEarly { .. }
                | Self::ToldOfOther { .. }
                | Self::Miscounted { .. }
                | Self::Untold { .. }
        )
    }
}

/// Judges the whole of it.
pub(crate) fn judge(produced: &Produced, consumed: &Consumed) -> Result<(), Verdict> {
    let end = consumed.seen.iter().position(|seen| *seen == Seen::End);
    if let Some(at) = end.filter(|at| at + 1 < consumed.seen.len()) {
        return Err(Verdict::AfterEnd { at: at + 1 });
    }
    let records = recognise(produced, consumed)?;
    judge_order(produced, &records)?;
    let mut account = Account::new(produced);
    account.follow(consumed, &records)?;
    match end {
        Some(at) if !produced.closed => return Err(Verdict::OpenEnd { at }),
        None if produced.closed && consumed.drained => return Err(Verdict::Endless),
        None if !consumed.drained => return Ok(()),
        _ => {}
    }
    let next = records.last().map_or(0, |&(_, attempt)| attempt + 1);
    match taken(produced).find(|&attempt| attempt >= next) {
        Some(attempt) => Err(Verdict::Unread { attempt }),
        None => account.judge_end(),
    }
}

/// Which attempts a correct consumer sees as records.
fn taken(produced: &Produced) -> impl Iterator<Item = usize> {
    (0..produced.flushed).filter(|&attempt| produced.attempts[attempt].taken)
}

/// For each record its place in what was seen, and which attempt it is.
fn recognise(produced: &Produced, consumed: &Consumed) -> Result<Vec<(usize, usize)>, Verdict> {
    let (mut names, mut sequences, mut slots) = (HashMap::new(), Vec::new(), HashMap::new());
    for (attempt, pushed) in produced.attempts.iter().enumerate() {
        let name = pushed.payload.get(..8).expect("a payload begins with its name");
        assert!(names.insert(name, attempt).is_none(), "two pushes of one name");
        let counter: &mut u64 = slots.entry(pushed.slot).or_default();
        sequences.push(*counter);
        *counter += u64::from(pushed.events);
    }
    let mut records = Vec::new();
    for (at, seen) in consumed.seen.iter().enumerate() {
        let Seen::Record { slot, sequence, payload } = seen else { continue };
        let name = payload.get(..8).and_then(|name| names.get(name));
        let &attempt = name.ok_or(Verdict::Stranger { at })?;
        let pushed = &produced.attempts[attempt];
        let due = sequences[attempt];
        if *payload != pushed.payload {
            return Err(Verdict::Altered { at, attempt });
        }
        if *slot != pushed.slot {
            return Err(Verdict::OtherSlot { at, attempt });
        }
        if *sequence != due {
            return Err(Verdict::Misnumbered { at, attempt, due });
        }
        if !pushed.taken {
            return Err(Verdict::Refused { at, attempt });
        }
        if attempt >= produced.flushed {
            return Err(Verdict::Unflushed { at, attempt });
        }
        records.push((at, attempt));
    }
    Ok(records)
}

fn judge_order(produced: &Produced, records: &[(usize, usize)]) -> Result<(), Verdict> {
    let mut places = HashMap::new();
    let mut newest = None;
    for &(at, attempt) in records {
        if places.insert(attempt, at).is_some() {
            return Err(Verdict::Duplicate { at, attempt });
        }
        if let Some(behind) = newest.filter(|&newest| newest > attempt) {
            return Err(Verdict::Reordered { at, attempt, behind });
        }
        newest = Some(attempt);
    }
    // In order and none twice: the first that differs was left out.
    match taken(produced).zip(records).find(|(due, (_, attempt))| due != attempt) {
        Some((attempt, &(at, _))) => Err(Verdict::LeftOut { at, attempt }),
        None => Ok(()),
    }
}

/// How far each slot is accounted for.
struct Account<'a> {
    produced: &'a Produced,
    slots: HashMap<u16, Slot>,
}

#[derive(Default)]
struct Slot {
    /// The flushed attempts on it.
    attempts: Vec<usize>,
    /// Which of them is the next.
    next: usize,
    /// The loss that was told last, since the last record.
    told: Option<u64>,
}

impl<'a> Account<'a> {
    fn new(produced: &'a Produced) -> Self {
        let mut slots: HashMap<u16, Slot> = HashMap::new();
        for (attempt, pushed) in produced.attempts[..produced.flushed].iter().enumerate() {
            slots.entry(pushed.slot).or_default().attempts.push(attempt);
        }
        Self { produced, slots }
    }

    fn follow(&mut self, consumed: &Consumed, records: &[(usize, usize)]) -> Result<(), Verdict> {
        let mut records = records.iter();
        for (at, seen) in consumed.seen.iter().enumerate() {
            match *seen {
                Seen::Record { slot, .. } => {
                    let &(_, attempt) = records.next().expect("each record was recognised");
                    self.record(at, slot, attempt)?;
                }
                Seen::Loss { slot, events } => self.loss(at, slot, events)?,
                Seen::End => {}
            }
        }
        Ok(())
    }

    fn record(&mut self, at: usize, slot: u16, attempt: usize) -> Result<(), Verdict> {
        let events = self.refused(slot).sum();
        if events > 0 {
            return Err(Verdict::Silent { at, slot, events });
        }
        let account = self.slots.get_mut(&slot).expect("the record was recognised");
        assert_eq!(account.attempts[account.next], attempt, "none is left out, none comes twice");
        account.next += 1;
        account.told = None;
        Ok(())
    }

    fn loss(&mut self, at: usize, slot: u16, events: u64) -> Result<(), Verdict> {
        let Some(attempts) = self.prefix(slot, events) else {
            return Err(self.wrong_loss(at, slot, events));
        };
        let account = self.slots.get_mut(&slot).expect("it has losses");
        account.next += attempts;
        account.told = Some(events);
        Ok(())
    }

    /// Events of the attempts on `slot` that were refused, from the next one on and up to the next record.
    fn refused(&self, slot: u16) -> impl Iterator<Item = u64> {
        let attempts = self.slots.get(&slot).map_or(&[][..], |slot| &slot.attempts[slot.next..]);
        let pushed = attempts.iter().map(|&attempt| &self.produced.attempts[attempt]);
        pushed.take_while(|pushed| !pushed.taken).map(|pushed| u64::from(pushed.events))
    }

    /// How many refused attempts are `events` events. A loss may be told in parts, but no flush cuts an attempt.
    fn prefix(&self, slot: u16, events: u64) -> Option<usize> {
        let sums = self.refused(slot).scan(0, |sum, events| {
            *sum += events;
            Some(*sum)
        });
        sums.enumerate().find(|&(_, sum)| sum == events).map(|(number, _)| number + 1)
    }

    fn wrong_loss(&self, at: usize, slot: u16, events: u64) -> Verdict {
        let lost = self.refused(slot).sum();
        let account = self.slots.get(&slot);
        let told = account.and_then(|account| account.told);
        if lost > 0 || events == 0 {
            return Verdict::Miscounted { at, slot, told: events, lost };
        }
        if told == Some(events) {
            return Verdict::ToldTwice { at, slot, events };
        }
        if account.is_some_and(|account| self.is_lost_later(account, events)) {
            return Verdict::ToldEarly { at, slot, events };
        }
        let mut slots: Vec<u16> = self.slots.keys().copied().collect();
        slots.sort_unstable();
        match slots.into_iter().find(|&lossy| self.prefix(lossy, events).is_some()) {
            Some(lossy) => Verdict::ToldOfOther { at, slot, lossy },
            None => Verdict::Miscounted { at, slot, told: events, lost },
        }
    }

    /// Whether a later run of refused attempts has this many events.
    fn is_lost_later(&self, account: &Slot, events: u64) -> bool {
        let attempts =
            account.attempts[account.next..].iter().map(|&attempt| &self.produced.attempts[attempt]);
        let pushed: Vec<&Attempt> = attempts.collect();
        let mut runs = pushed.split(|pushed| pushed.taken);
        runs.any(|run| run.iter().map(|pushed| u64::from(pushed.events)).sum::<u64>() == events)
    }

    fn judge_end(&self) -> Result<(), Verdict> {
        let mut slots: Vec<u16> = self.slots.keys().copied().collect();
        slots.sort_unstable();
        let untold = slots.into_iter().map(|slot| (slot, self.refused(slot).sum()));
        match untold.into_iter().find(|&(_, events)| events > 0) {
            Some((slot, events)) => Err(Verdict::Untold { slot, events }),
            None => Ok(()),
        }
    }
}

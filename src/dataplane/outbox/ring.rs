//! One ring, as its publisher writes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shm::{Doorbell, Heard, PeerGone, Producer, Progress, PushError, Violation};
use tokio::sync::Notify;

use super::relay::{self, Line};
use super::tally::RingTally;
use crate::batch::BatchWriter;
use crate::config::URGENT_PART;
use crate::sys::Bell;
use crate::wire::RingId;

#[derive(Debug)]
pub(super) struct OutRing {
    pub(super) id: RingId,
    way: Way,
    /// Something was pushed and not flushed.
    pub(super) dirty: bool,
    closing: bool,
    /// Rings whose place it has taken.
    before: Vec<RingId>,
    marks: Marks,
    /// Events that found no room, and of these, those that never would.
    dropped: u64,
    too_large: u64,
    tally: Arc<RingTally>,
}

/// What a ring is made of.
#[derive(Debug)]
pub(crate) enum RingEnd {
    /// Shared memory, and what the other side has read of it.
    Memory(Box<Producer>, Progress, Doorbell),
    /// It leads over the broker.
    Broker(Line),
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one; how large differs by platform")]
enum Way {
    Memory(Memory),
    Broker(Line),
}

#[derive(Debug)]
struct Memory {
    producer: Producer,
    doorbell: Doorbell,
    /// A wake-up could not be sent and has to be repeated.
    owes_wake: bool,
}

/// Where a ring stood.
#[derive(Debug)]
pub(super) enum Savepoint {
    Memory(shm::Savepoint),
    Broker(relay::Savepoint),
}

/// What to wait for room with.
#[derive(Debug)]
pub(super) enum RoomBell {
    Memory(std::io::Result<Bell>),
    Broker(Arc<Notify>),
}

/// Where in a ring the events of a topic go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) slot: u16,
    pub(super) generation: u16,
    /// They may use the reserve.
    pub(super) urgent: bool,
}

/// A record as it goes into a ring, its number and time in it.
#[derive(Clone, Copy)]
pub(super) struct Sealed<'a> {
    events: u32,
    bytes: usize,
    parts: [&'a [u8]; 5],
}

impl<'a> Sealed<'a> {
    pub(super) fn of(record: &'a BatchWriter) -> Self {
        let events = u32::try_from(record.len()).expect("a record has at most 512 events");
        Self { events, bytes: record.bytes(), parts: record.parts() }
    }

    pub(super) fn of_bytes(record: &'a [u8], events: u32) -> Self {
        Self { events, bytes: record.len(), parts: [&[], &[], &[], &[], record] }
    }
}

/// What a ring did with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    Taken,
    Full,
    /// It is too small for it, also if it is empty.
    TooLarge,
}

/// Nothing more goes to a subscriber.
#[derive(Debug)]
pub(super) enum Over {
    /// It is gone.
    Gone,
    /// It broke the ring.
    Broken(Violation),
}

impl From<Violation> for Over {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

impl From<PeerGone> for Over {
    fn from(_: PeerGone) -> Self {
        Self::Gone
    }
}

impl OutRing {
    /// A ring that the publisher's event number `sequence` is the first for. What goes over it is written down in `tally`.
    pub(super) fn new(id: RingId, end: RingEnd, sequence: u64, tally: Arc<RingTally>) -> Self {
        let (way, capacity) = match end {
            RingEnd::Memory(mut producer, _, doorbell) => {
                let capacity = producer.capacity() as u64;
                producer.set_reserve(capacity / URGENT_PART as u64);
                (Way::Memory(Memory { producer: *producer, doorbell, owes_wake: false }), capacity)
            }
            RingEnd::Broker(line) => {
                let window = line.window();
                (Way::Broker(line), window)
            }
        };
        let marks = Marks::new(capacity, sequence);
        Self {
            id,
            way,
            dirty: false,
            closing: false,
            before: Vec::new(),
            marks,
            dropped: 0,
            too_large: 0,
            tally,
        }
    }

    /// What the ring did with the record, whose last event is the publisher's event number `sequence - 1`.
    pub(super) fn push(
        &mut self,
        address: Address,
        record: &Sealed<'_>,
        sequence: u64,
    ) -> Result<Pushed, Over> {
        let (Address { slot, generation, urgent }, Sealed { events, bytes, parts }) = (address, record);
        let events = *events;
        if *bytes > self.payload_bytes_max() {
            // Larger rings take it, and this subscriber is told of it as of any other loss.
            self.too_large += u64::from(events);
            return self.lose(address, events, sequence).map(|()| Pushed::TooLarge);
        }
        let taken = match &mut self.way {
            Way::Memory(Memory { producer, .. }) => {
                let pushed = if urgent {
                    producer.push_urgent(slot, generation, events, parts)
                } else {
                    producer.push(slot, generation, events, parts)
                };
                match pushed {
                    Ok(()) => true,
                    Err(PushError::Full) => false,
                    Err(PushError::Poisoned(violation)) => return Err(violation.into()),
                    // No correct broker names such a slot.
                    Err(_) => return Err(Over::Gone),
                }
            }
            Way::Broker(_) if !relay::is_slot(slot) => return Err(Over::Gone),
            Way::Broker(line) => line.push((slot, generation), urgent, events, parts).is_ok(),
        };
        self.marks.note(self.tail(), sequence);
        self.dropped += if taken { 0 } else { u64::from(events) };
        Ok(if taken { Pushed::Taken } else { Pushed::Full })
    }

    /// Counts events as lost that no record brings, the last of them being the publisher's event number `sequence - 1`.
    pub(super) fn lose(&mut self, address: Address, events: u32, sequence: u64) -> Result<(), Over> {
        self.marks.note(self.tail(), sequence);
        self.dropped += u64::from(events);
        let Address { slot, generation, .. } = address;
        match &mut self.way {
            // No correct broker names a slot that the ring does not have.
            Way::Memory(Memory { producer, .. }) => producer.lose(slot, events).map_err(|_| Over::Gone),
            Way::Broker(_) if !relay::is_slot(slot) => Err(Over::Gone),
            Way::Broker(line) => {
                line.lose(slot, generation, events);
                Ok(())
            }
        }
    }

    fn tail(&self) -> u64 {
        match &self.way {
            Way::Memory(Memory { producer, .. }) => producer.tail(),
            Way::Broker(line) => line.tail(),
        }
    }

    fn payload_bytes_max(&self) -> usize {
        match &self.way {
            Way::Memory(Memory { producer, .. }) => producer.payload_bytes_max(),
            Way::Broker(line) => line.payload_bytes_max(),
        }
    }

    pub(super) fn record_bytes_max(&self) -> u32 {
        u32::try_from(self.payload_bytes_max()).unwrap_or(u32::MAX)
    }

    /// Whether a record of so many bytes would be taken now.
    pub(super) fn has_room(&mut self, bytes: usize, urgent: bool) -> bool {
        if bytes > self.payload_bytes_max() {
            return false;
        }
        match &mut self.way {
            Way::Memory(Memory { producer, .. }) => {
                producer.has_room(room_in(producer, bytes, urgent)).unwrap_or(false)
            }
            Way::Broker(line) => line.has_room(bytes, urgent),
        }
    }

    pub(super) fn savepoint(&mut self, slot: u16) -> Savepoint {
        match &mut self.way {
            Way::Memory(Memory { producer, .. }) => Savepoint::Memory(producer.savepoint(slot)),
            Way::Broker(line) => Savepoint::Broker(line.savepoint(slot)),
        }
    }

    /// Takes back what was pushed since; the publisher's next event is number `sequence` again.
    pub(super) fn rewind(&mut self, savepoint: Savepoint, sequence: u64) {
        match (&mut self.way, savepoint) {
            (Way::Memory(Memory { producer, .. }), Savepoint::Memory(savepoint)) => {
                producer.rewind(savepoint)
            }
            (Way::Broker(line), Savepoint::Broker(savepoint)) => line.rewind(&savepoint),
            _ => unreachable!("a savepoint is its ring's"),
        }
        self.marks.rewind(self.tail(), sequence);
    }

    /// Makes visible what was pushed, and wakes the subscriber if that is what it waits for.
    pub(super) fn flush(&mut self) -> Result<(), Over> {
        let attempted = match &self.way {
            Way::Memory(Memory { producer, .. }) => producer.attempted(),
            Way::Broker(line) => line.attempted(),
        };
        self.tally.events.store(attempted, Ordering::Relaxed);
        self.tally.dropped.store(self.dropped, Ordering::Relaxed);
        self.tally.too_large.store(self.too_large, Ordering::Relaxed);
        self.tally.bytes.store(self.tail(), Ordering::Relaxed);
        match &mut self.way {
            Way::Memory(Memory { producer, doorbell, owes_wake }) => {
                if producer.flush() || *owes_wake {
                    *owes_wake = !doorbell.ring()?;
                }
            }
            Way::Broker(line) => line.flush(),
        }
        Ok(())
    }

    /// Tells the subscriber that this was all.
    pub(super) fn close(&mut self) {
        self.closing = true;
        match &mut self.way {
            Way::Memory(Memory { producer, doorbell, .. }) => {
                if producer.close() {
                    // Nobody there to wake is nobody to tell.
                    let _ = doorbell.ring();
                }
            }
            // The broker says it.
            Way::Broker(line) => line.flush(),
        }
    }

    /// Notes rings whose place it has taken, of those that were given up for others.
    pub(super) fn note_before(&mut self, given_up: &[(RingId, Option<RingId>)]) {
        self.before.extend(given_up.iter().filter(|(_, by)| *by == Some(self.id)).map(|(before, _)| *before));
    }

    /// Whether it has taken the place of this one.
    pub(super) fn follows(&self, ring: RingId) -> bool {
        self.before.contains(&ring)
    }

    /// Whether it has ended, and may have something left to be read.
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether it has ended, and there is nothing left to be read.
    pub(super) fn is_done(&mut self) -> bool {
        self.closing && !matches!(self.read_up_to(), Ok(Some(_)))
    }

    /// Whether the subscriber's end of the doorbell is closed. Takes in what rang.
    pub(super) fn is_deserted(&self) -> bool {
        match &self.way {
            Way::Memory(Memory { doorbell, .. }) => doorbell.hear() == Heard::PeerGone,
            Way::Broker(line) => line.is_over(),
        }
    }

    /// What to wait for room in the ring with: for a record of so many bytes, or for all of the ring. `None`: it is there.
    /// All that was pushed is flushed.
    pub(super) fn await_room(&mut self, room: Room) -> Result<Option<RoomBell>, Over> {
        // First take in what rang for earlier waits, then ask: what rings after that is for this one.
        if self.is_deserted() {
            return Err(Over::Gone);
        }
        let record = match room {
            // Not to be waited for: it is lost here whenever it comes.
            Room::For { bytes, .. } if bytes > self.payload_bytes_max() => return Ok(None),
            Room::For { bytes, urgent } => Some((bytes, urgent)),
            Room::All => None,
        };
        match &mut self.way {
            Way::Memory(Memory { producer, doorbell, .. }) => {
                let bytes = record.map_or(u64::MAX, |(bytes, urgent)| room_in(producer, bytes, urgent));
                Ok(producer.arm(bytes)?.then(|| RoomBell::Memory(Bell::of(doorbell))))
            }
            Way::Broker(line) => Ok(line.await_room(record).map(RoomBell::Broker)),
        }
    }

    /// Waits for room no longer.
    pub(super) fn disarm(&mut self) {
        if let Way::Memory(Memory { producer, .. }) = &mut self.way {
            producer.disarm();
        }
    }

    /// Up to which of the publisher's events the subscriber has read all that went into this ring; `None`: all.
    pub(super) fn read_up_to(&mut self) -> Result<Option<u64>, Over> {
        let read = match &mut self.way {
            Way::Memory(Memory { producer, .. }) => {
                let occupied = producer.occupied()?;
                producer.tail() - occupied
            }
            Way::Broker(line) => line.read_up_to(),
        };
        Ok(self.marks.read_up_to(read))
    }

    /// What of it is to be unmapped.
    pub(super) fn into_producer(self) -> Option<Producer> {
        match self.way {
            Way::Memory(Memory { producer, .. }) => Some(producer),
            Way::Broker(_) => None,
        }
    }
}

fn room_in(producer: &Producer, bytes: usize, urgent: bool) -> u64 {
    producer.room_for(bytes) - if urgent { producer.reserve() } else { 0 }
}

/// How much room a publisher waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room {
    /// For one record.
    For { bytes: usize, urgent: bool },
    /// The whole ring: all was read.
    All,
}

/// How often in the length of a ring it is noted which event stands where.
const MARKS_PER_RING: u64 = 64;

/// Which of the publisher's events stands where in a ring, noted now and then.
#[derive(Debug)]
struct Marks {
    capacity: u64,
    marks: VecDeque<Mark>,
    newest: Mark,
    /// Events before the last mark that was passed.
    passed: u64,
}

/// Events below `sequence` stand before `tail`.
#[derive(Debug, Clone, Copy)]
struct Mark {
    tail: u64,
    sequence: u64,
}

impl Marks {
    fn new(capacity: u64, sequence: u64) -> Self {
        let marks = VecDeque::with_capacity(MARKS_PER_RING as usize + 1);
        Self { capacity, marks, newest: Mark { tail: 0, sequence }, passed: sequence }
    }

    fn note(&mut self, tail: u64, sequence: u64) {
        self.newest = Mark { tail, sequence };
        let last = self.marks.back().map_or(0, |mark| mark.tail);
        if tail - last >= self.capacity / MARKS_PER_RING {
            // Nobody asks in between, maybe: what lies a whole ring behind was read.
            let gone = tail.saturating_sub(self.capacity);
            self.pass(gone);
            self.marks.push_back(self.newest);
        }
    }

    /// What stands behind `tail` is not there any more.
    fn rewind(&mut self, tail: u64, sequence: u64) {
        while self.marks.back().is_some_and(|mark| mark.tail > tail) {
            self.marks.pop_back();
        }
        self.newest = Mark { tail, sequence };
    }

    fn pass(&mut self, head: u64) {
        while let Some(mark) = self.marks.front().filter(|mark| mark.tail <= head) {
            self.passed = mark.sequence;
            self.marks.pop_front();
        }
    }

    fn read_up_to(&mut self, head: u64) -> Option<u64> {
        self.pass(head);
        (head < self.newest.tail).then_some(self.passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 64 * 100;

    #[test]
    fn what_is_said_to_be_read_was_read() {
        let mut marks = Marks::new(CAPACITY, 0);
        assert_eq!(marks.read_up_to(0), None);
        // Records of 30 bytes, of 2 events each.
        for record in 1..=20 {
            marks.note(record * 30, record * 2);
        }
        for head in 0..600 {
            let read = marks.read_up_to(head).expect("not all was read");
            assert!(read * 15 <= head, "{read} events of 15 bytes in {head}");
            assert!(head < read * 15 + 150, "not further behind than marks are apart: {read} at {head}");
        }
        assert_eq!(marks.read_up_to(600), None);
        // A loss leaves the tail where it was.
        marks.note(600, 100);
        assert_eq!(marks.read_up_to(600), None);
    }

    #[test]
    fn marks_are_bounded_also_if_nobody_asks() {
        let mut marks = Marks::new(CAPACITY, 0);
        for record in 1..10_000 {
            marks.note(record * 100, record);
        }
        assert!(marks.marks.len() as u64 <= MARKS_PER_RING + 1, "{}", marks.marks.len());
    }
}

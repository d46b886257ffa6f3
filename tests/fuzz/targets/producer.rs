//! A producer whose consumer writes what it likes, whenever it likes.

#![no_main]

use daemoneye_eventbus_fuzz::{CAPACITY, Hostile, Input, SLOTS, Word};
use libfuzzer_sys::fuzz_target;
use shm::{Producer, PushError, Violation};

struct Target {
    memory: Hostile,
    producer: Producer<Hostile>,
    attempted: u64,
    lost: u64,
    slots: [u64; SLOTS as usize],
    /// Slot, sequence, length and first byte of what was taken and is not flushed.
    taken: Vec<(u16, u64, usize, u8)>,
    /// Up to where it was flushed.
    tail: u64,
    poisoned: Option<Violation>,
}

/// One of the words that a consumer writes.
fn word(number: u8) -> Word {
    if number.is_multiple_of(2) { Word::Head } else { Word::WakeAt }
}

impl Target {
    fn new() -> Self {
        let memory = Hostile::default();
        let mut producer = Producer::over(memory.clone());
        producer.set_reserve(CAPACITY / 8);
        let slots = [0; SLOTS as usize];
        Self { memory, producer, attempted: 0, lost: 0, slots, taken: Vec::new(), tail: 0, poisoned: None }
    }

    /// A violation sticks.
    fn judge(&mut self, violation: Option<Violation>) {
        assert!(self.poisoned.is_none() || self.poisoned == violation);
        self.poisoned = violation;
    }

    fn push(&mut self, urgent: bool, slot: u16, events: u8, bytes: usize) {
        let fill = self.attempted as u8;
        let payload = vec![fill; bytes];
        let result = if urgent {
            self.producer.push_urgent(slot, 0, events.into(), &[&payload])
        } else {
            self.producer.push(slot, 0, events.into(), &[&payload])
        };
        if let Err(PushError::TooLarge { .. } | PushError::NoSuchSlot { .. }) = result {
            assert!(bytes > self.producer.payload_bytes_max() || slot >= SLOTS);
            return;
        }
        let sequence = &mut self.slots[usize::from(slot)];
        match result {
            Ok(()) => self.taken.push((slot, *sequence, bytes, fill)),
            Err(_) => self.lost += u64::from(events),
        }
        *sequence += u64::from(events);
        self.attempted += u64::from(events);
        assert_eq!(self.producer.attempted(), self.attempted);
        match result {
            Ok(()) => self.judge(None),
            Err(PushError::Poisoned(violation)) => self.judge(Some(violation)),
            // It is known before anybody looks at the head.
            Err(_) => assert_eq!(self.poisoned, None),
        }
    }

    /// A push that is taken back leaves no trace, unless it was a loss.
    fn try_out(&mut self, slot: u16, bytes: usize) {
        let before = self.producer.savepoint(slot);
        let room = self.producer.room_for(bytes);
        if bytes <= self.producer.payload_bytes_max() && self.producer.has_room(room) == Ok(true) {
            self.producer.push(slot, 0, 1, &[&vec![0xff; bytes]]).expect("there is room");
            self.producer.rewind(before);
        }
        assert_eq!(self.producer.attempted(), self.attempted);
    }

    fn lose(&mut self, slot: u16, events: u8) {
        self.producer.lose(slot, events.into()).expect("there is such a slot");
        self.slots[usize::from(slot)] += u64::from(events);
        self.lost += u64::from(events);
        self.attempted += u64::from(events);
    }

    /// What was taken lies between the tails, and nowhere does it cross the end of the ring.
    fn flush(&mut self, close: bool) {
        let wakes = if close { self.producer.close() } else { self.producer.flush() };
        assert!(!wakes || self.memory.value(Word::WakeAt) != u64::MAX || !self.memory.is_still());
        let tail = self.memory.value(Word::Tail);
        assert!(tail >= self.tail && self.memory.was_free(tail), "nobody gave that space back");
        let mut position = self.tail;
        for (slot, sequence, bytes, fill) in self.taken.drain(..) {
            let size = 16 + (bytes as u64).next_multiple_of(8);
            let to_end = CAPACITY - position % CAPACITY;
            if size > to_end {
                let padding = 1 << 31 | (to_end - 8);
                assert_eq!(self.memory.value(Word::Data(position)), padding);
                position += to_end;
            }
            assert_eq!(self.memory.value(Word::Data(position)), bytes as u64 | u64::from(slot) << 32);
            assert_eq!(self.memory.value(Word::Data(position + 8)), sequence);
            for index in 0..bytes as u64 {
                let word = self.memory.value(Word::Data(position + 16 + index / 8 * 8));
                assert_eq!(word.to_le_bytes()[index as usize % 8], fill);
            }
            position += size;
        }
        assert_eq!(position, tail);
        assert_eq!(self.memory.value(Word::Attempted), self.attempted);
        assert_eq!(self.memory.value(Word::Lost), self.lost);
        self.tail = tail;
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 17 {
            0..=4 => {
                self.push(false, u16::from(input.byte()?) % (SLOTS + 1), input.byte()?, input.byte()?.into())
            }
            5 => self.flush(false),
            6 => {
                let result = self.producer.occupied();
                self.judge(result.err());
                assert!(result.is_err() || result.is_ok_and(|bytes| bytes <= CAPACITY));
            }
            // As an honest consumer that has read all of it.
            7 | 8 => self.memory.set(Word::Head, self.memory.value(Word::Tail)),
            9 => {
                let head = self.memory.value(Word::Head);
                self.memory.set(Word::Head, head.wrapping_add(u64::from(input.byte()?) * 8));
            }
            10 => self.memory.set(word(input.byte()?), input.word()?),
            11 => self.memory.set_later(input.byte()?, word(input.byte()?), u64::from(input.byte()?) * 8),
            12 => {
                self.flush(false);
                let room = u16::from_le_bytes(input.bytes()?).into();
                let result = self.producer.arm(room);
                self.judge(result.err());
                let room_at = self.memory.value(Word::RoomAt);
                // It looked while it asked, so it sleeps for a head that it has not seen.
                assert!(result != Ok(true) || room_at + CAPACITY == self.tail + room.min(CAPACITY));
            }
            14 => self.push(true, u16::from(input.byte()?) % SLOTS, input.byte()?, input.byte()?.into()),
            15 => self.try_out(u16::from(input.byte()?) % SLOTS, input.byte()?.into()),
            16 => self.lose(u16::from(input.byte()?) % SLOTS, input.byte()?),
            _ => {
                let room = self.producer.room_for(input.byte()?.into());
                let result = self.producer.has_room(room);
                self.judge(result.err());
            }
        }
        Some(())
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut target, mut input) = (Target::new(), Input(data));
    while target.step(&mut input).is_some() {}
    target.flush(true);
    assert_eq!(target.memory.value(Word::Closed), 1);
});

//! A consumer over a segment that may hold anything, and changes between any two looks at it.

#![no_main]

use daemoneye_eventbus_fuzz::{CAPACITY, Hostile, Input, SLOTS, Word};
use libfuzzer_sys::fuzz_target;
use shm::{Consumer, Violation};

struct Target {
    memory: Hostile,
    consumer: Consumer<Hostile>,
    payload: Vec<u64>,
    head: u64,
    poisoned: Option<Violation>,
}

/// One of the words that a producer writes.
fn word(number: u8, position: u64) -> Word {
    match number % 9 {
        0 | 1 => Word::Tail,
        2 => Word::Attempted,
        3 => Word::Lost,
        4 => Word::Closed,
        5 => Word::Slot(position as u16),
        8 => Word::RoomAt,
        _ => Word::Data(position),
    }
}

impl Target {
    fn new() -> Self {
        let memory = Hostile::default();
        let consumer = Consumer::over(memory.clone());
        Self { memory, consumer, payload: Vec::new(), head: 0, poisoned: None }
    }

    /// A violation sticks.
    fn judge<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        if let Some(violation) = self.poisoned {
            assert_eq!(result.as_ref().err(), Some(&violation));
        }
        self.poisoned = result.as_ref().err().copied();
        result.ok()
    }

    /// Whether there was a record.
    fn read(&mut self, events: u8) -> bool {
        let still = self.memory.is_still();
        let result = self.consumer.read(&mut self.payload);
        let Some(Some(record)) = self.judge(result) else { return false };
        let (bytes, words) = (record.bytes, self.payload.len());
        assert!(bytes <= words * 8 && words * 8 < bytes + 8, "{bytes} bytes in {words} words");
        assert!(record.slot < SLOTS);
        let end = record.position + 16 + words as u64 * 8;
        assert!(record.position % CAPACITY + 16 + words as u64 * 8 <= CAPACITY, "it does not wrap");
        assert!(self.memory.was_published(record.position, end), "{record:?} was not published");
        if still {
            let copied = (record.position + 16..end).step_by(8).zip(&self.payload);
            for (position, word) in copied {
                assert_eq!(word.to_le(), self.memory.value(Word::Data(position)), "{record:?}");
            }
        }
        let before = (self.consumer.settled(), self.consumer.settled_on(record.slot));
        let settled = self.consumer.settle(&record, events.into());
        if let Some(lost) = self.judge(settled) {
            let added = lost + u64::from(events);
            assert_eq!(self.consumer.settled(), before.0 + added);
            assert_eq!(self.consumer.settled_on(record.slot), before.1 + added);
        }
        true
    }

    fn tail_loss(&mut self) {
        let (before, mut told) = (self.consumer.settled(), 0);
        let result = self.consumer.tail_loss(|slot, events| {
            assert!(slot < SLOTS && events > 0);
            told += events;
        });
        self.judge(result);
        assert_eq!(self.consumer.settled(), before + told);
    }

    fn set_record(&self, slot: u8, length: u8, sequence: u8) {
        let tail = self.memory.value(Word::Tail);
        self.memory.set(Word::Data(tail), u64::from(length) | u64::from(slot % SLOTS as u8) << 32);
        self.memory.set(Word::Data(tail.wrapping_add(8)), sequence.into());
        self.memory.set(Word::Tail, tail.wrapping_add(16 + u64::from(length).next_multiple_of(8)));
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 16 {
            0 => {
                let tail = self.memory.value(Word::Tail);
                self.memory.set(Word::Tail, tail.wrapping_add(u64::from(input.byte()?) * 8));
            }
            1 => self.memory.set(word(input.byte()?, u64::from(input.byte()?) * 8), input.word()?),
            2 => {
                let word = word(input.byte()?, u64::from(input.byte()?) * 8);
                self.memory.set_later(input.byte()?, word, input.word()?);
            }
            3 => {
                // A small value later: near to what is legal.
                let word = word(input.byte()?, u64::from(input.byte()?) * 8);
                self.memory.set_later(input.byte()?, word, u64::from(input.byte()?) * 8);
            }
            4..=6 => self.set_record(input.byte()?, input.byte()?, input.byte()?),
            7 | 8 => {
                self.read(input.byte()?);
            }
            9 => self.tail_loss(),
            10 => {
                let _wake = self.consumer.release();
                let result = self.consumer.arm(u16::from_le_bytes(input.bytes()?).into());
                self.judge(result);
            }
            11 => {
                let result = self.consumer.ended();
                self.judge(result);
            }
            12 => self.consumer.freeze(),
            13 => {
                let room_at = self.memory.value(Word::RoomAt);
                let still = self.memory.is_still();
                let wakes = self.consumer.release();
                assert!(
                    !(wakes && still) || (self.head < room_at && room_at <= self.memory.value(Word::Head))
                );
            }
            14 => {
                let result = self.consumer.now(u16::from(input.byte()?) % SLOTS);
                self.judge(result);
                let result = self.consumer.occupied();
                assert!(self.judge(result).is_none_or(|bytes| bytes <= CAPACITY));
            }
            _ => self.consumer.disarm(),
        }
        let head = self.memory.value(Word::Head);
        assert!(head % 8 == 0 && self.head <= head && self.memory.was_published(head, head));
        self.head = head;
        Some(())
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut target, mut input) = (Target::new(), Input(data));
    while target.step(&mut input).is_some() {}
    // What is left of a producer that is gone is bounded.
    target.consumer.freeze();
    let records = (0..=CAPACITY / 16).take_while(|_| target.read(1)).count() as u64;
    assert!(records <= CAPACITY / 16, "{records} records of a ring that is frozen");
    target.tail_loss();
});

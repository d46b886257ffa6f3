//! Both ends of a ring, each with a record of what it does or sees.

use shm::{Consumer, Memory, Producer, PushError};

use crate::Step;
use crate::checker::{Attempt, Consumed, Produced, Seen};

/// A producer, for as long as it is there, and what it did.
#[derive(Debug)]
pub(crate) struct Recorder<M> {
    pub(crate) producer: Option<Producer<M>>,
    pub(crate) produced: Produced,
}

impl<M: Memory> Recorder<M> {
    pub(crate) fn over(memory: M) -> Self {
        Self { producer: Some(Producer::over(memory)), produced: Produced::default() }
    }

    pub(crate) fn take(&mut self, step: &Step) {
        match *step {
            Step::Push { slot, events, bytes } => self.push(slot, events, bytes),
            Step::Batch { slot, records, bytes } => {
                for _ in 0..records {
                    self.push(slot, 1, bytes);
                }
                self.flush();
            }
            Step::Flush => self.flush(),
            _ => {}
        }
    }

    pub(crate) fn push(&mut self, slot: u16, events: u8, bytes: usize) {
        let Some(producer) = &mut self.producer else { return };
        let number = self.produced.attempts.len() as u64;
        let mut payload = (number | u64::from(events) << 56).to_le_bytes().to_vec();
        payload.extend((8..bytes).map(|index| (number as usize * 7 + index) as u8));
        let taken = match producer.push(slot, 0, events.into(), &[&payload]) {
            Ok(()) => true,
            Err(PushError::Full) => false,
            Err(error) => panic!("{error}"),
        };
        self.produced.attempts.push(Attempt { slot, events: events.into(), payload, taken });
    }

    pub(crate) fn flush(&mut self) {
        let Some(producer) = &mut self.producer else { return };
        let _nobody_sleeps = producer.flush();
        self.produced.flushed = self.produced.attempts.len();
    }

    pub(crate) fn close(&mut self) {
        let Some(mut producer) = self.producer.take() else { return };
        let _nobody_sleeps = producer.close();
        self.produced.flushed = self.produced.attempts.len();
        self.produced.closed = true;
    }
}

/// The number of the attempt with this payload.
pub(crate) fn number(payload: &[u8]) -> usize {
    (name(payload) & u64::MAX >> 8) as usize
}

fn events(payload: &[u8]) -> u32 {
    (name(payload) >> 56) as u32
}

fn name(payload: &[u8]) -> u64 {
    u64::from_le_bytes(*payload.first_chunk().expect("a payload begins with its name"))
}

/// A consumer, for as long as it is there, and what it saw.
#[derive(Debug)]
pub(crate) struct Witness<M> {
    pub(crate) consumer: Option<Consumer<M>>,
    pub(crate) consumed: Consumed,
    pub(crate) ended: bool,
}

impl<M: Memory> Witness<M> {
    pub(crate) fn over(memory: M) -> Self {
        Self { consumer: Some(Consumer::over(memory)), consumed: Consumed::default(), ended: false }
    }

    pub(crate) fn take(&mut self, step: &Step) {
        match *step {
            Step::Read { records_max } => {
                let _empty = (0..records_max).all(|_| self.read());
            }
            Step::Release => self.release(),
            Step::TailLoss => self.look_behind(),
            Step::Arm { want } => {
                self.release();
                let Some(consumer) = &mut self.consumer else { return };
                let _sleep = consumer.arm(want).unwrap();
                consumer.disarm();
            }
            _ => {}
        }
    }

    fn read(&mut self) -> bool {
        let Some(consumer) = &mut self.consumer else { return false };
        let mut words = Vec::new();
        let Some(record) = consumer.read(&mut words).unwrap() else { return false };
        let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        payload.truncate(record.bytes);
        let lost = consumer.settle(&record, events(&payload)).unwrap();
        if lost > 0 {
            self.consumed.seen.push(Seen::Loss { slot: record.slot, events: lost });
        }
        self.consumed.seen.push(Seen::Record { slot: record.slot, sequence: record.sequence, payload });
        true
    }

    fn release(&mut self) {
        if let Some(consumer) = &mut self.consumer {
            let _nobody_waits = consumer.release();
        }
    }

    /// Looks for what comes behind the last record: losses, and the end.
    fn look_behind(&mut self) {
        let Some(consumer) = &mut self.consumer else { return };
        let seen = &mut self.consumed.seen;
        consumer.tail_loss(|slot, events| seen.push(Seen::Loss { slot, events })).unwrap();
        if !self.ended && consumer.ended().unwrap() {
            self.ended = true;
            seen.push(Seen::End);
        }
    }

    /// Goes on until nothing is left of a producer that does nothing more.
    pub(crate) fn drain(&mut self) {
        while self.read() {}
        self.release();
        self.look_behind();
        self.consumed.drained = self.consumer.is_some();
    }
}

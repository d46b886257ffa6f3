//! The reading end.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::layout::{AWAKE, CAPACITY_LEAST, PADDING, RECORD_ALIGN, Tag, payload_bytes_max, record_bytes};
use crate::ring::{Memory, Violation};
use crate::segment::Pair;
use crate::sync::{Ordering, fence};

/// The reading end of a ring: `Send`, but neither `Sync` nor `Clone`, since there is one consumer.
///
/// One turn: [`read`](Self::read) until it yields nothing, each record [settled](Self::settle); then
/// [`tail_loss`](Self::tail_loss); then [`release`](Self::release); then [`arm`](Self::arm), and if that allows it, sleep
/// on the doorbell, then [`disarm`](Self::disarm).
#[derive(Debug)]
pub struct Consumer<M = Pair> {
    memory: M,
    capacity: u64,
    /// Where the next record is. Ours alone: never read back from shared memory (I3).
    position: u64,
    /// What `head` says in shared memory.
    released: u64,
    /// The newest valid `tail` seen.
    tail: u64,
    /// The `lost` whose losses were told.
    lost: u64,
    /// Events settled, received or lost: on the ring, and on each slot.
    settled: u64,
    slots: Box<[u64]>,
    /// The tail stays where it was last seen.
    frozen: bool,
    poisoned: Option<Violation>,
    not_sync: PhantomData<Cell<()>>,
}

/// What stands in a record's header, checked but for its sequence (that is [`Consumer::settle`]'s).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Ring-local number of the topic.
    pub slot: u16,
    /// Which grant of the slot the producer used.
    pub generation: u16,
    /// Events attempted on this slot before this record.
    pub sequence: u64,
    /// Length of the payload in bytes.
    pub bytes: usize,
    /// Where the record starts, counted from the ring's first byte ever.
    pub position: u64,
}

/// A moment in the life of one slot, as [`Consumer::now`] saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// Records from this position on were published later.
    pub position: u64,
    /// Losses below this sequence happened earlier; those from here on happened later.
    pub sequence: u64,
}

impl<M: Memory> Consumer<M> {
    /// The consumer of the ring in `memory`, which must be fresh: all words zero, and nobody else writing its head.
    pub fn over(memory: M) -> Self {
        let capacity = memory.data().len() as u64 * RECORD_ALIGN;
        assert!(
            capacity.is_power_of_two() && capacity >= CAPACITY_LEAST,
            "I2: the capacity of a ring is a power of two, and holds a record"
        );
        memory.wake_at().store(AWAKE, Ordering::Relaxed);
        let slots = vec![0; memory.slots().len()].into_boxed_slice();
        Self {
            memory,
            capacity,
            position: 0,
            released: 0,
            tail: 0,
            lost: 0,
            settled: 0,
            slots,
            frozen: false,
            poisoned: None,
            not_sync: PhantomData,
        }
    }

    /// Copies the next record's payload into `payload` (as little-endian words, the last one filled up with zeros) and
    /// yields its header; `None` if there is none. The space is given back by [`release`](Self::release).
    ///
    /// # Errors
    /// The producer's breach of the ring's laws, now or earlier.
    pub fn read(&mut self, payload: &mut Vec<u64>) -> Result<Option<Record>, Violation> {
        if self.position == self.tail || self.poisoned.is_some() {
            self.refresh_tail()?;
            if self.position == self.tail {
                return Ok(None);
            }
        }
        match self.take(payload) {
            Ok(record) => Ok(record),
            Err(violation) => Err(self.poison(violation)),
        }
    }

    /// Takes note that a record held `events` events, and yields how many were lost on its slot since the record before.
    ///
    /// # Errors
    /// The record's sequence is behind what was already settled on its slot.
    pub fn settle(&mut self, record: &Record, events: u32) -> Result<u64, Violation> {
        let settled = &mut self.slots[usize::from(record.slot)];
        let lost = record.sequence.checked_sub(*settled);
        let total = lost.and_then(|lost| self.settled.checked_add(lost)?.checked_add(u64::from(events)));
        let (Some(lost), Some(total)) = (lost, total) else {
            let violation =
                Violation::Sequence { slot: record.slot, found: record.sequence, expected: *settled };
            return Err(self.poison(violation));
        };
        // At most `total`, since the ring has settled at least what the slot has.
        *settled = record.sequence + u64::from(events);
        self.settled = total;
        Ok(lost)
    }

    /// Tells `lost(slot, events)` for each loss behind the last record. It looks only when the ring is empty, since a
    /// later record tells of the losses before it.
    ///
    /// # Errors
    /// The producer's breach of the ring's laws, now or earlier.
    pub fn tail_loss(&mut self, mut lost: impl FnMut(u16, u64)) -> Result<(), Violation> {
        self.sound()?;
        let all = self.memory.lost().load(Ordering::Relaxed);
        if all == self.lost {
            return Ok(());
        }
        // LOSS: pairs with the producer's store of `lost`.
        fence(Ordering::Acquire);
        let slots: Vec<u64> = self.memory.slots().iter().map(|slot| slot.load(Ordering::Relaxed)).collect();
        // LOSS: pairs with the producer's stores of `slots`; the records before these losses are in `tail`.
        fence(Ordering::Acquire);
        self.refresh_tail()?;
        if self.position != self.tail {
            return Ok(());
        }
        self.lost = all;
        for (slot, found) in (0..).zip(slots) {
            let settled = self.slots[usize::from(slot)];
            if found > settled {
                let Some(total) = self.settled.checked_add(found - settled) else {
                    let violation = Violation::Sequence { slot, found, expected: settled };
                    return Err(self.poison(violation));
                };
                self.settled = total;
                self.slots[usize::from(slot)] = found;
                lost(slot, found - settled);
            }
        }
        Ok(())
    }

    /// Gives the space of all records read so far back to the producer. `true`: it sleeps and this is what it waits for, so
    /// ring its doorbell.
    #[must_use = "a producer that sleeps has to be woken"]
    pub fn release(&mut self) -> bool {
        let before = self.released;
        if before == self.position {
            return false;
        }
        self.released = self.position;
        // SPACE: pairs with the producer's load of `head`.
        self.memory.head().store(self.position, Ordering::Release);
        // ROOM: our store before our look at `room_at`. ANSWER: and before our next store of `wake_at`.
        fence(Ordering::SeqCst);
        let room_at = self.memory.room_at().load(Ordering::Relaxed);
        before < room_at && room_at <= self.position
    }

    /// Asks to be woken once `want` bytes of records are there (1: by anything; at most half of the ring). `true`: they are not
    /// there yet, so the doorbell may be slept on; it also rings for a loss and for the end. `false`: look again.
    ///
    /// Less than `want` bytes wake nobody: who asks for more than 1 must not sleep for ever.
    ///
    /// # Errors
    /// The producer's breach of the ring's laws, now or earlier.
    ///
    /// # Panics
    /// If something was read and not [released](Self::release): the producer may wait for it.
    pub fn arm(&mut self, want: u64) -> Result<bool, Violation> {
        self.sound()?;
        assert_eq!(self.position, self.released, "I2: the producer can reach what a sleeper asks for");
        let want = want.min(self.capacity / 2);
        // ANSWER: behind the fence of `release`, so that who answers knows our `head`.
        self.memory.wake_at().store(self.position + want, Ordering::Relaxed);
        // SLEEP: our store before our look at what the producer published.
        fence(Ordering::SeqCst);
        let lost = self.memory.lost().load(Ordering::Relaxed);
        let closed = self.memory.closed().load(Ordering::Relaxed);
        let fresh = self.refresh_tail();
        let sleep = self.tail - self.position < want && lost == self.lost && closed == 0;
        if !sleep || fresh.is_err() {
            self.disarm();
        }
        fresh.map(|()| sleep)
    }

    /// Takes back what [`arm`](Self::arm) asked for: the consumer is awake and looks by itself.
    pub fn disarm(&mut self) {
        self.memory.wake_at().store(AWAKE, Ordering::Relaxed);
    }

    /// Whether the producer has closed the ring, each record of it was read, and each loss [told](Self::tail_loss).
    ///
    /// # Errors
    /// The producer's breach of the ring's laws, now or earlier.
    pub fn ended(&mut self) -> Result<bool, Violation> {
        self.sound()?;
        let closed = self.memory.closed().load(Ordering::Relaxed);
        // CLOSE: pairs with the producer's store of `closed`.
        fence(Ordering::Acquire);
        if closed == 0 {
            return Ok(false);
        }
        self.refresh_tail()?;
        Ok(self.position == self.tail && self.memory.lost().load(Ordering::Relaxed) == self.lost)
    }

    /// Takes what is published by now for all that there will ever be. For a producer that is said to be gone, and may not be:
    /// what is left to read is bounded from here on, and the end is where [`read`](Self::read) yields nothing. Losses are told as
    /// the producer counts them when they are asked for: ask once, at the end.
    pub fn freeze(&mut self) {
        // What breaks here breaks again at the next read, and is reported there.
        let _ = self.refresh_tail();
        self.frozen = true;
    }

    /// Now, for one slot: tells what was published and lost on it before from what comes after. A flush that is under way may
    /// count as either.
    ///
    /// # Errors
    /// The producer's breach of the ring's laws, now or earlier.
    pub fn now(&mut self, slot: u16) -> Result<Moment, Violation> {
        let counter = self.memory.slots().get(usize::from(slot)).ok_or(Violation::Slot { slot })?;
        let attempted = counter.load(Ordering::Relaxed);
        // LOSS: pairs with the producer's stores of `slots`; the records before these losses are in `tail`.
        fence(Ordering::Acquire);
        self.refresh_tail()?;
        Ok(Moment { position: self.tail, sequence: attempted.max(self.slots[usize::from(slot)]) })
    }

    /// Events settled on one slot so far.
    pub fn settled_on(&self, slot: u16) -> u64 {
        self.slots.get(usize::from(slot)).copied().unwrap_or(0)
    }

    /// Events settled so far: received and reported lost. After the ring's end this is what the producer attempted.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Events that the producer says it attempted, as of its last flush. All of them can be settled by now; one that was
    /// killed within a flush may have counted less than it published.
    pub fn attempted(&self) -> u64 {
        let attempted = self.memory.attempted().load(Ordering::Relaxed);
        // COUNT: pairs with the producer's store of `attempted`.
        fence(Ordering::Acquire);
        attempted
    }

    /// Bytes of records that are published and not read yet, as of now.
    ///
    /// # Errors
    /// The producer's breach of the ring's laws, now or earlier.
    pub fn occupied(&mut self) -> Result<u64, Violation> {
        self.refresh_tail()?;
        Ok(self.tail - self.position)
    }

    /// Length of the data area, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    fn refresh_tail(&mut self) -> Result<(), Violation> {
        self.sound()?;
        if self.frozen {
            return Ok(());
        }
        let found = self.memory.tail().load(Ordering::Relaxed);
        // DATA: pairs with the producer's store of `tail`.
        fence(Ordering::Acquire);
        if !found.is_multiple_of(RECORD_ALIGN) || found < self.tail || found - self.position > self.capacity {
            return Err(self.poison(Violation::Tail { found, last: self.tail, read: self.position }));
        }
        self.tail = found;
        Ok(())
    }

    /// Takes the record at `position`, which is below `tail`; skips one padding record before it.
    fn take(&mut self, payload: &mut Vec<u64>) -> Result<Option<Record>, Violation> {
        let (mut tag, mut room) = self.look();
        if tag.length & PADDING != 0 {
            self.skip_padding(tag, room)?;
            if self.position == self.tail {
                return Ok(None);
            }
            (tag, room) = self.look();
        }
        let size = record_bytes(tag.length as usize);
        if size > room || tag.length as usize > payload_bytes_max(self.capacity as usize) {
            return Err(Violation::Length { position: self.position, length: tag.length, room });
        }
        if usize::from(tag.slot) >= self.slots.len() {
            return Err(Violation::Slot { slot: tag.slot });
        }
        let position = self.position;
        let start = self.index(position);
        let words = &self.memory.data()[start..start + (size / RECORD_ALIGN) as usize];
        let sequence = words[1].load(Ordering::Relaxed);
        payload.clear();
        payload.extend(words[2..].iter().map(|word| word.load(Ordering::Relaxed).to_le()));
        self.position += size;
        Ok(Some(Record {
            slot: tag.slot,
            generation: tag.generation,
            sequence,
            bytes: tag.length as usize,
            position,
        }))
    }

    /// The first word of the record at `position`, read once, and the bytes that it may claim.
    fn look(&self) -> (Tag, u64) {
        let to_end = self.capacity - (self.position & (self.capacity - 1));
        let word = self.memory.data()[self.index(self.position)].load(Ordering::Relaxed);
        (Tag::from_word(word), to_end.min(self.tail - self.position))
    }

    /// Padding is legal only up to the end of the ring, and never fills the whole of it: a second one can't follow.
    fn skip_padding(&mut self, tag: Tag, room: u64) -> Result<(), Violation> {
        let to_end = self.capacity - (self.position & (self.capacity - 1));
        let claimed = u64::from(tag.length & !PADDING) + RECORD_ALIGN;
        let legal = claimed == to_end && to_end == room && to_end < self.capacity;
        if !legal || tag.slot != 0 || tag.generation != 0 {
            return Err(Violation::Padding { position: self.position });
        }
        self.position += to_end;
        Ok(())
    }

    fn index(&self, position: u64) -> usize {
        ((position & (self.capacity - 1)) / RECORD_ALIGN) as usize
    }

    fn sound(&self) -> Result<(), Violation> {
        self.poisoned.map_or(Ok(()), Err)
    }

    fn poison(&mut self, violation: Violation) -> Violation {
        self.poisoned = Some(violation);
        violation
    }
}

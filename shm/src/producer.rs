//! The writing end.

use core::cell::Cell;
use core::marker::PhantomData;

use crate::layout::{AWAKE, CAPACITY_LEAST, PADDING, RECORD_ALIGN, Tag, payload_bytes_max, record_bytes};
use crate::ring::{Memory, Violation};
use crate::segment::Pair;
use crate::sync::{Ordering, fence};

/// The writing end of a ring: `Send`, but neither `Sync` nor `Clone`, since there is one producer.
///
/// [`push`](Self::push) writes records that nobody sees yet; [`flush`](Self::flush) publishes all of them at once. So a
/// burst costs one publication, and at most one wake-up.
#[derive(Debug)]
pub struct Producer<M = Pair> {
    memory: M,
    capacity: u64,
    /// Where the next record goes. Ours alone: never read back from shared memory (I3).
    tail: u64,
    /// What `tail` says in shared memory.
    published: u64,
    /// The newest valid `head` seen. The real one is at or ahead of it.
    head: u64,
    /// Events attempted on the ring, and what `attempted` says in shared memory.
    attempted: u64,
    attempted_published: u64,
    /// Events lost on the ring.
    lost: u64,
    /// Bytes that only urgent records may use.
    reserve: u64,
    slots: Box<[Slot]>,
    /// Slots with a loss that is not published yet.
    lossy: Vec<u16>,
    /// The `wake_at` that was last answered with a wake-up.
    answered: u64,
    poisoned: Option<Violation>,
    not_sync: PhantomData<Cell<()>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    attempted: u64,
    lossy: bool,
}

/// A moment between two pushes, to come back to: see [`Producer::rewind`].
#[derive(Debug, Clone, Copy)]
pub struct Savepoint {
    tail: u64,
    attempted: u64,
    lost: u64,
    slot: u16,
    slot_attempted: u64,
}

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// There is no room, with the padding before it and the reserve, until the consumer gives space back. The record's events are
    /// counted, and told to the consumer, as lost.
    #[error("the ring is full")]
    Full,
    /// The caller's record is above an eighth of the ring. It is not counted: it was never attempted.
    #[error("a record of {bytes} bytes is above this ring's limit of {limit}")]
    TooLarge {
        /// Payload bytes of the record.
        bytes: usize,
        /// Payload bytes that the ring takes at most.
        limit: usize,
    },
    /// The caller's slot is not below the number of slots of a ring.
    #[error("a ring has {limit} slots, none with the number {slot}")]
    NoSuchSlot {
        /// What was asked for.
        slot: u16,
        /// Slots of this ring.
        limit: usize,
    },
    /// The consumer broke the ring's laws; the ring takes nothing more.
    #[error("the consumer broke the ring: {0}")]
    Poisoned(#[from] Violation),
}

impl<M: Memory> Producer<M> {
    /// The producer of the ring in `memory`, which must be fresh: all words zero, and nobody else writing its tail.
    pub fn over(memory: M) -> Self {
        let capacity = memory.data().len() as u64 * RECORD_ALIGN;
        assert!(
            capacity.is_power_of_two() && capacity >= CAPACITY_LEAST,
            "I2: the capacity of a ring is a power of two, and holds a record"
        );
        memory.room_at().store(AWAKE, Ordering::Relaxed);
        let slots = vec![Slot::default(); memory.slots().len()].into_boxed_slice();
        Self {
            memory,
            capacity,
            tail: 0,
            published: 0,
            head: 0,
            attempted: 0,
            attempted_published: 0,
            lost: 0,
            reserve: 0,
            slots,
            lossy: Vec::new(),
            answered: AWAKE,
            poisoned: None,
            not_sync: PhantomData,
        }
    }

    /// Keeps `bytes` of the ring for [urgent](Self::push_urgent) records: any other finds the ring full while it would leave less.
    /// None at first.
    ///
    /// # Panics
    /// Above a quarter of the ring: a consumer that asks to be woken for half of it has to be reached by ordinary records.
    pub fn set_reserve(&mut self, bytes: u64) {
        assert!(bytes <= self.capacity / 4, "ordinary records fill more than half of the ring");
        self.reserve = bytes;
    }

    /// Writes one record of `events` events for `slot`, its payload being the `parts` one after the other. The consumer
    /// sees it after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`PushError::Full`] and [`PushError::Poisoned`] count the events as attempted; the other errors change nothing.
    ///
    /// # Panics
    /// If a part other than the last is not a multiple of 8 bytes long.
    pub fn push(
        &mut self,
        slot: u16,
        generation: u16,
        events: u32,
        parts: &[&[u8]],
    ) -> Result<(), PushError> {
        self.push_leaving(self.reserve, slot, generation, events, parts)
    }

    /// As [`push`](Self::push), for a record that may use the [reserve](Self::set_reserve), too.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    ///
    /// # Panics
    /// As [`push`](Self::push).
    pub fn push_urgent(
        &mut self,
        slot: u16,
        generation: u16,
        events: u32,
        parts: &[&[u8]],
    ) -> Result<(), PushError> {
        self.push_leaving(0, slot, generation, events, parts)
    }

    fn push_leaving(
        &mut self,
        reserve: u64,
        slot: u16,
        generation: u16,
        events: u32,
        parts: &[&[u8]],
    ) -> Result<(), PushError> {
        let whole =
            parts.split_last().is_none_or(|(_, before)| before.iter().all(|part| part.len() % 8 == 0));
        assert!(whole, "a part before the last is a multiple of 8 bytes");
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        let limit = self.payload_bytes_max();
        let length = match u32::try_from(bytes) {
            Ok(length) if bytes <= limit => length,
            _ => return Err(PushError::TooLarge { bytes, limit }),
        };
        let sequence = self.attempt(slot, events)?;

        let size = record_bytes(bytes);
        let padding = self.padding_before(size);
        if let Err(refused) = self.claim(padding + size + reserve) {
            self.note_loss(slot, events);
            return Err(refused);
        }
        if padding > 0 {
            self.write_padding(padding);
        }
        self.write(Tag { length, slot, generation }, sequence, parts);
        self.tail += size;
        Ok(())
    }

    /// Where the ring and one of its slots stand now, to [come back](Self::rewind) to.
    ///
    /// # Panics
    /// If the ring has no such slot.
    pub fn savepoint(&self, slot: u16) -> Savepoint {
        let slot_attempted = self.slots[usize::from(slot)].attempted;
        Savepoint { tail: self.tail, attempted: self.attempted, lost: self.lost, slot, slot_attempted }
    }

    /// Takes back what was pushed since, on the slot that was named then: it was never attempted, and nothing of it stays in memory.
    ///
    /// # Panics
    /// If something was flushed, lost or pushed on another slot since: what the consumer may know can't be taken back.
    pub fn rewind(&mut self, savepoint: Savepoint) {
        let Savepoint { tail, attempted, lost, slot, slot_attempted } = savepoint;
        let counts = &mut self.slots[usize::from(slot)];
        let unseen = tail >= self.published && lost == self.lost;
        let alone = self.attempted - attempted == counts.attempted - slot_attempted;
        assert!(unseen && alone, "I2: only what nobody knows of is taken back");
        counts.attempted = slot_attempted;
        self.attempted = attempted;
        while self.tail > tail {
            self.tail -= RECORD_ALIGN;
            self.memory.data()[self.index(self.tail)].store(0, Ordering::Relaxed);
        }
    }

    /// Counts events of `slot` that no record will bring, a record above the limit say, as a [`push`](Self::push) into a full
    /// ring does: the consumer is told of them as lost after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`PushError::NoSuchSlot`] changes nothing.
    pub fn lose(&mut self, slot: u16, events: u32) -> Result<(), PushError> {
        self.attempt(slot, events)?;
        self.note_loss(slot, events);
        // No record has to cross what a sleeper waits for before this happens again.
        self.answered = AWAKE;
        Ok(())
    }

    /// Publishes what was pushed, and what was lost, since the last flush. `true`: the consumer sleeps and this is what it
    /// waits for, so ring its doorbell.
    #[must_use = "a consumer that sleeps has to be woken"]
    pub fn flush(&mut self) -> bool {
        if self.tail == self.published && self.attempted == self.attempted_published {
            return false;
        }
        let before = self.published;
        let lost = !self.lossy.is_empty();
        self.publish();
        // SLEEP: our stores before our look at `wake_at`.
        fence(Ordering::SeqCst);
        self.must_wake(before, lost)
    }

    /// Says that nothing more will come, after what was pushed. `true`: the consumer sleeps, ring its doorbell.
    #[must_use = "a consumer that sleeps has to be woken"]
    pub fn close(&mut self) -> bool {
        self.publish();
        // CLOSE: pairs with the consumer's load of `closed`.
        self.memory.closed().store(1, Ordering::Release);
        // SLEEP: our stores before our look at `wake_at`.
        fence(Ordering::SeqCst);
        self.memory.wake_at().load(Ordering::Relaxed) != AWAKE
    }

    /// Whether `room` bytes (at most: the whole ring) are free. If those that [`room_for`](Self::room_for) a record says are, a
    /// push of it finds space; less the reserve, an urgent one.
    ///
    /// # Errors
    /// The consumer's breach of the ring's laws, now or earlier.
    pub fn has_room(&mut self, room: u64) -> Result<bool, Violation> {
        self.sound()?;
        let end = self.tail + room.min(self.capacity);
        if end - self.head > self.capacity {
            self.refresh_head()?;
        }
        Ok(end - self.head <= self.capacity)
    }

    /// Asks to be woken once `room` bytes are free ([`room_for`](Self::room_for) a record, or more to be woken less often; at
    /// most the whole ring). `true`: they are not yet, so the doorbell may be slept on, for as long as the caller can bear
    /// with a consumer that never gives space back. `false`: they are.
    ///
    /// # Errors
    /// The consumer's breach of the ring's laws, now or earlier.
    ///
    /// # Panics
    /// If something was pushed and not [flushed](Self::flush): the consumer would sleep over it, and we over that.
    pub fn arm(&mut self, room: u64) -> Result<bool, Violation> {
        self.sound()?;
        assert_eq!(self.tail, self.published, "I2: the consumer can reach the room that a sleeper asks for");
        let room_at = (self.tail + room.min(self.capacity)).saturating_sub(self.capacity);
        self.memory.room_at().store(room_at, Ordering::Relaxed);
        // ROOM: our store before our look at the space that the consumer gave back.
        fence(Ordering::SeqCst);
        let sleep = self.refresh_head().map(|()| self.head < room_at);
        if sleep != Ok(true) {
            self.disarm();
        }
        sleep
    }

    /// Takes back what [`arm`](Self::arm) asked for: the producer is awake and looks by itself.
    pub fn disarm(&mut self) {
        self.memory.room_at().store(AWAKE, Ordering::Relaxed);
    }

    /// Bytes that a record with this payload needs where the next one goes: its header, its payload, the padding before it, and the
    /// reserve, unless it is urgent. A payload above the limit needs what one at the limit does: [`push`](Self::push) is who refuses it.
    pub fn room_for(&self, payload_bytes: usize) -> u64 {
        let size = record_bytes(payload_bytes.min(self.payload_bytes_max()));
        self.padding_before(size) + size + self.reserve
    }

    /// Events attempted on this ring: taken and lost.
    pub fn attempted(&self) -> u64 {
        self.attempted
    }

    /// Bytes kept for urgent records.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Where the next record goes: bytes pushed since the ring was made, headers and padding included.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Bytes that the consumer has not given back yet, as of now.
    ///
    /// # Errors
    /// The consumer's breach of the ring's laws, now or earlier.
    pub fn occupied(&mut self) -> Result<u64, Violation> {
        self.refresh_head()?;
        Ok(self.tail - self.head)
    }

    /// Length of the data area, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// The largest payload that this ring takes, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        payload_bytes_max(self.capacity as usize)
    }

    /// Bytes to skip so that `size` bytes don't cross the end of the ring (I4).
    fn padding_before(&self, size: u64) -> u64 {
        let to_end = self.capacity - (self.tail & (self.capacity - 1));
        if size > to_end { to_end } else { 0 }
    }

    /// Makes sure that `size` bytes are free at the tail.
    fn claim(&mut self, size: u64) -> Result<(), PushError> {
        if self.has_room(size)? { Ok(()) } else { Err(PushError::Full) }
    }

    fn refresh_head(&mut self) -> Result<(), Violation> {
        self.sound()?;
        let found = self.memory.head().load(Ordering::Relaxed);
        // SPACE: pairs with the consumer's store of `head`.
        fence(Ordering::Acquire);
        if !found.is_multiple_of(RECORD_ALIGN) || found < self.head || found > self.published {
            let violation = Violation::Head { found, last: self.head, published: self.published };
            self.poisoned = Some(violation);
            return Err(violation);
        }
        self.head = found;
        Ok(())
    }

    fn sound(&self) -> Result<(), Violation> {
        self.poisoned.map_or(Ok(()), Err)
    }

    /// Counts events that are tried; the number of the first on its slot.
    fn attempt(&mut self, slot: u16, events: u32) -> Result<u64, PushError> {
        let Some(counts) = self.slots.get_mut(usize::from(slot)) else {
            return Err(PushError::NoSuchSlot { slot, limit: self.slots.len() });
        };
        let sequence = counts.attempted;
        counts.attempted += u64::from(events);
        self.attempted += u64::from(events);
        Ok(sequence)
    }

    fn note_loss(&mut self, slot: u16, events: u32) {
        self.lost += u64::from(events);
        let counts = &mut self.slots[usize::from(slot)];
        if !counts.lossy {
            counts.lossy = true;
            self.lossy.push(slot);
        }
    }

    /// Tells the consumer what happened since the last time. The order of the stores is the order of the table in
    /// `docs/memory.md`.
    fn publish(&mut self) {
        // DATA: pairs with the consumer's load of `tail`.
        self.memory.tail().store(self.tail, Ordering::Release);
        self.published = self.tail;
        if !self.lossy.is_empty() {
            for slot in self.lossy.drain(..) {
                let counts = &mut self.slots[usize::from(slot)];
                counts.lossy = false;
                // LOSS: pairs with the consumer's load of `slots`. After `tail`.
                self.memory.slots()[usize::from(slot)].store(counts.attempted, Ordering::Release);
            }
            // LOSS: pairs with the consumer's load of `lost`. After `slots`.
            self.memory.lost().store(self.lost, Ordering::Release);
        }
        // COUNT: pairs with the consumer's load of `attempted`. After all that it counts.
        self.memory.attempted().store(self.attempted, Ordering::Release);
        self.attempted_published = self.attempted;
    }

    /// Whether the consumer sleeps for something that this flush published: a record that crosses the position that it
    /// asked for, or a loss. A loss for want of space wakes it once for each position that it sleeps for. That is enough: from then
    /// on we know the space that it gave back, and before we run out of it a record crosses that position. Any other wakes it each
    /// time.
    fn must_wake(&mut self, before: u64, lost: bool) -> bool {
        let wake_at = self.memory.wake_at().load(Ordering::Relaxed);
        let crossed = before < wake_at && wake_at <= self.published;
        let unanswered = lost && wake_at != AWAKE && wake_at != self.answered;
        if unanswered {
            // ANSWER: pairs with the consumer's fence before its store of `wake_at`.
            fence(Ordering::Acquire);
            self.answered = wake_at;
        }
        crossed || unanswered
    }

    fn index(&self, position: u64) -> usize {
        ((position & (self.capacity - 1)) / RECORD_ALIGN) as usize
    }

    fn write_padding(&mut self, padding: u64) {
        let start = self.index(self.tail);
        let words = &self.memory.data()[start..];
        let following =
            u32::try_from(padding - RECORD_ALIGN).expect("a record is at most an eighth of 1 GiB");
        let tag = Tag { length: PADDING | following, slot: 0, generation: 0 };
        words[0].store(tag.to_word(), Ordering::Relaxed);
        for word in &words[1..] {
            word.store(0, Ordering::Relaxed);
        }
        self.tail += padding;
    }

    fn write(&self, tag: Tag, sequence: u64, parts: &[&[u8]]) {
        let start = self.index(self.tail);
        let size = record_bytes(tag.length as usize);
        let words = &self.memory.data()[start..start + (size / RECORD_ALIGN) as usize];
        words[0].store(tag.to_word(), Ordering::Relaxed);
        words[1].store(sequence, Ordering::Relaxed);
        let mut rest = &words[2..];
        for part in parts {
            let (chunks, tail) = part.as_chunks::<8>();
            let (whole, after) = rest.split_at(chunks.len());
            for (word, chunk) in whole.iter().zip(chunks) {
                word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
            }
            rest = after;
            if !tail.is_empty() {
                let mut last = [0; 8];
                last[..tail.len()].copy_from_slice(tail);
                rest[0].store(u64::from_le_bytes(last), Ordering::Relaxed);
            }
        }
    }
}

//! What the fuzz targets have in common: arbitrary bytes as steps, and a ring whose words change between any two looks at
//! them, as memory in hostile hands does.
//!
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz TARGET`, with TARGET one of `consumer`, `producer`, `batch`, `frames`,
//! `control`, `policy`, `topics`.
//! The `seed-*` files of the corpus are made from valid input; what a run adds to them is not kept. `frames` is run with
//! `-malloc_limit_mb=1` behind a `--`: a frame of a few bytes must not ask for more.

#[path = "../../../shm/tests/support/heap.rs"]
mod heap;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use heap::Heap;
use shm::Memory;

/// Bytes of the data area: small, so that it wraps often.
pub const CAPACITY: u64 = 1 << 10;
/// Slots of the ring.
pub const SLOTS: u16 = 4;

/// Bytes to decide by, until there are no more.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    /// The next eight bytes.
    pub fn word(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }
}

/// A word of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Tail,
    Attempted,
    Lost,
    Closed,
    RoomAt,
    Slot(u16),
    Data(u64),
    Head,
    WakeAt,
}

/// The words of a ring. A clone is the same memory.
#[derive(Debug, Clone)]
pub struct Hostile {
    memory: Heap,
    /// One for each look at a word that is still to come, before which it is made.
    writes: Rc<RefCell<VecDeque<Option<(Word, u64)>>>>,
    /// Each tail and head that was ever set from outside.
    tails: Rc<RefCell<Vec<u64>>>,
    heads: Rc<RefCell<Vec<u64>>>,
}

impl Default for Hostile {
    fn default() -> Self {
        Self {
            memory: Heap::new(CAPACITY as usize, SLOTS.into()),
            writes: Rc::default(),
            tails: Rc::new(RefCell::new(vec![0])),
            heads: Rc::new(RefCell::new(vec![0])),
        }
    }
}

impl Hostile {
    /// Sets a word now.
    pub fn set(&self, word: Word, value: u64) {
        match word {
            Word::Tail => self.tails.borrow_mut().push(value),
            Word::Head => self.heads.borrow_mut().push(value),
            _ => {}
        }
        self.at(word).store(value, Ordering::Relaxed);
    }

    /// Sets a word before the look at any word that comes after `looks` others.
    pub fn set_later(&self, looks: u8, word: Word, value: u64) {
        let mut writes = self.writes.borrow_mut();
        let place = usize::from(looks % 16);
        while writes.len() <= place {
            writes.push_back(None);
        }
        writes[place] = Some((word, value));
    }

    /// What a word holds now.
    pub fn value(&self, word: Word) -> u64 {
        self.at(word).load(Ordering::Relaxed)
    }

    /// Whether no word changes until it is set.
    pub fn is_still(&self) -> bool {
        self.writes.borrow().iter().all(Option::is_none)
    }

    /// Whether what lies in `start..end` was published: a tail said so that is no further ahead than the ring is long.
    pub fn was_published(&self, start: u64, end: u64) -> bool {
        let tails = self.tails.borrow();
        tails.iter().any(|&tail| tail % 8 == 0 && end <= tail && tail <= start + CAPACITY)
    }

    /// Whether a producer may write up to `tail`: a head said so that it could believe.
    pub fn was_free(&self, tail: u64) -> bool {
        let heads = self.heads.borrow();
        heads.iter().any(|&head| head % 8 == 0 && head <= tail && tail - head <= CAPACITY)
    }

    fn at(&self, word: Word) -> &AtomicU64 {
        match word {
            Word::Tail => self.memory.tail(),
            Word::Attempted => self.memory.attempted(),
            Word::Lost => self.memory.lost(),
            Word::Closed => self.memory.closed(),
            Word::RoomAt => self.memory.room_at(),
            Word::Slot(slot) => &self.memory.slots()[usize::from(slot % SLOTS)],
            Word::Data(position) => &self.memory.data()[(position % CAPACITY / 8) as usize],
            Word::Head => self.memory.head(),
            Word::WakeAt => self.memory.wake_at(),
        }
    }

    fn look(&self) -> &Heap {
        let write = self.writes.borrow_mut().pop_front().flatten();
        if let Some((word, value)) = write {
            self.set(word, value);
        }
        &self.memory
    }
}

impl Memory for Hostile {
    fn tail(&self) -> &AtomicU64 {
        self.look().tail()
    }
    fn attempted(&self) -> &AtomicU64 {
        self.look().attempted()
    }
    fn lost(&self) -> &AtomicU64 {
        self.look().lost()
    }
    fn closed(&self) -> &AtomicU64 {
        self.look().closed()
    }
    fn room_at(&self) -> &AtomicU64 {
        self.look().room_at()
    }
    fn slots(&self) -> &[AtomicU64] {
        self.look().slots()
    }
    fn data(&self) -> &[AtomicU64] {
        self.look().data()
    }
    fn head(&self) -> &AtomicU64 {
        self.look().head()
    }
    fn wake_at(&self) -> &AtomicU64 {
        self.look().wake_at()
    }
}

//! What the shipped sources see in place of `core::sync::atomic`.
//!
//! Two kinds of word hide behind the one type that they know. **Shared** words are loom's atomics: loom explores what each
//! load may see. **Data** words are held to more than the shipped code needs: between honest ends no load of one may run
//! beside a store to it, so they are watched as if they were plain memory. That is what makes a missing `SPACE` hand-over
//! visible, which would otherwise need a load that sees a store of the future.
//!
//! Whoever writes has a [`Life`]: a process that is killed between two of its stores does not do the second.

pub use core::sync::atomic::Ordering;

pub use loom::sync::atomic::fence;

use std::sync::Arc;

use core::sync::atomic::AtomicUsize;

use loom::cell::UnsafeCell;
use send_wrapper::SendWrapper;

/// How many stores a process does before it is killed; those that follow are not done.
#[derive(Debug, Clone)]
pub struct Life(Arc<AtomicUsize>);

impl Life {
    /// Ends after this many stores.
    #[must_use]
    pub fn of(stores: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(stores)))
    }

    /// Outlives its model.
    #[must_use]
    pub fn long() -> Self {
        Self::of(usize::MAX)
    }

    /// Whether there is life for one more store. One thread asks: the writer.
    fn goes_on(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }
}

/// A word of a model's ring.
#[derive(Debug)]
pub struct AtomicU64 {
    word: Word,
    writer: Life,
}

#[derive(Debug)]
enum Word {
    Shared(loom::sync::atomic::AtomicU64),
    Data { value: core::sync::atomic::AtomicU64, watched: SendWrapper<UnsafeCell<()>> },
}

impl AtomicU64 {
    pub(crate) fn shared(writer: &Life) -> Self {
        Self { word: Word::Shared(loom::sync::atomic::AtomicU64::new(0)), writer: writer.clone() }
    }

    pub(crate) fn data(writer: &Life) -> Self {
        let watched = SendWrapper::new(UnsafeCell::new(()));
        let word = Word::Data { value: core::sync::atomic::AtomicU64::new(0), watched };
        Self { word, writer: writer.clone() }
    }

    /// As the atomic's.
    #[track_caller]
    pub fn load(&self, order: Ordering) -> u64 {
        match &self.word {
            Word::Shared(word) => word.load(order),
            Word::Data { value, watched } => watched.with(|_| value.load(order)),
        }
    }

    /// As the atomic's, if its writer lives.
    #[track_caller]
    pub fn store(&self, new: u64, order: Ordering) {
        if !self.writer.goes_on() {
            return;
        }
        match &self.word {
            Word::Shared(word) => word.store(new, order),
            Word::Data { value, watched } => watched.with_mut(|_| value.store(new, order)),
        }
    }
}

impl Default for AtomicU64 {
    fn default() -> Self {
        Self::shared(&Life::long())
    }
}

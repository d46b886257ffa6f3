//! What the shipped sources see in place of `core::sync::atomic`.
//!
//! Two kinds of word hide behind the one type that they know. **Shared** words are loom's atomics: loom explores what each
//! load may see. **Data** words are held to more than the shipped code needs: between honest ends no load of one may run
//! beside a store to it, so they are watched as if they were plain memory. That is what makes a missing `SPACE` hand-over
//! visible, which would otherwise need a load that sees a store of the future.

pub use core::sync::atomic::Ordering;

pub use loom::sync::atomic::fence;

use loom::cell::UnsafeCell;
use send_wrapper::SendWrapper;

/// A word of a model's ring.
#[derive(Debug)]
pub struct AtomicU64(Word);

#[derive(Debug)]
enum Word {
    Shared(loom::sync::atomic::AtomicU64),
    Data { value: core::sync::atomic::AtomicU64, watched: SendWrapper<UnsafeCell<()>> },
}

impl AtomicU64 {
    pub(crate) fn shared() -> Self {
        Self(Word::Shared(loom::sync::atomic::AtomicU64::new(0)))
    }

    pub(crate) fn data() -> Self {
        let watched = SendWrapper::new(UnsafeCell::new(()));
        Self(Word::Data { value: core::sync::atomic::AtomicU64::new(0), watched })
    }

    /// As the atomic's.
    #[track_caller]
    pub fn load(&self, order: Ordering) -> u64 {
        match &self.0 {
            Word::Shared(word) => word.load(order),
            Word::Data { value, watched } => watched.with(|_| value.load(order)),
        }
    }

    /// As the atomic's.
    #[track_caller]
    pub fn store(&self, new: u64, order: Ordering) {
        match &self.0 {
            Word::Shared(word) => word.store(new, order),
            Word::Data { value, watched } => watched.with_mut(|_| value.store(new, order)),
        }
    }
}

impl Default for AtomicU64 {
    fn default() -> Self {
        Self::shared()
    }
}

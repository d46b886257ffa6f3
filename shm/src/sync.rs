//! The only door to atomics: the ring names `crate::sync` and nothing else, so that a model checker can
//! put its own types behind the same source.

pub(crate) use core::sync::atomic::{AtomicU64, Ordering, fence};

//! The memory of a model: the words of a ring of 256 bytes and two slots, shared by its two ends.

use std::sync::Arc;

use crate::ring::Memory;
use crate::sync::AtomicU64;

/// Length of a model's data area.
pub const CAPACITY_BYTES: usize = 256;
const SLOTS: usize = 2;

/// The words of one ring.
#[derive(Debug, Clone)]
pub struct Pair(Arc<Words>);

#[derive(Debug)]
struct Words {
    tail: AtomicU64,
    attempted: AtomicU64,
    lost: AtomicU64,
    closed: AtomicU64,
    room_at: AtomicU64,
    slots: [AtomicU64; SLOTS],
    data: Vec<AtomicU64>,
    head: AtomicU64,
    wake_at: AtomicU64,
}

impl Pair {
    pub(crate) fn fresh() -> Self {
        let data = (0..CAPACITY_BYTES / size_of::<u64>()).map(|_| AtomicU64::data()).collect();
        Self(Arc::new(Words {
            tail: AtomicU64::shared(),
            attempted: AtomicU64::shared(),
            lost: AtomicU64::shared(),
            closed: AtomicU64::shared(),
            room_at: AtomicU64::shared(),
            slots: [AtomicU64::shared(), AtomicU64::shared()],
            data,
            head: AtomicU64::shared(),
            wake_at: AtomicU64::shared(),
        }))
    }
}

impl Memory for Pair {
    fn tail(&self) -> &AtomicU64 {
        &self.0.tail
    }
    fn attempted(&self) -> &AtomicU64 {
        &self.0.attempted
    }
    fn lost(&self) -> &AtomicU64 {
        &self.0.lost
    }
    fn closed(&self) -> &AtomicU64 {
        &self.0.closed
    }
    fn room_at(&self) -> &AtomicU64 {
        &self.0.room_at
    }
    fn slots(&self) -> &[AtomicU64] {
        &self.0.slots
    }
    fn data(&self) -> &[AtomicU64] {
        &self.0.data
    }
    fn head(&self) -> &AtomicU64 {
        &self.0.head
    }
    fn wake_at(&self) -> &AtomicU64 {
        &self.0.wake_at
    }
}

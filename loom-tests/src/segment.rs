//! The memory of a model: the words of a ring of 256 bytes and two slots, shared by its two ends.

use std::sync::Arc;

use crate::ring::Memory;
use crate::sync::{AtomicU64, Life};

/// Length of a model's data area.
pub const CAPACITY_BYTES: usize = 256;
/// A record with one word of payload, as models push them.
pub const RECORD_BYTES: usize = 24;
/// How many of them a fresh ring takes. The next one needs padding before it.
pub const RECORDS_PER_LAP: u64 = (CAPACITY_BYTES / RECORD_BYTES) as u64;
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
    /// A ring whose producer ends with this life.
    pub(crate) fn fresh(producer: &Life) -> Self {
        let consumer = &Life::long();
        Self(Arc::new(Words {
            tail: AtomicU64::shared(producer),
            attempted: AtomicU64::shared(producer),
            lost: AtomicU64::shared(producer),
            closed: AtomicU64::shared(producer),
            room_at: AtomicU64::shared(producer),
            slots: [AtomicU64::shared(producer), AtomicU64::shared(producer)],
            data: (0..CAPACITY_BYTES / size_of::<u64>()).map(|_| AtomicU64::data(producer)).collect(),
            head: AtomicU64::shared(consumer),
            wake_at: AtomicU64::shared(consumer),
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

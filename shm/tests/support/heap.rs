//! A ring in plain memory of this process: as small as a test wants it, and in its hands.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use shm::Memory;

/// The words of one ring. A clone is the same memory.
#[derive(Debug, Clone)]
pub(crate) struct Heap(Arc<Words>);

#[derive(Debug)]
struct Words {
    tail: AtomicU64,
    attempted: AtomicU64,
    lost: AtomicU64,
    closed: AtomicU64,
    room_at: AtomicU64,
    slots: Box<[AtomicU64]>,
    data: Box<[AtomicU64]>,
    head: AtomicU64,
    wake_at: AtomicU64,
}

impl Heap {
    pub(crate) fn new(capacity: usize, slots: usize) -> Self {
        let zeros = |words| (0..words).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Words {
            tail: AtomicU64::new(0),
            attempted: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            room_at: AtomicU64::new(0),
            slots: zeros(slots),
            data: zeros(capacity / size_of::<u64>()),
            head: AtomicU64::new(0),
            wake_at: AtomicU64::new(0),
        }))
    }
}

impl Memory for Heap {
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

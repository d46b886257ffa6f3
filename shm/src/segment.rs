//! Segments: memory with one writer, and the kernel as the witness.
//!
//! Two acts with different failures. **Creating** is the writer's: a memfd, sized, allocated, mapped writable, formatted
//! (magic last), and then sealed, after which nobody can map it writable any more, write to it, punch holes into it or
//! change its size; our own mapping stays as it is. **Attaching** is the reader's: it believes nothing that a message says,
//! but asks the kernel for seals, size and kind, has the whole length allocated (a sealed memfd may still be sparse, and a
//! hole that can't be filled is a SIGBUS on the first touch), and maps it read-only.
//!
//! Mappings are not inherited by a forked child.

use core::ffi::c_void;
use core::mem::{offset_of, size_of};
use core::ptr::NonNull;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::consumer::Consumer;
use crate::layout::{
    CAPACITY_MAX, CAPACITY_MIN, CONSUMER_SEGMENT_BYTES, ConsumerWords, MAGIC_CONSUMER, MAGIC_PRODUCER,
    PRODUCER_HEADER_BYTES, ProducerWords,
};
use crate::producer::Producer;
use crate::ring::Memory;
use crate::sync::{AtomicU64, Ordering};

const _: () = {
    assert!(offset_of!(ProducerWords, magic) == 0);
    assert!(offset_of!(ProducerWords, published.tail) == 128);
    assert!(offset_of!(ProducerWords, published.attempted) == 136);
    assert!(offset_of!(ProducerWords, lost) == 256);
    assert!(offset_of!(ProducerWords, closed) == 384);
    assert!(offset_of!(ProducerWords, slots) == 512);
    assert!(size_of::<ProducerWords>() == PRODUCER_HEADER_BYTES);
    assert!(offset_of!(ConsumerWords, magic) == 0);
    assert!(offset_of!(ConsumerWords, head) == 128);
    assert!(offset_of!(ConsumerWords, wake_at) == 256);
    assert!(size_of::<ConsumerWords>() <= CONSUMER_SEGMENT_BYTES);
};

/// What keeps a segment's memory and its writer as they are.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// `f_type` of the file system that memfds live on (`TMPFS_MAGIC`); huge pages have another.
const TMPFS: u64 = 0x0102_1994;

/// Why a segment can't be made, or why one that was handed over is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The caller's capacity is not a power of two within the limits.
    #[error("a ring holds a power of two of bytes from {CAPACITY_MIN} to {CAPACITY_MAX}, not {0}")]
    Capacity(usize),
    /// This host can't make or map the segment.
    #[error("this host can't {step} a segment: {source}")]
    Host {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The peer's descriptor is not memory made for this: no memfd, or one on huge pages.
    #[error("the peer's descriptor is not a memfd on ordinary pages")]
    NotMemory,
    /// The peer left a way to change the segment.
    #[error("the peer's segment lacks seals: it has {found:#x} where {SEALS:?} are needed")]
    NotSealed {
        /// The seals that it has, as `F_GET_SEALS` gives them.
        found: u32,
    },
    /// The peer's segment is not as large as agreed.
    #[error("the peer's segment has {found} bytes where {expected} were agreed")]
    Size {
        /// What `fstat` says.
        found: u64,
        /// What was agreed.
        expected: usize,
    },
    /// The peer's segment has holes, and there is no memory to fill them.
    #[error("the peer's segment can't be filled with memory: {0}")]
    Sparse(io::Error),
    /// The peer's segment is not formatted as this version of the layout has it.
    #[error("the peer's segment starts with {found:#x} where {expected:#x} is needed")]
    Magic {
        /// The first word.
        found: u64,
        /// What it should be.
        expected: u64,
    },
}

/// A segment that the producer writes: `tail`, losses and the records.
#[derive(Debug)]
pub struct ProducerSegment {
    descriptor: OwnedFd,
    mapping: Mapping,
}

impl ProducerSegment {
    /// Makes a segment with a data area of `capacity` bytes.
    ///
    /// # Errors
    /// [`SegmentError::Capacity`], or [`SegmentError::Host`] where memory or descriptors are short.
    pub fn create(capacity: usize) -> Result<Self, SegmentError> {
        let (descriptor, mapping) = create(c"eventbus-p", producer_bytes(capacity)?, MAGIC_PRODUCER)?;
        Ok(Self { descriptor, mapping })
    }

    /// What to hand to the consumer. The segment itself needs it no longer.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A segment that the consumer writes: `head` and `wake_at`.
#[derive(Debug)]
pub struct ConsumerSegment {
    descriptor: OwnedFd,
    mapping: Mapping,
}

impl ConsumerSegment {
    /// Makes a segment.
    ///
    /// # Errors
    /// [`SegmentError::Host`] where memory or descriptors are short.
    pub fn create() -> Result<Self, SegmentError> {
        let (descriptor, mapping) = create(c"eventbus-c", CONSUMER_SEGMENT_BYTES, MAGIC_CONSUMER)?;
        Ok(Self { descriptor, mapping })
    }

    /// What to hand to the producer. The segment itself needs it no longer.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The producer's segment as the consumer sees it: read-only.
#[derive(Debug)]
pub struct ProducerView(Mapping);

impl ProducerView {
    /// Checks and maps a segment that the producer made with this `capacity`.
    ///
    /// # Errors
    /// Each [`SegmentError`]; the descriptor is closed.
    pub fn attach(descriptor: OwnedFd, capacity: usize) -> Result<Self, SegmentError> {
        attach(descriptor.as_fd(), producer_bytes(capacity)?, MAGIC_PRODUCER).map(Self)
    }
}

/// The consumer's segment as the producer sees it: read-only.
#[derive(Debug)]
pub struct ConsumerView(Mapping);

impl ConsumerView {
    /// Checks and maps a segment that the consumer made.
    ///
    /// # Errors
    /// Each [`SegmentError`]; the descriptor is closed.
    pub fn attach(descriptor: OwnedFd) -> Result<Self, SegmentError> {
        attach(descriptor.as_fd(), CONSUMER_SEGMENT_BYTES, MAGIC_CONSUMER).map(Self)
    }
}

/// Both segments of one ring, as one side has mapped them.
#[derive(Debug)]
pub struct Pair {
    producer: Mapping,
    consumer: Mapping,
}

impl Producer {
    /// The producer of a fresh ring: its own segment, and the consumer's.
    #[must_use]
    pub fn new(own: ProducerSegment, peer: ConsumerView) -> Self {
        Self::over(Pair { producer: own.mapping, consumer: peer.0 })
    }
}

impl Consumer {
    /// The consumer of a fresh ring: the producer's segment, and its own.
    #[must_use]
    pub fn new(peer: ProducerView, own: ConsumerSegment) -> Self {
        Self::over(Pair { producer: peer.0, consumer: own.mapping })
    }
}

/// Asks the kernel whether `descriptor` is a producer's segment of this `capacity` that nobody can change any more.
/// For a go-between that hands it on.
///
/// # Errors
/// [`SegmentError`], all but `Magic`: what is in the segment is the reader's to judge.
pub fn check_producer_segment(descriptor: BorrowedFd<'_>, capacity: usize) -> Result<(), SegmentError> {
    check(descriptor, producer_bytes(capacity)?)
}

/// Asks the kernel whether `descriptor` is a consumer's segment that nobody can change any more.
///
/// # Errors
/// As [`check_producer_segment`].
pub fn check_consumer_segment(descriptor: BorrowedFd<'_>) -> Result<(), SegmentError> {
    check(descriptor, CONSUMER_SEGMENT_BYTES)
}

impl Memory for Pair {
    #[inline]
    fn tail(&self) -> &AtomicU64 {
        &self.producer.as_producer_words().published.tail
    }
    #[inline]
    fn attempted(&self) -> &AtomicU64 {
        &self.producer.as_producer_words().published.attempted
    }
    #[inline]
    fn lost(&self) -> &AtomicU64 {
        &self.producer.as_producer_words().lost.0
    }
    #[inline]
    fn closed(&self) -> &AtomicU64 {
        &self.producer.as_producer_words().closed.0
    }
    #[inline]
    fn slots(&self) -> &[AtomicU64] {
        &self.producer.as_producer_words().slots
    }
    #[inline]
    fn data(&self) -> &[AtomicU64] {
        &self.producer.words()[PRODUCER_HEADER_BYTES / size_of::<u64>()..]
    }
    #[inline]
    fn head(&self) -> &AtomicU64 {
        &self.consumer.as_consumer_words().head.0
    }
    #[inline]
    fn wake_at(&self) -> &AtomicU64 {
        &self.consumer.as_consumer_words().wake_at.0
    }
}

fn producer_bytes(capacity: usize) -> Result<usize, SegmentError> {
    if !capacity.is_power_of_two() || !(CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity) {
        return Err(SegmentError::Capacity(capacity));
    }
    Ok(PRODUCER_HEADER_BYTES + capacity)
}

fn host(step: &'static str) -> impl Fn(rustix::io::Errno) -> SegmentError {
    move |errno| SegmentError::Host { step, source: errno.into() }
}

fn create(name: &core::ffi::CStr, bytes: usize, magic: u64) -> Result<(OwnedFd, Mapping), SegmentError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 don't know the flag, and hosts may demand it (`vm.memfd_noexec`).
    let descriptor = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
        .map_err(host("create"))?;
    retry_on_intr(|| rustix::fs::ftruncate(&descriptor, bytes as u64)).map_err(host("size"))?;
    allocate(descriptor.as_fd(), bytes as u64).map_err(host("allocate"))?;
    let mapping = Mapping::new(descriptor.as_fd(), bytes, ProtFlags::READ | ProtFlags::WRITE)?;
    mapping.words()[0].store(magic, Ordering::Release);
    rustix::fs::fcntl_add_seals(&descriptor, SEALS).map_err(host("seal"))?;
    Ok((descriptor, mapping))
}

fn attach(descriptor: BorrowedFd<'_>, bytes: usize, magic: u64) -> Result<Mapping, SegmentError> {
    check(descriptor, bytes)?;
    let mapping = Mapping::new(descriptor, bytes, ProtFlags::READ)?;
    let found = mapping.words()[0].load(Ordering::Relaxed);
    if found != magic {
        return Err(SegmentError::Magic { found, expected: magic });
    }
    Ok(mapping)
}

fn check(descriptor: BorrowedFd<'_>, bytes: usize) -> Result<(), SegmentError> {
    let seals = rustix::fs::fcntl_get_seals(descriptor).map_err(|errno| match errno {
        // What can't be sealed is no memfd; whatever else goes wrong is not the peer's doing.
        Errno::INVAL => SegmentError::NotMemory,
        errno => host("inspect")(errno),
    })?;
    let filesystem = retry_on_intr(|| rustix::fs::fstatfs(descriptor)).map_err(host("inspect"))?;
    if filesystem.f_type as u64 != TMPFS {
        return Err(SegmentError::NotMemory);
    }
    if !seals.contains(SEALS) {
        return Err(SegmentError::NotSealed { found: seals.bits() });
    }
    let status = rustix::fs::fstat(descriptor).map_err(host("inspect"))?;
    let found = status.st_size as u64;
    if found != bytes as u64 {
        return Err(SegmentError::Size { found, expected: bytes });
    }
    allocate(descriptor, found).map_err(|errno| SegmentError::Sparse(errno.into()))
}

/// Has all pages allocated. Of megabytes that takes long enough for a signal to come in between, and the kernel then takes back
/// what it has done.
fn allocate(descriptor: BorrowedFd<'_>, bytes: u64) -> rustix::io::Result<()> {
    retry_on_intr(|| rustix::fs::fallocate(descriptor, FallocateFlags::empty(), 0, bytes))
}

/// Pages of a segment in this process, for as long as this value lives (I6).
#[derive(Debug)]
struct Mapping {
    start: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: what a `Mapping` gives out is `&AtomicU64`, which threads may share; the pages belong to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the whole of a segment that can't shrink and has all its memory (I7).
    fn new(descriptor: BorrowedFd<'_>, bytes: usize, access: ProtFlags) -> Result<Self, SegmentError> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: no address is asked for, so the kernel picks free pages; nothing that exists is replaced.
        let start = unsafe { rustix::mm::mmap(core::ptr::null_mut(), bytes, access, flags, descriptor, 0) }
            .map_err(host("map"))?;
        let start = NonNull::new(start.cast()).expect("mmap without MAP_FIXED doesn't return page 0");
        let mapping = Self { start, bytes };
        // SAFETY: the range is the mapping just made; the advice changes what a forked child inherits, not our pages.
        unsafe { rustix::mm::madvise(mapping.address(), bytes, Advice::LinuxDontFork) }
            .map_err(host("keep to itself"))?;
        Ok(mapping)
    }

    fn address(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        let words = self.bytes / size_of::<u64>();
        // SAFETY: I5, I6, I7: `bytes` bytes are mapped and readable for as long as `self` is borrowed, pages are aligned
        // for `u64`, any bit pattern is one, and all of it is only ever seen as atomics.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), words) }
    }

    #[inline]
    fn as_producer_words(&self) -> &ProducerWords {
        assert!(self.bytes > PRODUCER_HEADER_BYTES, "I1: this is a producer's segment");
        // SAFETY: I5, I6, I7: the header is mapped for as long as `self` is borrowed, the struct consists of atomics for
        // which any bit pattern is valid, and a page is aligned for it.
        unsafe { self.start.cast().as_ref() }
    }

    #[inline]
    fn as_consumer_words(&self) -> &ConsumerWords {
        // SAFETY: as above; each segment has at least the bytes of a consumer's.
        unsafe { self.start.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: I6: the range was mapped by `new`, and no reference into it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.address(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "I6: the range was mapped as a whole");
    }
}

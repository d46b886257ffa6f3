//! Segments: memory with one writer.
//!
//! Two acts with different failures. **Creating** is the writer's: memory of the agreed size, all of it allocated, mapped,
//! formatted (magic last). **Attaching** is the reader's: it believes nothing that a message says, but asks the kernel about
//! the memory before it maps it, refuses a sparse segment, has the whole length allocated (a hole that can't be filled is a SIGBUS on
//! the first touch), and looks at the magic first.
//!
//! Where the memory comes from is the [`Backing`]: [`memfd`] has the kernel as its witness, [`named`] runs everywhere.
//!
//! Mappings are not inherited by a forked child, on Linux.

use core::mem::{offset_of, size_of};
use core::ptr::NonNull;
use std::io;
use std::sync::{Arc, Weak};

use crate::Descriptor;
use crate::consumer::Consumer;
use crate::layout::{
    CAPACITY_MAX, CAPACITY_MIN, CONSUMER_SEGMENT_BYTES, ConsumerWords, MAGIC_CONSUMER, MAGIC_PRODUCER,
    PRODUCER_HEADER_BYTES, ProducerWords,
};
use crate::producer::Producer;
use crate::ring::Memory;
use crate::sync::{AtomicU64, Ordering};

#[cfg(not(target_os = "linux"))]
mod absent;
#[cfg(target_os = "linux")]
mod memfd;
mod name;
mod named;

#[cfg(not(target_os = "linux"))]
use absent as memfd;
pub use name::{BadName, SegmentName};
pub use named::collect_abandoned;

const _: () = {
    assert!(offset_of!(ProducerWords, magic) == 0);
    assert!(offset_of!(ProducerWords, published.tail) == 128);
    assert!(offset_of!(ProducerWords, published.attempted) == 136);
    assert!(offset_of!(ProducerWords, lost) == 256);
    assert!(offset_of!(ProducerWords, pauses.closed) == 384);
    assert!(offset_of!(ProducerWords, pauses.room_at) == 392);
    assert!(offset_of!(ProducerWords, slots) == 512);
    assert!(size_of::<ProducerWords>() == PRODUCER_HEADER_BYTES);
    assert!(offset_of!(ConsumerWords, magic) == 0);
    assert!(offset_of!(ConsumerWords, head) == 128);
    assert!(offset_of!(ConsumerWords, wake_at) == 256);
    assert!(size_of::<ConsumerWords>() <= CONSUMER_SEGMENT_BYTES);
};

/// Where the memory of segments comes from.
///
/// | | [`Memfd`](Self::Memfd) | [`Named`](Self::Named) |
/// |---|---|---|
/// | there is one on | Linux | Linux, macOS, Windows |
/// | a peer's write to our segment, a change of its size | refused by the kernel | possible: the peer maps it writable |
/// | peers may be of | any user | one user, since the segment is for its owner alone (0600) |
/// | pages are allocated | when it is made | when it is made on Linux, at the first touch elsewhere |
/// | left behind by a kill | nothing | the name, if it comes between making and attaching; see [`collect_abandoned`] |
///
/// So with names the two sides of a ring have to trust each other as far as processes of one user do, who could stop or trace
/// each other as well. What a peer writes is checked all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Sealed memory without a name. To ask for it where there is none is a typed error.
    Memfd,
    /// Memory with a name, for one user, which goes as soon as the peer has opened it.
    Named,
}

impl Default for Backing {
    /// The better one of those that this platform has.
    fn default() -> Self {
        if cfg!(target_os = "linux") { Self::Memfd } else { Self::Named }
    }
}

/// What opens a segment for the peer.
#[derive(Debug)]
pub enum Handle {
    /// A memfd.
    Descriptor(Descriptor),
    /// The name of a segment that has one.
    Name(SegmentName),
}

impl Handle {
    /// A second handle of the same segment.
    ///
    /// # Errors
    /// [`SegmentError::Host`] when descriptors are short.
    pub fn try_clone(&self) -> Result<Self, SegmentError> {
        Ok(match self {
            Self::Descriptor(descriptor) => {
                let failed = |source| SegmentError::Host { step: "hand over", source };
                Self::Descriptor(descriptor.try_clone().map_err(failed)?)
            }
            Self::Name(name) => Self::Name(*name),
        })
    }
}

impl From<Descriptor> for Handle {
    fn from(descriptor: Descriptor) -> Self {
        Self::Descriptor(descriptor)
    }
}

#[cfg(unix)]
impl From<std::os::fd::OwnedFd> for Handle {
    fn from(open: std::os::fd::OwnedFd) -> Self {
        Self::Descriptor(open.into())
    }
}

/// Whose words a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Producer,
    Consumer,
}

impl Kind {
    fn magic(self) -> u64 {
        match self {
            Self::Producer => MAGIC_PRODUCER,
            Self::Consumer => MAGIC_CONSUMER,
        }
    }
}

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
    /// The peer's handle is not of memory made for this: no memfd, one on huge pages, the name of the other kind of
    /// segment, or one that leads to something else.
    #[error("the peer's handle is not a memfd on ordinary pages, nor the name of such a segment")]
    NotMemory,
    /// The peer left a way to change the segment.
    #[error("the peer's segment lacks seals: it has {found:#x} where {needed:#x} are needed")]
    NotSealed {
        /// The seals that it has, as `F_GET_SEALS` gives them.
        found: u32,
        /// The seals that it should have.
        needed: u32,
    },
    /// The peer's segment has no name any more: the peer has gone, or took the name away.
    #[error("the peer's segment is gone")]
    Gone,
    /// The peer's named segment is not its owner's alone, or that owner is not the one who may hand it over.
    #[error(
        "the peer's segment belongs to uid {uid}, with mode {mode:o}, where uid {expected} and mode 600 are needed"
    )]
    NotPrivate {
        /// Whose it is.
        uid: u32,
        /// Who may open it.
        mode: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// The peer's segment is not as large as agreed.
    #[error("the peer's segment has {found} bytes where {expected} were agreed")]
    Size {
        /// What `fstat` says.
        found: u64,
        /// What was agreed.
        expected: usize,
    },
    /// The peer's segment has holes, which its writer has left: nobody pays for memory in his place.
    #[error("the peer's segment has {filled} of its {bytes} bytes of memory")]
    Holes {
        /// What there is memory for.
        filled: u64,
        /// How large it is.
        bytes: u64,
    },
    /// The peer's segment may have holes, and there is no memory to fill them.
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
    handle: Handle,
    mapping: Mapping,
}

impl ProducerSegment {
    /// Makes a segment with a data area of `capacity` bytes.
    ///
    /// # Errors
    /// [`SegmentError::Capacity`], or [`SegmentError::Host`] where memory or descriptors are short, or there is no such backing.
    pub fn create(capacity: usize, backing: Backing) -> Result<Self, SegmentError> {
        let (handle, mapping) = create(Kind::Producer, producer_bytes(capacity)?, backing)?;
        Ok(Self { handle, mapping })
    }

    /// What to hand to the consumer. The segment itself needs it no longer.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// A segment that the consumer writes: `head` and `wake_at`.
#[derive(Debug)]
pub struct ConsumerSegment {
    handle: Handle,
    mapping: Mapping,
}

impl ConsumerSegment {
    /// Makes a segment.
    ///
    /// # Errors
    /// [`SegmentError::Host`] where memory or descriptors are short, or there is no such backing.
    pub fn create(backing: Backing) -> Result<Self, SegmentError> {
        let (handle, mapping) = create(Kind::Consumer, CONSUMER_SEGMENT_BYTES, backing)?;
        Ok(Self { handle, mapping })
    }

    /// What to hand to the producer. The segment itself needs it no longer.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// The producer's segment as the consumer sees it: it only reads there.
#[derive(Debug)]
pub struct ProducerView(Mapping);

impl ProducerView {
    /// Checks and maps a segment that the producer made with this `capacity`. A name is taken away by that.
    ///
    /// # Errors
    /// Each [`SegmentError`]; a descriptor is closed. A named segment must be of this process's own user.
    pub fn attach(handle: Handle, capacity: usize) -> Result<Self, SegmentError> {
        attach(handle, Kind::Producer, producer_bytes(capacity)?).map(Self)
    }
}

/// The consumer's segment as the producer sees it: it only reads there.
#[derive(Debug)]
pub struct ConsumerView(Arc<Mapping>);

impl ConsumerView {
    /// Checks and maps a segment that the consumer made. A name is taken away by that.
    ///
    /// # Errors
    /// Each [`SegmentError`]; a descriptor is closed. A named segment must be of this process's own user.
    pub fn attach(handle: Handle) -> Result<Self, SegmentError> {
        attach(handle, Kind::Consumer, CONSUMER_SEGMENT_BYTES).map(|mapping| Self(Arc::new(mapping)))
    }

    /// A look at how far the consumer is, for another thread than the producer's.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress(Arc::downgrade(&self.0))
    }
}

/// How far the consumer of a ring says that it has read. It does not keep the ring mapped.
#[derive(Debug, Clone)]
pub struct Progress(Weak<Mapping>);

impl Progress {
    /// Bytes that were given back since the ring was made: the consumer's word, which nobody has checked. `None`: the producer has let go of the
    /// ring.
    #[must_use]
    pub fn read_bytes(&self) -> Option<u64> {
        Some(self.0.upgrade()?.as_consumer_words().head.0.load(Ordering::Relaxed))
    }
}

/// Both segments of one ring, as one side has mapped them.
#[derive(Debug)]
pub struct Pair {
    producer: Mapping,
    /// Shared with who looks at the [`Progress`].
    consumer: Arc<Mapping>,
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
        Self::over(Pair { producer: peer.0, consumer: Arc::new(own.mapping) })
    }
}

/// Asks the kernel about a producer's segment of this `capacity`: a memfd that nobody can change any more, or a name for
/// `owner`'s processes alone. For a go-between that hands it on; `owner` is who it has the handle from.
///
/// # Errors
/// [`SegmentError`], all but `Magic`: what is in the segment is the reader's to judge.
pub fn check_producer_segment(handle: &Handle, capacity: usize, owner: u32) -> Result<(), SegmentError> {
    check(handle, Kind::Producer, producer_bytes(capacity)?, owner)
}

/// Asks the kernel about a consumer's segment, as [`check_producer_segment`] does.
///
/// # Errors
/// As [`check_producer_segment`].
pub fn check_consumer_segment(handle: &Handle, owner: u32) -> Result<(), SegmentError> {
    check(handle, Kind::Consumer, CONSUMER_SEGMENT_BYTES, owner)
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
        &self.producer.as_producer_words().pauses.closed
    }
    #[inline]
    fn room_at(&self) -> &AtomicU64 {
        &self.producer.as_producer_words().pauses.room_at
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

#[cfg(unix)]
fn host(step: &'static str) -> impl Fn(rustix::io::Errno) -> SegmentError {
    move |errno| SegmentError::Host { step, source: errno.into() }
}

/// Has all pages allocated. Of megabytes that takes long enough for a signal to come in between, and the kernel then takes back
/// what it has done.
#[cfg(target_os = "linux")]
fn allocate(memory: &impl std::os::fd::AsFd, bytes: u64) -> rustix::io::Result<()> {
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(memory, flags, 0, bytes))
}

fn create(kind: Kind, bytes: usize, backing: Backing) -> Result<(Handle, Mapping), SegmentError> {
    match backing {
        Backing::Memfd => memfd::create(kind, bytes),
        Backing::Named => named::create(kind, bytes),
    }
}

fn attach(handle: Handle, kind: Kind, bytes: usize) -> Result<Mapping, SegmentError> {
    let mapping = match handle {
        Handle::Descriptor(descriptor) => memfd::attach(&descriptor, bytes)?,
        Handle::Name(name) => named::attach(&name, kind, bytes)?,
    };
    let (found, expected) = (mapping.words()[0].load(Ordering::Relaxed), kind.magic());
    if found != expected {
        return Err(SegmentError::Magic { found, expected });
    }
    Ok(mapping)
}

fn check(handle: &Handle, kind: Kind, bytes: usize, owner: u32) -> Result<(), SegmentError> {
    match handle {
        Handle::Descriptor(descriptor) => memfd::check(descriptor, bytes),
        Handle::Name(name) => named::check(name, kind, bytes, owner),
    }
}

/// Pages of a segment in this process, for as long as this value lives (I6).
#[derive(Debug)]
struct Mapping {
    start: NonNull<AtomicU64>,
    bytes: usize,
    _pages: Pages,
}

/// What unmaps them.
#[derive(Debug)]
enum Pages {
    #[cfg(target_os = "linux")]
    Memfd {
        _pages: memfd::Pages,
    },
    Named {
        _pages: named::Pages,
    },
}

// SAFETY: I5: what a `Mapping` gives out is `&AtomicU64`, which threads may share; its pages, and the descriptors that `Pages`
// closes when it is dropped, belong to no thread.
unsafe impl Send for Mapping {}
// SAFETY: I5: as above; nothing but the drop looks into `Pages`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Says of a segment that all of it is there.
    fn format(&self, kind: Kind) {
        // Whoever attaches has the handle from a message, which orders this before its look.
        self.words()[0].store(kind.magic(), Ordering::Relaxed);
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
        // SAFETY: I5, I6, I7: as above; each segment has at least the bytes of a consumer's.
        unsafe { self.start.cast().as_ref() }
    }
}

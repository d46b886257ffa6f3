//! Segments that no honest peer would make, and memory that stays writable in hostile hands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::shm::OFlags;
use shm::layout::MAGIC_CONSUMER;
use shm::{Backing, Handle, SegmentName};

pub(crate) const SEALS: [SealFlags; 4] =
    [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL];

/// Names that this process has made up.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// A memfd, or memory with a name, mapped writable by whoever made it.
pub(crate) struct HandMade {
    descriptor: OwnedFd,
    name: Option<SegmentName>,
    start: *mut AtomicU64,
    words: usize,
}

impl HandMade {
    pub(crate) fn new(bytes: usize) -> Self {
        Self::with_flags(bytes, MemfdFlags::empty()).unwrap()
    }

    pub(crate) fn with_flags(bytes: usize, flags: MemfdFlags) -> rustix::io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags;
        let descriptor = rustix::fs::memfd_create(c"hostile", flags)?;
        Self::over(descriptor, None, bytes)
    }

    /// Under a name of a producer's segment (`p`), or a consumer's (`c`).
    pub(crate) fn named(kind: char, bytes: usize, mode: Mode) -> Self {
        // The name says that process 1 made it, which never dies: nobody collects it.
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let name = format!("/deeb{kind}00001{:09}{number:010}", std::process::id());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let descriptor = rustix::shm::open(&name, flags, mode).unwrap();
        rustix::fs::fchmod(&descriptor, mode).unwrap();
        Self::over(descriptor, Some(name.parse().unwrap()), bytes).unwrap()
    }

    fn over(descriptor: OwnedFd, name: Option<SegmentName>, bytes: usize) -> rustix::io::Result<Self> {
        rustix::fs::ftruncate(&descriptor, bytes as u64)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so no mapping that exists is replaced.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, &descriptor, 0)
        }?;
        Ok(Self { descriptor, name, start: start.cast(), words: bytes / 8 })
    }

    /// As an honest peer would hand it over.
    pub(crate) fn as_agreed(bytes: usize, magic: u64, backing: Backing) -> Self {
        let made = match backing {
            Backing::Memfd => Self::new(bytes),
            Backing::Named if magic == MAGIC_CONSUMER => Self::named('c', bytes, Mode::RUSR | Mode::WUSR),
            Backing::Named => Self::named('p', bytes, Mode::RUSR | Mode::WUSR),
        };
        rustix::fs::fallocate(&made.descriptor, FallocateFlags::empty(), 0, bytes as u64).unwrap();
        made.word(0).store(magic, Ordering::Relaxed);
        if backing == Backing::Memfd {
            made.seal(&SEALS);
        }
        made
    }

    pub(crate) fn seal(&self, seals: &[SealFlags]) {
        let all = seals.iter().copied().collect();
        rustix::fs::fcntl_add_seals(&self.descriptor, all).unwrap();
    }

    /// The word at byte `offset`.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset / 8 < self.words);
        // SAFETY: the assertion above: the offset lies within the mapping.
        let word = unsafe { self.start.add(offset / 8) };
        // SAFETY: the mapping lives as long as `self`, is aligned to pages, and is only ever seen as atomics.
        unsafe { &*word }
    }

    pub(crate) fn hand_over(&self) -> Handle {
        self.name.map_or_else(|| self.descriptor.try_clone().unwrap().into(), Handle::Name)
    }
}

impl AsFd for HandMade {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for HandMade {
    fn drop(&mut self) {
        // SAFETY: the range was mapped as a whole by the constructor, and no reference into it outlives `self`.
        unsafe { rustix::mm::munmap(self.start.cast(), self.words * 8) }.unwrap();
        if let Some(name) = self.name {
            // Who attached has taken it away.
            let _ = rustix::shm::unlink(name.as_str());
        }
    }
}

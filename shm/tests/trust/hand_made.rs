//! Segments that no honest peer would make, and memory that stays writable in hostile hands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

pub(crate) const SEALS: [SealFlags; 4] =
    [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL];

/// A memfd, mapped writable by whoever made it.
pub(crate) struct HandMade {
    descriptor: OwnedFd,
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
        rustix::fs::ftruncate(&descriptor, bytes as u64)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so no mapping that exists is replaced.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, &descriptor, 0)
        }?;
        Ok(Self { descriptor, start: start.cast(), words: bytes / 8 })
    }

    /// As an honest peer would hand it over.
    pub(crate) fn filled_and_sealed(bytes: usize, magic: u64) -> Self {
        let made = Self::new(bytes);
        rustix::fs::fallocate(&made.descriptor, FallocateFlags::empty(), 0, bytes as u64).unwrap();
        made.word(0).store(magic, std::sync::atomic::Ordering::Relaxed);
        made.seal(&SEALS);
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

    pub(crate) fn hand_over(&self) -> OwnedFd {
        self.descriptor.try_clone().unwrap()
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
    }
}

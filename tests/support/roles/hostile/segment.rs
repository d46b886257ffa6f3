//! Memory that stays writable in hostile hands, and what the kernel lets others do with it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use serde_json::{Map, Value};

pub(super) const SEALS: [SealFlags; 4] =
    [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL];

/// A memfd, mapped for as long as the process lives.
pub(super) struct Segment {
    pub(super) descriptor: OwnedFd,
    words: &'static [AtomicU64],
}

impl Segment {
    /// A fresh one that nothing seals, and that has no memory yet.
    pub(super) fn sparse(bytes: usize) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = rustix::fs::memfd_create(c"hostile", flags).expect("memory");
        rustix::fs::ftruncate(&descriptor, bytes as u64).expect("a size");
        Self::of(descriptor, bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// As an honest peer makes it.
    pub(super) fn honest(bytes: usize, magic: u64) -> Self {
        let made = Self::sparse(bytes);
        rustix::fs::fallocate(&made.descriptor, FallocateFlags::empty(), 0, bytes as u64).expect("memory");
        made.set(0, magic);
        made.seal(&SEALS);
        made
    }

    /// The other side's, as it was handed over.
    pub(super) fn received(descriptor: OwnedFd) -> Self {
        let bytes = rustix::fs::fstat(&descriptor).expect("it is open").st_size;
        Self::of(descriptor, usize::try_from(bytes).expect("a size"), ProtFlags::READ)
    }

    /// One that nobody has sealed yet, as another process made it.
    pub(super) fn of_writable(descriptor: OwnedFd, bytes: usize) -> Self {
        Self::of(descriptor, bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn of(descriptor: OwnedFd, bytes: usize, access: ProtFlags) -> Self {
        let none = std::ptr::null_mut();
        // SAFETY: no address is asked for, so no mapping that exists is replaced.
        let start = unsafe { rustix::mm::mmap(none, bytes, access, MapFlags::SHARED, &descriptor, 0) };
        let start: *const AtomicU64 = start.expect("it can be mapped").cast();
        // SAFETY: the range was just mapped, is never unmapped, and is only ever seen as atomics.
        let words = unsafe { std::slice::from_raw_parts(start, bytes / 8) };
        Self { descriptor, words }
    }

    pub(super) fn seal(&self, seals: &[SealFlags]) {
        rustix::fs::fcntl_add_seals(&self.descriptor, seals.iter().copied().collect()).expect("it is ours");
    }

    pub(super) fn words(&self) -> &'static [AtomicU64] {
        self.words
    }

    /// Writes the word at byte `offset`.
    pub(super) fn set(&self, offset: usize, value: u64) {
        self.words[offset / 8].store(value, Ordering::Release);
    }

    pub(super) fn word(&self, offset: usize) -> u64 {
        self.words[offset / 8].load(Ordering::Acquire)
    }
}

/// All that the kernel could let somebody do to a segment, and what it says.
pub(super) fn attack(descriptor: BorrowedFd<'_>) -> Value {
    let said = |result: Result<(), Errno>| match result {
        Ok(()) => "done".to_owned(),
        Err(errno) => super::name(errno),
    };
    let writable = ProtFlags::READ | ProtFlags::WRITE;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let bytes = [0xff; 8];
    let size = rustix::fs::fstat(descriptor).map(|status| status.st_size as u64).unwrap_or(0);
    let again = reopen(descriptor);
    let again = again.as_ref().map(AsFd::as_fd);
    let tries = [
        ("ftruncate-shrink", rustix::fs::ftruncate(descriptor, 0)),
        ("ftruncate-grow", rustix::fs::ftruncate(descriptor, 2 * size)),
        ("punch-hole", rustix::fs::fallocate(descriptor, punch, 0, 4096)),
        ("zero-range", rustix::fs::fallocate(descriptor, zero, 0, 4096)),
        ("allocate-behind", rustix::fs::fallocate(descriptor, FallocateFlags::empty(), size, 4096)),
        ("write", rustix::io::pwrite(descriptor, &bytes, 0).map(drop)),
        ("mmap-writable", map(descriptor, writable, |_| Ok(()))),
        ("mprotect-writable", map(descriptor, ProtFlags::READ, make_writable)),
        ("seal-more", rustix::fs::fcntl_add_seals(descriptor, SealFlags::WRITE)),
        ("reopen-write", again.map_err(|e| *e).and_then(|fd| rustix::io::pwrite(fd, &bytes, 0).map(drop))),
        ("reopen-mmap", again.map_err(|e| *e).and_then(|fd| map(fd, writable, |_| Ok(())))),
        ("reopen-ftruncate", again.map_err(|e| *e).and_then(|fd| rustix::fs::ftruncate(fd, 0))),
    ];
    let answers: Map<String, Value> =
        tries.into_iter().map(|(name, result)| (name.to_owned(), said(result).into())).collect();
    answers.into()
}

fn reopen(descriptor: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn make_writable(start: *mut core::ffi::c_void) -> Result<(), Errno> {
    // SAFETY: the caller has just mapped this page, and nothing refers to it.
    unsafe { rustix::mm::mprotect(start, 4096, MprotectFlags::READ | MprotectFlags::WRITE) }
}

/// Maps the first page, does something with it, and unmaps it.
fn map(
    descriptor: BorrowedFd<'_>,
    access: ProtFlags,
    then: impl FnOnce(*mut core::ffi::c_void) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let none = std::ptr::null_mut();
    // SAFETY: no address is asked for, so no mapping that exists is replaced.
    let start = unsafe { rustix::mm::mmap(none, 4096, access, MapFlags::SHARED, descriptor, 0) }?;
    let done = then(start);
    // SAFETY: the range was just mapped, and nothing refers to it.
    unsafe { rustix::mm::munmap(start, 4096) }?;
    done
}

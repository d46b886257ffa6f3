//! Memory that stays writable in hostile hands, and what the kernel lets others do with it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use super::names::{self, Name};

pub(super) const SEALS: [SealFlags; 4] =
    [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL];

/// A memfd, or memory with a name, mapped for as long as the process lives.
pub(super) struct Segment {
    pub(super) descriptor: OwnedFd,
    /// Until the peer has it open.
    pub(super) name: Option<Name>,
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
        made.fill();
        made.set(0, magic);
        made.seal(&SEALS);
        made
    }

    /// Under a fresh name, without memory so far.
    pub(super) fn named(kind: char, bytes: usize) -> Self {
        let (name, descriptor) = Name::create(kind);
        rustix::fs::ftruncate(&descriptor, bytes as u64).expect("a size");
        Self { name: Some(name), ..Self::of_writable(descriptor, bytes) }
    }

    /// The other side's, by its name, which is taken away by that unless `keep`. `None`: it has gone.
    pub(super) fn of_name(name: &str, keep: bool) -> Option<Self> {
        let descriptor = names::open(name).ok()?;
        if !keep {
            drop(Name::from(name.to_owned()));
        }
        let bytes = rustix::fs::fstat(&descriptor).expect("it is open").st_size;
        Some(Self::of_writable(descriptor, usize::try_from(bytes).expect("a size")))
    }

    /// Has all its memory allocated.
    pub(super) fn fill(&self) {
        let bytes = self.words.len() as u64 * 8;
        rustix::fs::fallocate(&self.descriptor, FallocateFlags::empty(), 0, bytes).expect("memory");
    }

    /// Has as much memory allocated behind its end, which counts where blocks are counted.
    pub(super) fn fill_behind(&self) {
        let bytes = self.words.len() as u64 * 8;
        rustix::fs::fallocate(&self.descriptor, FallocateFlags::KEEP_SIZE, bytes, bytes).expect("memory");
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
        Self { descriptor, name: None, words }
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

/// One of all things that the kernel could let somebody do to a segment, and what it says.
pub(super) fn attempt(descriptor: BorrowedFd<'_>, name: &str) -> String {
    let writable = ProtFlags::READ | ProtFlags::WRITE;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let bytes = [0xff; 8];
    let size = rustix::fs::fstat(descriptor).map(|status| status.st_size as u64).unwrap_or(0);
    let said = match name {
        "ftruncate-shrink" => rustix::fs::ftruncate(descriptor, 0),
        "ftruncate-grow" => rustix::fs::ftruncate(descriptor, 2 * size),
        "punch-hole" => rustix::fs::fallocate(descriptor, punch, 0, 4096),
        "zero-range" => rustix::fs::fallocate(descriptor, zero, 0, 4096),
        "allocate-behind" => rustix::fs::fallocate(descriptor, FallocateFlags::empty(), size, 4096),
        "write" => rustix::io::pwrite(descriptor, &bytes, 0).map(drop),
        "mmap-writable" => map(descriptor, writable, |_| Ok(())),
        "mprotect-writable" => map(descriptor, ProtFlags::READ, make_writable),
        "seal-more" => rustix::fs::fcntl_add_seals(descriptor, SealFlags::WRITE),
        "reopen-write" => reopen(descriptor).and_then(|again| rustix::io::pwrite(again, &bytes, 0).map(drop)),
        "reopen-mmap" => reopen(descriptor).and_then(|again| map(again.as_fd(), writable, |_| Ok(()))),
        "reopen-ftruncate" => reopen(descriptor).and_then(|again| rustix::fs::ftruncate(again, 0)),
        other => panic!("no attempt {other}"),
    };
    said.map_or_else(super::name, |()| "done".to_owned())
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

//! Segments without a name, and the kernel as the witness.
//!
//! The writer maps its memfd and then seals it, after which nobody can map it writable any more, write to it, punch holes into
//! it or change its size; the mapping that is there stays as it is. The reader asks the kernel for seals, size and kind, and maps
//! it read-only.

use core::ffi::c_void;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::Descriptor;

use super::{Handle, Kind, Mapping, SegmentError, allocate, host};

/// What keeps a segment's memory and its writer as they are.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// `f_type` of the file system that memfds live on (`TMPFS_MAGIC`); huge pages have another.
const TMPFS: u64 = 0x0102_1994;

/// What `fstat` counts blocks by.
const BLOCK_BYTES: u64 = 512;

/// Of a larger segment the pages are mapped as they are touched: a process that maps all of 1 GiB at once can map nothing else
/// for half a second, on no thread of it. The memory itself is there all the same.
const POPULATED_BYTES_MAX: usize = (64 << 20) + super::PRODUCER_HEADER_BYTES;

pub(super) fn create(kind: Kind, bytes: usize) -> Result<(Handle, Mapping), SegmentError> {
    let label = match kind {
        Kind::Producer => c"eventbus-p",
        Kind::Consumer => c"eventbus-c",
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 don't know the flag, and hosts may demand it (`vm.memfd_noexec`).
    let descriptor = rustix::fs::memfd_create(label, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(label, flags))
        .map_err(host("create"))?;
    retry_on_intr(|| rustix::fs::ftruncate(&descriptor, bytes as u64)).map_err(host("size"))?;
    allocate(&descriptor, bytes as u64).map_err(host("allocate"))?;
    let mapping = map(descriptor.as_fd(), bytes, ProtFlags::READ | ProtFlags::WRITE)?;
    mapping.format(kind);
    rustix::fs::fcntl_add_seals(&descriptor, SEALS).map_err(host("seal"))?;
    Ok((Handle::Descriptor(Descriptor::of_own_memory(descriptor)), mapping))
}

/// Checked and mapped; the magic is the caller's to look at.
pub(super) fn attach(descriptor: &Descriptor, bytes: usize) -> Result<Mapping, SegmentError> {
    check(descriptor, bytes)?;
    map(descriptor.as_fd(), bytes, ProtFlags::READ)
}

pub(super) fn check(descriptor: &Descriptor, bytes: usize) -> Result<(), SegmentError> {
    let seals = rustix::fs::fcntl_get_seals(descriptor).map_err(|errno| match errno {
        // What can't be sealed, or not even looked at (O_PATH), is no memfd; what else goes wrong is not the peer's doing.
        Errno::INVAL | Errno::BADF => SegmentError::NotMemory,
        errno => host("inspect")(errno),
    })?;
    let filesystem = retry_on_intr(|| rustix::fs::fstatfs(descriptor)).map_err(host("inspect"))?;
    if filesystem.f_type as u64 != TMPFS {
        return Err(SegmentError::NotMemory);
    }
    if !seals.contains(SEALS) {
        return Err(SegmentError::NotSealed { found: seals.bits(), needed: SEALS.bits() });
    }
    let status = rustix::fs::fstat(descriptor).map_err(host("inspect"))?;
    let found = status.st_size as u64;
    if found != bytes as u64 {
        return Err(SegmentError::Size { found, expected: bytes });
    }
    let filled = (status.st_blocks as u64).saturating_mul(BLOCK_BYTES);
    if filled < found {
        return Err(SegmentError::Holes { filled, bytes: found });
    }
    // Blocks behind its end count, too: of those its writer has as many as there are holes before it. What is allocated for him here he has
    // paid once himself.
    allocate(descriptor, found).map_err(|errno| SegmentError::Sparse(errno.into()))
}

/// Pages of a memfd, which are unmapped with this value.
#[derive(Debug)]
pub(super) struct Pages {
    address: *mut c_void,
    bytes: usize,
}

/// Maps the whole of a segment that can't shrink and has all its memory (I7).
fn map(descriptor: BorrowedFd<'_>, bytes: usize, access: ProtFlags) -> Result<Mapping, SegmentError> {
    let populate = if bytes <= POPULATED_BYTES_MAX { MapFlags::POPULATE } else { MapFlags::empty() };
    let flags = MapFlags::SHARED | populate;
    // SAFETY: I6: no address is asked for, so the kernel picks free pages; nothing that exists is replaced.
    let address = unsafe { rustix::mm::mmap(core::ptr::null_mut(), bytes, access, flags, descriptor, 0) }
        .map_err(host("map"))?;
    let pages = Pages { address, bytes };
    // SAFETY: I6: the range is the mapping just made; the advice changes what a forked child inherits, not our pages.
    unsafe { rustix::mm::madvise(address, bytes, Advice::LinuxDontFork) }.map_err(host("keep to itself"))?;
    let start = NonNull::new(address.cast()).expect("mmap without MAP_FIXED doesn't return page 0");
    Ok(Mapping { start, bytes, _pages: super::Pages::Memfd { _pages: pages } })
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: I6: the range was mapped by `map`, and no reference into it outlives the `Mapping` around this value.
        let unmapped = unsafe { rustix::mm::munmap(self.address, self.bytes) };
        debug_assert!(unmapped.is_ok(), "I6: the range was mapped as a whole");
    }
}

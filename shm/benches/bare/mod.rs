//! What the machine can do: a byte ring in one memfd that both sides map writable.
//!
//! Length-prefixed records, copied in with one `memcpy` for each part and read in place; each side keeps the other's index in private
//! memory; the index is published when the caller says so. No checks, no slots, no sequence, no losses, no wake-up. Whoever shares
//! it with a hostile process is lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

const HEAD: usize = 0;
const TAIL: usize = 128;
const DATA: usize = 4096;
/// Stands in place of a length: the record is at the start of the ring.
const WRAPPED: u64 = u64::MAX;

pub(crate) struct Bare {
    descriptor: OwnedFd,
    start: *mut u8,
    capacity: u64,
    own: u64,
    published: u64,
    peer: u64,
}

impl Bare {
    pub(crate) fn create(capacity: usize) -> io::Result<Self> {
        let descriptor = rustix::fs::memfd_create(c"bare", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&descriptor, (DATA + capacity) as u64)?;
        Self::attach(descriptor, capacity)
    }

    pub(crate) fn attach(descriptor: OwnedFd, capacity: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        let length = DATA + capacity;
        // SAFETY: no address is asked for, so no mapping that exists is replaced. It is never unmapped.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, access, flags, &descriptor, 0) }?;
        Ok(Self { descriptor, start: start.cast(), capacity: capacity as u64, own: 0, published: 0, peer: 0 })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: both offsets lie in the first page of the mapping.
        let word = unsafe { self.start.add(offset) };
        // SAFETY: it is aligned, mapped for ever, and only ever seen as an atomic.
        unsafe { &*word.cast() }
    }

    fn at(&self, position: u64) -> *mut u8 {
        // SAFETY: the masked position lies within the data area.
        unsafe { self.start.add(DATA + (position & (self.capacity - 1)) as usize) }
    }

    /// Adds the parts as one record. Each but the last is a multiple of 8 bytes long. `false`: the ring is full.
    #[inline]
    pub(crate) fn push<const PARTS: usize>(&mut self, parts: [&[u8]; PARTS]) -> bool {
        let length = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let size = 8 + length.next_multiple_of(8);
        let to_end = self.capacity - (self.own & (self.capacity - 1));
        let padding = if size > to_end { to_end } else { 0 };
        if self.own + padding + size - self.peer > self.capacity {
            self.peer = self.word(HEAD).load(Ordering::Acquire);
            if self.own + padding + size - self.peer > self.capacity {
                return false;
            }
        }
        if padding > 0 {
            // SAFETY: at least 8 bytes are left before the end, and they are free.
            unsafe { self.at(self.own).cast::<u64>().write(WRAPPED) };
            self.own += padding;
        }
        let start = self.at(self.own);
        // SAFETY: `size` bytes are free here, before the end.
        unsafe { start.cast::<u64>().write(length) };
        let mut offset = 8;
        for part in parts {
            // SAFETY: as above: the parts go behind their length.
            let to = unsafe { start.add(offset) };
            // SAFETY: as above; the parts are the caller's memory, not the ring's.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len()) };
            offset += part.len();
        }
        self.own += size;
        true
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        self.published = self.own;
        self.word(TAIL).store(self.own, Ordering::Release);
    }

    /// Up to where the reader has given space back.
    pub(crate) fn all_read(&self) -> bool {
        self.word(HEAD).load(Ordering::Acquire) == self.own
    }

    #[inline]
    pub(crate) fn read<T>(&mut self, use_it: impl FnOnce(&[u64]) -> T) -> Option<T> {
        if self.own == self.peer {
            self.peer = self.word(TAIL).load(Ordering::Acquire);
            if self.own == self.peer {
                return None;
            }
        }
        // SAFETY: a record was published here.
        let mut length = unsafe { self.at(self.own).cast::<u64>().read() };
        if length == WRAPPED {
            self.own += self.capacity - (self.own & (self.capacity - 1));
            // SAFETY: behind a wrap there is a record.
            length = unsafe { self.at(self.own).cast::<u64>().read() };
        }
        // SAFETY: the payload is behind its length.
        let start = unsafe { self.at(self.own).add(8) };
        // SAFETY: the bare ring trusts its writer: `length` bytes were published, and stay until `release`.
        let payload = unsafe { std::slice::from_raw_parts(start.cast(), length.div_ceil(8) as usize) };
        let result = use_it(payload);
        self.own += 8 + length.next_multiple_of(8);
        Some(result)
    }

    pub(crate) fn release(&mut self) {
        if self.published != self.own {
            self.published = self.own;
            self.word(HEAD).store(self.own, Ordering::Release);
        }
    }
}

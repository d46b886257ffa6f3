//! Descriptors that close themselves without keeping anybody, and sockets from which they come.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, Shutdown};

use super::closers::Closers;

/// Descriptors that one message can bring at most: the kernel's own limit (`SCM_MAX_FD`), so that it closes none while this process
/// has as many to spare.
const DESCRIPTORS_MAX: usize = 253;

/// What is received is not inherited over `exec`; on Apple's systems it could be, in the moment before it is closed.
#[cfg(not(target_vendor = "apple"))]
const WITHOUT_WAITING: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);
#[cfg(target_vendor = "apple")]
const WITHOUT_WAITING: RecvFlags = RecvFlags::DONTWAIT;

/// Memory of up to this size is closed where it is dropped: freeing it takes some milliseconds, and nobody can make that longer.
#[cfg(target_os = "linux")]
const AT_ONCE_BYTES_MAX: i64 = 64 << 20;

static CLOSERS: Closers<Foreign> = Closers::new();
/// For ends of doorbells: they must not stay open because something else is stuck.
static BELL_CLOSERS: Closers<Foreign> = Closers::new();

/// What a peer may have had in its hands.
#[derive(Debug)]
struct Foreign(OwnedFd);

impl Drop for Foreign {
    fn drop(&mut self) {
        // This may wait, too: for whoever is sending over the socket. What is no socket doesn't linger.
        let _ = rustix::net::sockopt::set_socket_linger(&self.0, None);
    }
}

/// What a process holds open, and hands to another together with a message.
///
/// Dropped, it is closed by a thread of its own, since a peer may have seen to it that closing it takes long; of a socket, lingering
/// is switched off before, for all who have it. Memory that can be sealed and is not large is closed at once.
#[derive(Debug)]
pub struct Descriptor {
    /// Empty once it was closed or taken.
    open: Option<OwnedFd>,
    kind: Kind,
}

/// Who closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Memory that this process made.
    #[cfg(target_os = "linux")]
    OwnMemory,
    /// An end of a doorbell that this process made.
    Bell,
    Any,
}

impl Descriptor {
    #[cfg(target_os = "linux")]
    pub(crate) fn of_own_memory(open: OwnedFd) -> Self {
        Self { open: Some(open), kind: Kind::OwnMemory }
    }

    pub(crate) fn of_bell(open: OwnedFd) -> Self {
        Self { open: Some(open), kind: Kind::Bell }
    }

    /// A second one for the same thing.
    ///
    /// # Errors
    /// What the kernel says when descriptors are short.
    pub fn try_clone(&self) -> io::Result<Self> {
        let open = self.as_fd().try_clone_to_owned()?;
        Ok(Self { open: Some(open), kind: self.kind })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        match self.kind {
            #[cfg(target_os = "linux")]
            Kind::OwnMemory => drop(open),
            Kind::Bell => BELL_CLOSERS.close([Foreign(open)]),
            Kind::Any if is_small_memory(open.as_fd()) => drop(open),
            Kind::Any => CLOSERS.close([Foreign(open)]),
        }
    }
}

/// Drops what one peer has sent, and starts one thread for all of it. One for each would cost this one more than it cost the peer.
pub fn close_together(descriptors: impl IntoIterator<Item = Descriptor>) {
    let foreign = |mut descriptor: Descriptor| match descriptor.kind {
        Kind::Any if !is_small_memory(descriptor.as_fd()) => descriptor.open.take().map(Foreign),
        _ => None,
    };
    let foreign: Vec<Foreign> = descriptors.into_iter().filter_map(foreign).collect();
    if !foreign.is_empty() {
        CLOSERS.close(foreign);
    }
}

/// The kernel answers both questions by itself: what has seals is served by nobody else.
#[cfg(target_os = "linux")]
fn is_small_memory(open: BorrowedFd<'_>) -> bool {
    let has_seals = rustix::fs::fcntl_get_seals(open).is_ok();
    has_seals && rustix::fs::fstat(open).is_ok_and(|found| found.st_size <= AT_ONCE_BYTES_MAX)
}

#[cfg(not(target_os = "linux"))]
fn is_small_memory(_: BorrowedFd<'_>) -> bool {
    false
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.open.as_ref().expect("only who takes the whole takes it").as_fd()
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(open: OwnedFd) -> Self {
        Self { open: Some(open), kind: Kind::Any }
    }
}

impl From<Descriptor> for OwnedFd {
    fn from(mut descriptor: Descriptor) -> Self {
        descriptor.open.take().expect("only who takes the whole takes it")
    }
}

/// What one look at a socket brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes, in the buffer that was handed in; 0: the peer has closed.
    pub bytes: usize,
    /// Descriptors that came with them, in order.
    pub descriptors: Vec<Descriptor>,
    /// There were more, for which this process has no room; the kernel has closed them.
    pub cut: bool,
}

/// Takes bytes from a socket, and all descriptors that come with them, without waiting for more. Those that don't fit into this
/// process the kernel closes here and now, and that may take long.
///
/// # Errors
/// What the kernel says; `WouldBlock`: there is nothing yet.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(bytes)];
    let message = retry_on_intr(|| rustix::net::recvmsg(socket, &mut *parts, &mut control, WITHOUT_WAITING))?;
    let rights = control.drain().filter_map(|item| match item {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors = rights.flatten().map(Descriptor::from).collect();
    Ok(Received { bytes: message.bytes, descriptors, cut: message.flags.contains(ReturnFlags::CTRUNC) })
}

/// Empties a socket that is about to be closed: nobody can send to it any more, and what waits in it is taken out.
pub fn empty(socket: BorrowedFd<'_>) {
    // A socket whose other end is gone is shut down already.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
    let mut bytes = [0; 4096];
    while let Ok(received) = receive(socket, &mut bytes) {
        close_together(received.descriptors);
        if received.bytes == 0 {
            break;
        }
    }
}

/// Whether an error is the kernel's word that there is nothing, or no memory, at this moment.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AGAIN | Errno::NOMEM))
}

//! Descriptors that a hostile peer hands over where none belongs.
//!
//! Whoever closes the last copy of a descriptor may have to wait: a socket with `SO_LINGER` waits for its unsent data, for as
//! long as its owner chose (tried: a TCP connection to itself with a full window, passed with one byte, held up the plain `recv`
//! that dropped it). So no thread that others wait for closes what it did not ask for: not by dropping it, not by reading the byte
//! that it came with, and not by closing the socket in which it still waits.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, Shutdown};

/// Descriptors that one message can bring at most: the kernel's own limit (`SCM_MAX_FD`), so that none is closed by it.
const DESCRIPTORS_MAX: usize = 253;

/// What is received is not inherited over `exec`; on Apple's systems it could be, in the moment before it is closed.
#[cfg(not(target_vendor = "apple"))]
const WITHOUT_WAITING: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);
#[cfg(target_vendor = "apple")]
const WITHOUT_WAITING: RecvFlags = RecvFlags::DONTWAIT;

/// Threads that close descriptors at a time. Above it: the caller closes them.
const THREADS_MAX: usize = 16;

/// Threads that close descriptors now.
static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// Closes descriptors of a peer without waiting for it.
///
/// Their lingering is switched off, and a thread of its own closes them: the peer may have switched it on again. It has to win that
/// race sixteen times, each time for one hand-over, before the caller is the one who waits.
pub fn discard(strays: Vec<OwnedFd>) {
    if strays.is_empty() {
        return;
    }
    for stray in &strays {
        // What is no socket doesn't linger.
        let _ = rustix::net::sockopt::set_socket_linger(stray, None);
    }
    let turn = Turn::take();
    if turn.0 < THREADS_MAX {
        // Without a thread they are closed here.
        let _ = std::thread::Builder::new().name("eventbus-discard".into()).spawn(move || {
            drop(strays);
            drop(turn);
        });
    }
}

/// Empties a socket that is about to be closed: nobody can send to it any more, and what waits in it is [discarded](discard).
pub fn empty(socket: BorrowedFd<'_>) {
    // A socket whose other end is gone is shut down already.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
    let mut bytes = [0; 4096];
    loop {
        match receive(socket, &mut bytes) {
            Ok(Received { bytes: 1.., .. }) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// What a look at a socket brought that is not expected to carry descriptors.
pub(crate) struct Received {
    pub(crate) bytes: usize,
    /// It did.
    pub(crate) strays: bool,
}

/// Takes bytes from a socket, without waiting, and discards what comes with them.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, WITHOUT_WAITING)?;
    let rights = control.drain().filter_map(|item| match item {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let strays: Vec<OwnedFd> = rights.flatten().collect();
    let cut = message.flags.contains(ReturnFlags::CTRUNC);
    let received = Received { bytes: message.bytes, strays: cut || !strays.is_empty() };
    discard(strays);
    Ok(received)
}

/// One of those who close now, with the number of those who were there before.
struct Turn(usize);

impl Turn {
    fn take() -> Self {
        Self(CLOSING.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        CLOSING.fetch_sub(1, Ordering::Relaxed);
    }
}

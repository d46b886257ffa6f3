//! The doorbell: how a producer wakes a consumer that sleeps, and how each learns that the other is gone.
//!
//! A socket pair, one end each. Not an eventfd: its flags and its counter would be shared with the peer, who can make our
//! calls block. Not a pipe: writing to one without a reader raises SIGPIPE. Every call here says for itself that it neither
//! waits nor raises a signal, whatever the peer did to its end. A full socket is as good as a rung bell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Rings that one [`Doorbell::hear`] takes in. A peer that rings without end costs us no more than this per turn.
const RINGS_PER_TURN: usize = 256;

/// One end of a doorbell.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

/// The other end of a doorbell has been closed: the peer is done, or dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side of the ring is gone")]
pub struct PeerGone;

/// What a doorbell had to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It was rung, or nobody rang; the peer is there.
    PeerThere,
    /// The peer's end is closed, and its rings are all taken in.
    PeerGone,
}

impl Doorbell {
    /// Makes both ends of a doorbell. Neither is inherited over `exec`.
    ///
    /// # Errors
    /// What the kernel says when descriptors are short.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Wakes the peer. Never waits. `false`: the kernel had no memory for it, and the peer may still sleep; ring again
    /// with the next flush, whatever that says.
    ///
    /// # Errors
    /// [`PeerGone`] if nobody is there to wake.
    pub fn ring(&self) -> Result<bool, PeerGone> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // A call that a signal cut short has woken nobody.
        match retry_on_intr(|| rustix::net::send(&self.0, &[1], flags)) {
            Ok(_) | Err(Errno::AGAIN) => Ok(true),
            Err(Errno::NOBUFS | Errno::NOMEM) => Ok(false),
            Err(_) => Err(PeerGone),
        }
    }

    /// Takes in what the peer rang. Never waits.
    pub fn hear(&self) -> Heard {
        let mut rings = [0; RINGS_PER_TURN];
        match rustix::net::recv(&self.0, &mut rings, RecvFlags::DONTWAIT) {
            Ok((_, 1..)) | Err(Errno::AGAIN | Errno::INTR | Errno::NOMEM) => Heard::PeerThere,
            Ok(_) | Err(_) => Heard::PeerGone,
        }
    }
}

impl From<OwnedFd> for Doorbell {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl From<Doorbell> for OwnedFd {
    fn from(doorbell: Doorbell) -> Self {
        doorbell.0
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

//! The doorbell: how a producer wakes a consumer that sleeps, and how each learns that the other is gone.
//!
//! A socket pair, one end each. Not an eventfd: its flags and its counter would be shared with the peer, who can make our
//! calls block. Not a pipe: writing to one without a reader raises SIGPIPE. Every call here says for itself that it neither
//! waits nor raises a signal, whatever the peer did to its end. A full socket is as good as a rung bell.
//!
//! It goes one way. A socket carries descriptors, too, and those can make whoever closes them wait ([`crate::discard`]): the
//! ringing end can be sent nothing, and a hearing end to which one is sent takes its peer for gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType};

use crate::stray::{self, Received};

/// Rings that one [`Doorbell::hear`] takes in. A peer that rings without end costs us no more than this per turn.
const RINGS_PER_TURN: usize = 256;

/// One end of a doorbell. Dropped, it is shut down: for each copy of its descriptor, wherever that is.
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
    /// The peer's end is closed, and its rings are all taken in; or it sent what is no ring.
    PeerGone,
}

impl Doorbell {
    /// Makes a doorbell: the end that rings, and the end that hears.
    ///
    /// # Errors
    /// As [`ends`](Self::ends).
    pub fn pair() -> io::Result<(Self, Self)> {
        let (ringing, hearing) = Self::ends()?;
        Ok((Self(ringing), Self(hearing)))
    }

    /// Both ends of a doorbell, for two other processes: the one that rings, and the one that hears. Neither is inherited over
    /// `exec`.
    ///
    /// # Errors
    /// What the kernel says when descriptors are short.
    pub fn ends() -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ringing, hearing) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::shutdown(&hearing, Shutdown::Write)?;
        Ok((ringing, hearing))
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

    /// Takes in what the peer rang; at the ringing end there is nothing but its absence to hear. Never waits.
    pub fn hear(&self) -> Heard {
        let mut rings = [0; RINGS_PER_TURN];
        match stray::receive(self.0.as_fd(), &mut rings) {
            Ok(Received { strays: true, .. }) => Heard::PeerGone,
            Ok(Received { bytes: 1.., .. }) | Err(Errno::AGAIN | Errno::INTR | Errno::NOMEM) => {
                Heard::PeerThere
            }
            // The ringing end has nothing to read from the start.
            Ok(_) if !self.is_hung_up() => Heard::PeerThere,
            Ok(_) | Err(_) => Heard::PeerGone,
        }
    }

    /// Whether both directions are closed.
    fn is_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Where the kernel can't say, the next look will.
        let looked = rustix::event::poll(&mut polled, Some(&now));
        looked.is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        stray::empty(self.0.as_fd());
    }
}

impl From<OwnedFd> for Doorbell {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

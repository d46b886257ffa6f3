//! The socket pair behind a doorbell. Linux says with each call what it must not do; Apple's systems are told once, for the
//! socket: what is said of the socket holds for whoever it is handed to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Heard, PeerGone};

/// Sends neither wait, nor raise a signal when nobody is there any more.
#[cfg(not(target_vendor = "apple"))]
const QUIETLY: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// The socket itself raises no signal here; see [`sockets`].
#[cfg(target_vendor = "apple")]
const QUIETLY: SendFlags = SendFlags::DONTWAIT;

/// Rings that one [`Doorbell::hear`] takes in. A peer that rings without end costs us no more than this per turn.
const RINGS_PER_TURN: usize = 256;

/// One end of a doorbell.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// Makes both ends of a doorbell. Neither is inherited over `exec`.
    ///
    /// # Errors
    /// What the kernel says when descriptors are short.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = sockets()?;
        Ok((Self(one), Self(other)))
    }

    /// Wakes the peer. Never waits. `false`: the kernel had no memory for it, and the peer may still sleep; ring again
    /// with the next flush, whatever that says.
    ///
    /// # Errors
    /// [`PeerGone`] if nobody is there to wake.
    pub fn ring(&self) -> Result<bool, PeerGone> {
        match rustix::net::send(&self.0, &[1], QUIETLY) {
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

#[cfg(not(target_vendor = "apple"))]
fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// A child that is forked in between inherits them, which no flag of this system prevents.
#[cfg(target_vendor = "apple")]
fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)?;
    for socket in [&pair.0, &pair.1] {
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(socket, true)?;
        rustix::net::sockopt::set_socket_nosigpipe(socket, true)?;
    }
    Ok(pair)
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

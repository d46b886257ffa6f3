//! The socket pair behind a doorbell. Linux says with each call what it must not do; Apple's systems are told once, for the
//! socket: what is said of the socket holds for whoever it is handed to.
//!
//! A socket carries descriptors, too, and those can make whoever closes them wait ([`crate::Descriptor`]). So each look takes them
//! out, and so does the drop; who sent one is taken for gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::descriptor::{self, Descriptor, Received};

use super::{Heard, PeerGone};

/// Sends neither wait, nor raise a signal when nobody is there any more.
#[cfg(not(target_vendor = "apple"))]
const QUIETLY: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// The socket itself raises no signal here; see [`sockets`].
#[cfg(target_vendor = "apple")]
const QUIETLY: SendFlags = SendFlags::DONTWAIT;

/// Rings that one [`Doorbell::hear`] takes in. A peer that rings without end costs us no more than this per turn.
const RINGS_PER_TURN: usize = 256;

/// One end of a doorbell. Dropped, it is shut down: for each copy of its descriptor, wherever that is.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// Makes both ends of a doorbell, for two threads of this process.
    ///
    /// # Errors
    /// As [`ends`](Self::ends).
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = sockets()?;
        Ok((Self(one), Self(other)))
    }

    /// Both ends of a doorbell, to be handed to other processes: a [`Doorbell`] made of one is shut down when it is dropped, wherever
    /// there are copies of it. Neither is inherited over `exec`.
    ///
    /// # Errors
    /// What the kernel says when descriptors are short.
    pub fn ends() -> io::Result<(Descriptor, Descriptor)> {
        let (one, other) = sockets()?;
        Ok((Descriptor::of_bell(one), Descriptor::of_bell(other)))
    }

    /// Wakes the peer. Never waits. `false`: the kernel had no memory for it, and the peer may still sleep; ring again
    /// with the next flush, whatever that says.
    ///
    /// # Errors
    /// [`PeerGone`] if nobody is there to wake.
    pub fn ring(&self) -> Result<bool, PeerGone> {
        // A call that a signal cut short has woken nobody.
        match retry_on_intr(|| rustix::net::send(&self.0, &[1], QUIETLY)) {
            Ok(_) | Err(Errno::AGAIN) => Ok(true),
            Err(Errno::NOBUFS | Errno::NOMEM) => Ok(false),
            Err(_) => Err(PeerGone),
        }
    }

    /// Takes in what the peer rang. Never waits.
    pub fn hear(&self) -> Heard {
        let mut rings = [0; RINGS_PER_TURN];
        let there = match descriptor::receive(self.0.as_fd(), &mut rings) {
            Ok(Received { bytes, descriptors, cut }) => bytes > 0 && descriptors.is_empty() && !cut,
            Err(error) => descriptor::is_passing(&error),
        };
        if there { Heard::PeerThere } else { Heard::PeerGone }
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        descriptor::empty(self.0.as_fd());
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

impl From<Descriptor> for Doorbell {
    fn from(descriptor: Descriptor) -> Self {
        Self(descriptor.into())
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

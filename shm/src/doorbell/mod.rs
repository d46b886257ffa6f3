//! The doorbell: how a producer wakes a consumer that sleeps, and how each learns that the other is gone.
//!
//! A socket pair, one end each. Not an eventfd: its flags and its counter would be shared with the peer, who can make our
//! calls block. Not a pipe: writing to one without a reader raises SIGPIPE. Every call here neither waits nor raises a signal,
//! whatever the peer did to its end. A full socket is as good as a rung bell.
//!
//! Windows has none yet: [`Doorbell::pair`] says so there.

#[cfg(not(unix))]
mod absent;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub use absent::Doorbell;
#[cfg(unix)]
pub use unix::Doorbell;

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

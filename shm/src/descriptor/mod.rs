//! What is handed over beside the bytes of a message, and how it is closed.
//!
//! Whoever closes the last copy of a descriptor may have to wait: a socket with `SO_LINGER` for its unsent data, a file of a file
//! system in user space for whoever serves it, a socket for all that still waits in it. How long, its owner chose. (Tried: a TCP
//! connection to itself with a full window, passed with one byte, held up the plain `recv` that dropped it.) So no thread that
//! others wait for closes what a peer may have had in its hands, unless it is memory and not large: not by dropping it, not by reading the byte that it came with, and
//! not by closing the socket in which it still waits. (One way is left, where a process is short of descriptors: see [`receive`].)

#[cfg(not(unix))]
mod absent;
#[cfg(unix)]
mod closers;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub use absent::{Descriptor, close_together};
#[cfg(unix)]
pub(crate) use unix::is_passing;
#[cfg(unix)]
pub use unix::{Descriptor, Received, close_together, empty, receive};

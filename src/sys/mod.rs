//! The wall between the bus and the operating system: sockets, descriptors that travel over them, who is at the other end,
//! clocks, and sleeping on doorbells. No other module of this crate has a `cfg` on the platform. (Memory has a wall of its own:
//! the `shm` crate.)
//!
//! A platform supplies:
//! - [`Listener`]: binds a path so that nobody but the owner can connect from the first moment on, never takes over a
//!   live broker's path, replaces a dead one's, and removes its own (and only its own) when dropped;
//! - [`connect`], which yields a [`Socket`], and [`Stream`]: bytes and descriptors in both directions, surplus descriptors
//!   closed at once;
//! - [`Credentials`]: who the kernel says is at the other end, and whether that process still lives, and where the
//!   kernel can't say so, a warning; [`uid_of_peer`] and [`own_uid`], where the user is all that matters;
//! - [`wait`]: sleep until one of several doorbells rings; [`Bell`] and [`first_ring`], the same for a runtime;
//! - [`monotonic_nanos`]: the clock that all processes of the host share;
//! - [`read_trusted`]: a text file that others can't have written.
//!
//! Linux does. Elsewhere `unsupported` stands in: it says so to whoever listens or connects, and the rest of it has no values.

use std::io;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod listener;
#[cfg(target_os = "linux")]
mod trusted;
#[cfg(not(target_os = "linux"))]
mod unsupported;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    Bell, Credentials, Socket, Stream, connect, first_ring, monotonic_nanos, own_uid, uid_of_peer, wait,
};
#[cfg(target_os = "linux")]
pub(crate) use listener::Listener;
#[cfg(target_os = "linux")]
pub(crate) use trusted::read_trusted;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::{
    Bell, Credentials, Listener, Socket, Stream, connect, first_ring, monotonic_nanos, own_uid, read_trusted,
    uid_of_peer, wait,
};

/// Why the broker can't listen at its path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another broker serves this path, or is about to.
    #[error("a broker is live at {path}")]
    Live {
        /// The path of its socket.
        path: PathBuf,
    },
    /// Something that is not a socket stands at the path.
    #[error("{path} exists and is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("the socket path has {bytes} bytes, at most {limit} are possible: {path}")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The longest that is possible.
        limit: usize,
    },
    /// Anybody could put another socket in place of the broker's.
    #[error("the folder {folder} is not safe for a socket: {why}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The operating system refuses.
    #[error("can't {step} at {path}: {source}")]
    Host {
        /// What was tried.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This platform has no transport for the control plane yet.
    #[error("nobody can listen at {path}: this platform is not supported yet")]
    Unsupported {
        /// The path.
        path: PathBuf,
    },
}

/// Why a file is not read that says who may do what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Somebody else than this process's user and root may have written it, or may put another in its place.
    #[error("it can't be relied on: {path} {why}")]
    Unsafe {
        /// The file, or a folder or link on the way to it.
        path: PathBuf,
        /// What is wrong with that.
        why: &'static str,
    },
    /// It is no regular file.
    #[error("{path} is no regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It is larger than any file of its kind needs to be.
    #[error("{path} has more than {limit} bytes")]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// The most that is read.
        limit: usize,
    },
    /// It is not UTF-8.
    #[error("{path} is not UTF-8 in line {line}")]
    NotText {
        /// The path.
        path: PathBuf,
        /// The first line that is not, from 1.
        line: usize,
    },
    /// The operating system refuses.
    #[error("can't read {path}: {source}")]
    Host {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

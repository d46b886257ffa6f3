//! The wall between the bus and the operating system: sockets, descriptors that travel over them, who is at the other end,
//! clocks, and sleeping on doorbells. No other module of this crate has a `cfg` on the platform. (Memory has a wall of its own:
//! the `shm` crate.)
//!
//! A platform supplies:
//! - [`Listener`]: binds a path so that nobody but the owner can connect from the first moment on, never takes over a
//!   live broker's path or one that a stranger can exchange, replaces a dead one's, and removes its own (and only its own) when dropped;
//! - [`connect`] and [`connect_at_once`], which yield a [`Socket`], and [`Stream`]: bytes and descriptors in both directions, surplus descriptors
//!   closed at once;
//! - [`pair`], a connection with a process that is yet to be started, and [`SocketEnd`], the end that it gets;
//! - [`Secret`]: bytes that are kept where no core dump has them, and the files by which they are shared;
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
mod credentials;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod listener;
#[cfg(target_os = "linux")]
mod pair;
#[cfg(target_os = "linux")]
mod secret;
#[cfg(target_os = "linux")]
mod trusted;
#[cfg(not(target_os = "linux"))]
mod unsupported;

#[cfg(target_os = "linux")]
pub(crate) use credentials::{Credentials, own_uid, uid_of_peer};
#[cfg(target_os = "linux")]
pub(crate) use linux::{Bell, Socket, Stream, connect, connect_at_once, first_ring, monotonic_nanos, wait};
#[cfg(target_os = "linux")]
pub(crate) use listener::{Listener, PATH_BYTES_MAX};
#[cfg(target_os = "linux")]
pub use pair::SocketEnd;
#[cfg(target_os = "linux")]
pub(crate) use pair::{pair, take_stdin};
#[cfg(target_os = "linux")]
pub(crate) use secret::{SECRET_BYTES, Secret, expose, open_private, randomize, read_file, write_token};
#[cfg(target_os = "linux")]
pub(crate) use trusted::read_trusted;
#[cfg(not(target_os = "linux"))]
pub use unsupported::SocketEnd;
#[cfg(not(target_os = "linux"))]
pub(crate) use unsupported::{
    Bell, Credentials, Listener, PATH_BYTES_MAX, SECRET_BYTES, Secret, Socket, Stream, connect,
    connect_at_once, expose, first_ring, monotonic_nanos, open_private, own_uid, pair, randomize, read_file,
    read_trusted, take_stdin, uid_of_peer, wait, write_token,
};

/// The group that may connect to a broker, where [`socket_mode`](crate::BrokerOptions::socket_mode) lets one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketGroup {
    /// By its number.
    Id(u32),
    /// By its name, which the host looks up when the broker starts.
    Name(String),
}

impl From<u32> for SocketGroup {
    fn from(id: u32) -> Self {
        Self::Id(id)
    }
}

impl From<&str> for SocketGroup {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

/// Where the key of the broker at a path stands.
pub(crate) fn key_path(socket: &std::path::Path) -> PathBuf {
    socket.with_added_extension("key")
}

/// Who may connect to a socket, by its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) mode: u32,
    pub(crate) group: Option<SocketGroup>,
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

fn cause(source: Option<&io::Error>) -> String {
    source.map_or_else(String::new, |error| format!(": {error}"))
}

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
    /// What another user has stands where the broker's socket or lock would: a broker of that user, or a squatter.
    #[error("{path} is held by uid {uid}{}", process(*pid))]
    Foreign {
        /// The path, of the socket or of the lock file beside it.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// The process that serves it, or holds it locked, where the kernel tells.
        pid: Option<u32>,
    },
    /// The caller's: there is no such group, or the host can't look it up.
    #[error("no group has the name {name}{}", cause(source.as_ref()))]
    NoGroup {
        /// The name.
        name: String,
        /// What the system said; `None`: there is no such group.
        source: Option<io::Error>,
    },
    /// This process may not give its socket to that group: it is not a member.
    #[error("the socket can't be given to group {group}: {source}")]
    Group {
        /// The number of the group.
        group: u32,
        /// What the system said.
        source: io::Error,
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

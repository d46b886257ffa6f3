//! The broker's socket in the file system.
//!
//! Beside the socket lies a lock file. Who holds its lock is the live broker of that path; so a socket whose lock is free
//! belongs to nobody, and is replaced. The kernel drops the lock with the process, however that ended.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use interprocess::local_socket::{GenericFilePath, ListenerNonblockingMode, ListenerOptions, ToFsName as _};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use rustix::fs::{FlockOperation, OFlags};
use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest path of a socket: `sun_path` less its terminating zero.
const PATH_BYTES_MAX: usize = 107;

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
    #[error("the socket path has {bytes} bytes, at most {PATH_BYTES_MAX} are possible: {path}")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
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
}

/// A listening socket with its file and its lock.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<OwnedFd>,
    path: PathBuf,
    identity: (u64, u64),
    lock_path: PathBuf,
    _lock: File,
}

impl Listener {
    /// Listens at `path`, the socket file having this `mode` from the moment it exists. A missing folder is made, for the
    /// owner alone. To be called within a runtime.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let host = |step| {
            let path = path.to_owned();
            move |source| ListenError::Host { step, path, source }
        };
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            return Err(ListenError::PathTooLong { path: path.to_owned(), bytes });
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(host("make the folder"))?;
        }
        let lock_path = path.with_added_extension("lock");
        let lock = lock(&lock_path, path)?;
        remove_stale(path)?;
        let socket = listen(path, mode).map_err(host("listen"))?;
        let metadata = std::fs::symlink_metadata(path).map_err(host("find the socket"))?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { socket, path: path.to_owned(), identity, lock_path, _lock: lock })
    }

    /// Waits for a client. Cancel-safe.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        let accept = |socket: &OwnedFd| {
            Ok(rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
        };
        self.socket.async_io(Interest::READABLE, accept).await
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    /// Removes the socket if it is still the one that was bound, and the lock file while its lock is held.
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

fn listen(path: &Path, mode: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let listener = ListenerOptions::new()
        .name(path.to_fs_name::<GenericFilePath>()?)
        .mode(mode)
        .reclaim_name(false)
        .nonblocking(ListenerNonblockingMode::Both)
        .create_sync()?;
    let interprocess::local_socket::Listener::UdSocket(listener) = listener;
    // The mode given before bind is still subject to the umask; this can only widen it, by what was asked for.
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    AsyncFd::new(listener.into())
}

/// Takes the lock file of a path. It is removed at the end of its holder, so a lock on a file that is no longer there
/// counts for nothing.
fn lock(lock_path: &Path, path: &Path) -> Result<File, ListenError> {
    let host = |step| {
        let path = lock_path.to_owned();
        move |source| ListenError::Host { step, path, source }
    };
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(lock_path)
            .map_err(host("open the lock file"))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(ListenError::Live { path: path.to_owned() });
        }
        let held = file.metadata().map_err(host("inspect the lock file"))?;
        let named = std::fs::symlink_metadata(lock_path);
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}

/// Removes a dead broker's socket. The lock is held: nobody serves this path.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path).map_err(|source| {
            ListenError::Host { step: "remove the stale socket", path: path.to_owned(), source }
        }),
        Ok(_) => Err(ListenError::NotASocket { path: path.to_owned() }),
    }
}

//! The broker's socket in the file system.
//!
//! Beside the socket lies a lock file. Who holds its lock is the live broker of that path; so a socket whose lock is free
//! belongs to nobody, and is replaced. The kernel drops the lock with the process, however that ended.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use interprocess::local_socket::{GenericFilePath, ListenerNonblockingMode, ListenerOptions, ToFsName as _};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use tokio::net::UnixListener;

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
    socket: UnixListener,
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
            make_folder(folder).map_err(host("make the folder"))?;
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
        let (stream, _) = self.socket.accept().await?;
        Ok(stream.into_std()?.into())
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

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let listener = ListenerOptions::new()
        .name(path.to_fs_name::<GenericFilePath>()?)
        .mode(mode)
        .reclaim_name(false)
        .nonblocking(ListenerNonblockingMode::Both)
        .create_sync()?;
    let interprocess::local_socket::Listener::UdSocket(listener) = listener;
    widen(path, mode)?;
    UnixListener::from_std(OwnedFd::from(listener).into())
}

/// Makes the folder, for its owner alone, if it is missing. Only the last one of its path: more is a slip of the pen.
fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made,
    }
}

/// Gives the socket's file the rest of its mode: what is set before bind is still cut by the umask. By descriptor and not by
/// name: in a folder that others can write to, the name may stand for something else by now.
fn widen(path: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let status = rustix::fs::fstat(&file)?;
    let own = FileType::from_raw_mode(status.st_mode) == FileType::Socket
        && status.st_uid == rustix::process::geteuid().as_raw();
    if !own {
        return Err(io::Error::other("it is not the socket that was just made"));
    }
    let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(by_descriptor, PermissionsExt::from_mode(mode))
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

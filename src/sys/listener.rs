//! The broker's socket in the file system.
//!
//! Beside the socket lies a lock file. Who holds its lock is the live broker of that path; so a socket whose lock is free
//! belongs to nobody, and is replaced. The kernel drops the lock with the process, however that ended. Lock files get deleted
//! by those who tidy up, so a socket is asked once more, by connecting to it, before it is removed.
//!
//! Who can write to the folder can put another socket in place of ours: clients notice, since they ask the kernel whom they
//! talk to. A folder in which anybody can do so is refused all the same.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use interprocess::local_socket::{GenericFilePath, ListenerNonblockingMode, ListenerOptions, ToFsName as _};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use super::{ListenError, Socket};

/// Longest path of a socket: `sun_path` less its terminating zero.
const PATH_BYTES_MAX: usize = 107;

/// A listening socket with its file and its lock. Dropped in this order, so that the file goes while the lock is held.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    _file: Placed,
    _lock: Lock,
}

impl Listener {
    /// Listens at `path`, the socket file having this `mode` from the moment it exists. A missing folder is made, for the
    /// owner alone. To be called within a runtime.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            return Err(ListenError::PathTooLong { path: path.to_owned(), bytes, limit: PATH_BYTES_MAX });
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        prepare(folder.unwrap_or(Path::new(".")))?;
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        let (socket, file) = listen(path, mode).map_err(host("listen", path))?;
        Ok(Self { socket, _file: file, _lock: lock })
    }

    /// Waits for a client. Cancel-safe.
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => return Ok(stream.into_std()?.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A file that was put at a path, by its identity: what stands there later may be somebody else's.
#[derive(Debug)]
struct Placed {
    path: PathBuf,
    identity: (u64, u64),
}

impl Placed {
    fn is_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

impl Drop for Placed {
    /// Removes the file if it is still the one that was put there.
    fn drop(&mut self) {
        if self.is_there() {
            // Whatever is left, the next start replaces.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The lock of a path. Dropped in this order, so that the file goes while the lock is held.
#[derive(Debug)]
struct Lock {
    _placed: Placed,
    _file: File,
}

impl Lock {
    /// Takes the lock of the socket at `path`. Its file is removed at the end of its holder, so a lock on a file that is no
    /// longer there counts for nothing.
    fn take(path: &Path) -> Result<Self, ListenError> {
        let lock_path = path.with_added_extension("lock");
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(&lock_path)
                .map_err(host("open the lock file", &lock_path))?;
            match retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(ListenError::Live { path: path.to_owned() }),
                Err(errno) => return Err(host("lock the lock file", &lock_path)(errno.into())),
            }
            let held = file.metadata().map_err(host("inspect the lock file", &lock_path))?;
            let placed = Placed { path: lock_path.clone(), identity: (held.dev(), held.ino()) };
            if placed.is_there() {
                return Ok(Self { _placed: placed, _file: file });
            }
        }
    }
}

fn host(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |source| ListenError::Host { step, path, source }
}

/// Makes the folder if it is missing, and looks who can write to it. Who may be in the same group is up to the owner.
fn prepare(folder: &Path) -> Result<(), ListenError> {
    const ANYBODY_WRITES: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    // The last one of its path alone: more would be a slip of the pen.
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(host("make the folder", folder)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let found = std::fs::metadata(folder).map_err(host("inspect the folder", folder))?;
    let unsafe_because = |why| Err(ListenError::Folder { folder: folder.to_owned(), why });
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return unsafe_because("it belongs to another user");
    }
    if found.mode() & ANYBODY_WRITES != 0 && found.mode() & STICKY == 0 {
        return unsafe_because("anybody can write to it, and it is not sticky");
    }
    Ok(())
}

fn listen(path: &Path, mode: u32) -> io::Result<(UnixListener, Placed)> {
    let listening = ListenerOptions::new()
        .name(path.to_fs_name::<GenericFilePath>()?)
        .mode(mode)
        .reclaim_name(false)
        .nonblocking(ListenerNonblockingMode::Both)
        .create_sync()
        .and_then(|listener| Ok((listener, widen(path, mode)?)));
    let (listener, file) = listening.inspect_err(|error| {
        if error.kind() != io::ErrorKind::AddrInUse {
            remove_own(path);
        }
    })?;
    let interprocess::local_socket::Listener::UdSocket(listener) = listener;
    Ok((UnixListener::from_std(OwnedFd::from(listener).into())?, file))
}

/// Removes the socket of an attempt to listen that failed after its file was made.
fn remove_own(path: &Path) {
    let own = |found: std::fs::Metadata| {
        found.file_type().is_socket() && found.uid() == rustix::process::geteuid().as_raw()
    };
    if std::fs::symlink_metadata(path).is_ok_and(own) {
        // Whatever is left, the next start replaces.
        let _ = std::fs::remove_file(path);
    }
}

/// Gives the socket's file the rest of its mode: what is set before bind is still cut by the umask. By descriptor and not by
/// name: in a folder that others can write to, the name may stand for something else by now.
fn widen(path: &Path, mode: u32) -> io::Result<Placed> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
    let status = rustix::fs::fstat(&file)?;
    let own = FileType::from_raw_mode(status.st_mode) == FileType::Socket
        && status.st_uid == rustix::process::geteuid().as_raw();
    if !own {
        return Err(io::Error::other("it is not the socket that was just made"));
    }
    let placed = Placed { path: path.to_owned(), identity: (status.st_dev, status.st_ino) };
    if Mode::from_raw_mode(status.st_mode) != Mode::from_raw_mode(mode) {
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::set_permissions(by_descriptor, PermissionsExt::from_mode(mode))?;
    }
    Ok(placed)
}

/// Removes a dead broker's socket. The lock is held: nobody serves this path, unless the file of the lock was deleted.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {
            if is_served(path).map_err(host("ask who serves the socket", path))? {
                return Err(ListenError::Live { path: path.to_owned() });
            }
            std::fs::remove_file(path).map_err(host("remove the stale socket", path))
        }
        Ok(_) => Err(ListenError::NotASocket { path: path.to_owned() }),
    }
}

/// Whether somebody listens on the socket at `path`.
fn is_served(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // A full queue of clients is somebody's.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;

//! The broker's socket in the file system.
//!
//! Beside the socket lies a lock file. Who holds its lock is the live broker of that path; so a socket whose lock is free
//! belongs to nobody, and is replaced. The kernel drops the lock with the process, however that ended. Lock files get deleted
//! by those who tidy up, so a socket is asked once more, by connecting to it, before it is removed.
//!
//! Who can write to the folder can put another socket in place of ours: clients notice, since they ask the kernel whom they
//! talk to. A folder in which anybody can do so is refused all the same. What remains is a stranger who is first, in a folder like
//! `/tmp`: that broker does not start, and the error names the stranger.

mod folder;
mod group;
mod lock;

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use interprocess::local_socket::{GenericFilePath, ListenerNonblockingMode, ListenerOptions, ToFsName as _};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::credentials::uid_and_pid_of_peer;
use super::{Access, ListenError, SECRET_BYTES, Secret, Socket, secret};
use lock::Lock;

/// Longest path of a socket: `sun_path` less its terminating zero.
pub(crate) const PATH_BYTES_MAX: usize = 107;

/// A listening socket with its file and its lock. Dropped in this order, so that the file goes while the lock is held.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<OwnedFd>,
    _file: Placed,
    _key: Placed,
    _lock: Lock,
}

impl Listener {
    /// Listens at `path`, and shares the key. The socket file is its owner's alone until it is the group's that it is for, and has the mode that was
    /// asked for. A missing folder is made, for the owner alone. To be called within a runtime.
    pub(crate) fn bind(path: &Path, access: &Access, key: &Secret) -> Result<Self, ListenError> {
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            return Err(ListenError::PathTooLong { path: path.to_owned(), bytes, limit: PATH_BYTES_MAX });
        }
        let group = access.group.as_ref().map(group::number).transpose()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder::prepare(folder.unwrap_or(Path::new(".")))?;
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        // Who can connect can read it.
        let key = place_key(path, key, access.mode, group)?;
        let (socket, file) = listen(path, access.mode, group)?;
        Ok(Self { socket, _file: file, _key: key, _lock: lock })
    }

    /// Waits for a client. Cancel-safe.
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        let accept = |socket: &OwnedFd| {
            let accepted = retry_on_intr(|| rustix::net::accept_with(socket, SocketFlags::CLOEXEC));
            Ok(accepted?)
        };
        self.socket.async_io(Interest::READABLE, accept).await
    }
}

/// A file at a path, by its identity: what stands there later may be somebody else's.
#[derive(Debug, Clone)]
struct Identity {
    path: PathBuf,
    number: (u64, u64),
}

impl Identity {
    fn is_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.number)
    }
}

/// A file that goes with this.
#[derive(Debug)]
struct Placed(Identity);

impl Placed {
    fn new(path: &Path, device: u64, file: u64) -> Self {
        Self(Identity { path: path.to_owned(), number: (device, file) })
    }
}

impl Drop for Placed {
    /// Removes the file if it is still the one that was put there.
    fn drop(&mut self) {
        if self.0.is_there() {
            // Whatever is left, the next start replaces.
            let _ = std::fs::remove_file(&self.0.path);
        }
    }
}

fn host(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |source| ListenError::Host { step, path, source }
}

/// Puts the broker's key beside its socket, in place of a dead broker's. Those may read it who may connect.
fn place_key(
    socket: &Path,
    key: &Secret,
    socket_mode: u32,
    group: Option<u32>,
) -> Result<Placed, ListenError> {
    let path = super::key_path(socket);
    if let Ok(found) = std::fs::symlink_metadata(&path) {
        let removed = if found.is_file() && found.len() <= SECRET_BYTES as u64 {
            std::fs::remove_file(&path)
        } else {
            Err(io::Error::other("what is there is no broker's key"))
        };
        if removed.is_err() && found.uid() != rustix::process::geteuid().as_raw() {
            return Err(ListenError::Foreign { path, uid: found.uid(), pid: None });
        }
        removed.map_err(host("replace the key file", &path))?;
    }
    let readers = (socket_mode & 0o222) << 1;
    let written = |error| host("write the key file", &path)(error);
    let file = secret::new_file(&path).map_err(written)?;
    // It was not there before, and the lock is ours.
    let made = file.metadata().inspect_err(|_| drop(std::fs::remove_file(&path))).map_err(written)?;
    let placed = Placed::new(&path, made.dev(), made.ino());
    if let Some(group) = group {
        group::give(file.as_fd(), group)?;
    }
    secret::fill(file, key, readers).map_err(written)?;
    Ok(placed)
}

fn listen(path: &Path, mode: u32, group: Option<u32>) -> Result<(AsyncFd<OwnedFd>, Placed), ListenError> {
    // The group that it is made with is not the one that it is for.
    let first_mode = if group.is_some() { mode & 0o700 } else { mode };
    let listener = create(path, first_mode).map_err(host("listen", path))?;
    let file = open_up(path, mode, group).inspect_err(|_| remove_own(path))?;
    Ok((listener, file))
}

fn create(path: &Path, mode: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let listener = ListenerOptions::new()
        .name(path.to_fs_name::<GenericFilePath>()?)
        .mode(mode)
        .reclaim_name(false)
        .nonblocking(ListenerNonblockingMode::Both)
        .create_sync();
    let interprocess::local_socket::Listener::UdSocket(listener) = listener.inspect_err(|error| {
        if error.kind() != io::ErrorKind::AddrInUse {
            remove_own(path);
        }
    })?;
    let listener = AsyncFd::with_interest(OwnedFd::from(listener), Interest::READABLE);
    listener.inspect_err(|_| remove_own(path))
}

/// Removes the socket of an attempt to listen that failed after its file was made.
fn remove_own(path: &Path) {
    let own =
        |found: Metadata| found.file_type().is_socket() && found.uid() == rustix::process::geteuid().as_raw();
    if std::fs::symlink_metadata(path).is_ok_and(own) {
        // Whatever is left, the next start replaces.
        let _ = std::fs::remove_file(path);
    }
}

/// Gives the socket's file its group, and the rest of its mode: what is set before bind is still cut by the umask. By descriptor
/// and not by name: in a folder that others can write to, the name may stand for something else by now.
fn open_up(path: &Path, mode: u32, group: Option<u32>) -> Result<Placed, ListenError> {
    let refused = |error: io::Error| host("set the mode of the socket", path)(error);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
    let file = file.map_err(|errno| refused(errno.into()))?;
    let status = rustix::fs::fstat(&file).map_err(|errno| refused(errno.into()))?;
    let own = FileType::from_raw_mode(status.st_mode) == FileType::Socket
        && status.st_uid == rustix::process::geteuid().as_raw();
    if !own {
        return Err(refused(io::Error::other("it is not the socket that was just made")));
    }
    let placed = Placed::new(path, status.st_dev, status.st_ino);
    if let Some(group) = group {
        group::give(file.as_fd(), group)?;
    }
    if Mode::from_raw_mode(status.st_mode) != Mode::from_raw_mode(mode) {
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::set_permissions(by_descriptor, PermissionsExt::from_mode(mode)).map_err(refused)?;
    }
    Ok(placed)
}

/// Removes a dead broker's socket. The lock is held: nobody serves this path, unless the file of the lock was deleted, or a stranger
/// does not care for locks.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    let own = rustix::process::geteuid().as_raw();
    let foreign = |uid, pid| ListenError::Foreign { path: path.to_owned(), uid, pid };
    match server(path) {
        Ok(Some(Server { uid, .. })) if uid == own => Err(ListenError::Live { path: path.to_owned() }),
        Ok(Some(Server { uid, pid })) => Err(foreign(uid, pid)),
        Ok(None) => match std::fs::remove_file(path) {
            Err(_) if found.uid() != own => Err(foreign(found.uid(), None)),
            removed => removed.map_err(host("remove the stale socket", path)),
        },
        Err(_) if found.uid() != own => Err(foreign(found.uid(), None)),
        Err(error) => Err(host("ask who serves the socket", path)(error)),
    }
}

/// Who listens on a socket.
struct Server {
    uid: u32,
    pid: Option<u32>,
}

/// Asks who listens on the socket at `path`. Nothing is sent.
fn server(path: &Path) -> io::Result<Option<Server>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {
            let (uid, pid) = uid_and_pid_of_peer(&socket)?;
            Ok(Some(Server { uid, pid }))
        }
        // A full queue of clients is somebody's: its file tells whose.
        Err(Errno::AGAIN) => Ok(Some(Server { uid: std::fs::symlink_metadata(path)?.uid(), pid: None })),
        Err(Errno::CONNREFUSED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;

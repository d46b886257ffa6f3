//! The lock file beside a socket, and who keeps it from us.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{Placed, host};
use crate::sys::ListenError;

/// The lock of a path. Dropped in this order, so that the file goes while the lock is held.
#[derive(Debug)]
pub(super) struct Lock {
    placed: Placed,
    _file: File,
}

impl Lock {
    /// Takes the lock of the socket at `path`. Its file is removed at the end of its holder, so a lock on a file that is no
    /// longer there counts for nothing.
    pub(super) fn take(path: &Path) -> Result<Self, ListenError> {
        let lock_path = path.with_added_extension("lock");
        loop {
            let Some(file) = open(&lock_path)? else { continue };
            let status = file.metadata().map_err(host("inspect the lock file", &lock_path))?;
            let own = status.uid() == rustix::process::geteuid().as_raw();
            match retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if own => return Err(ListenError::Live { path: path.to_owned() }),
                Err(Errno::WOULDBLOCK) => return Err(foreign(&lock_path, &status)),
                Err(errno) => return Err(host("lock the lock file", &lock_path)(errno.into())),
            }
            let lock = Self { placed: Placed::new(&lock_path, status.dev(), status.ino()), _file: file };
            if !lock.placed.0.is_there() {
                continue;
            }
            if own {
                return Ok(lock);
            }
            // Nobody holds it, but its owner could take it away. Dropped, it takes its file along, if this user may do that.
            let placed = lock.placed.0.clone();
            drop(lock);
            if placed.is_there() {
                return Err(foreign(&lock_path, &status));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_there(&self) -> bool {
        self.placed.0.is_there()
    }
}

/// Opens the lock file, or makes it. `None`: it came or went meanwhile.
fn open(lock_path: &Path) -> Result<Option<File>, ListenError> {
    // A file of a stranger may be a pipe, or have a lease: neither is waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(flags);
    // Apart: the kernel may refuse to "make" a file of another user that is there, also to root.
    let opened = match options.open(lock_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => options.create_new(true).open(lock_path),
        opened => opened,
    };
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => {
            let others = |found: &Metadata| found.uid() != rustix::process::geteuid().as_raw();
            match std::fs::symlink_metadata(lock_path).ok().filter(others) {
                Some(found) => Err(foreign(lock_path, &found)),
                None => Err(host("open the lock file", lock_path)(error)),
            }
        }
    }
}

/// The file is another user's.
fn foreign(lock_path: &Path, found: &Metadata) -> ListenError {
    ListenError::Foreign { path: lock_path.to_owned(), uid: found.uid(), pid: holder(found) }
}

/// The process that holds a lock on the file, where the kernel tells: in another namespace it does not.
fn holder(found: &Metadata) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let locks = std::fs::read_to_string(PathBuf::from("/proc/locks")).ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[_, "FLOCK", _, _, pid, locked, ..] = words.as_slice() else { return None };
        if locked == file { pid.parse().ok().filter(|&pid| pid != 0) } else { None }
    })
}

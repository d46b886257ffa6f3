//! The group that a socket is for.

use std::os::fd::BorrowedFd;

use nix::unistd::Group;
use rustix::fs::{AtFlags, Gid};
use rustix::io::retry_on_intr;

use crate::sys::{ListenError, SocketGroup};

/// The number of a group. A name is looked up as the host does it, which may take a while.
pub(super) fn number(group: &SocketGroup) -> Result<u32, ListenError> {
    match group {
        SocketGroup::Id(id) => Ok(*id),
        SocketGroup::Name(name) => match Group::from_name(name) {
            Ok(Some(found)) => Ok(found.gid.as_raw()),
            Ok(None) => Err(ListenError::NoGroup { name: name.clone(), source: None }),
            Err(errno) => Err(ListenError::NoGroup { name: name.clone(), source: Some(errno.into()) }),
        },
    }
}

/// Gives a file, opened by whatever name, to a group.
pub(super) fn give(file: BorrowedFd<'_>, group: u32) -> Result<(), ListenError> {
    let gid = Some(Gid::from_raw(group));
    retry_on_intr(|| rustix::fs::chownat(file, "", None, gid, AtFlags::EMPTY_PATH))
        .map_err(|errno| ListenError::Group { group, source: errno.into() })
}

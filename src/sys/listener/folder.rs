//! The folder of a socket: who can put another thing in its place, or in the place of a folder above it.
//!
//! The path is walked from its root, so that each folder is reached through folders that have been looked at already: what nobody
//! else can exchange stays what it was. A link is followed only where nobody else could have put it.
//!
//! In a user namespace that does not map root, root's folders look like another user's, and are refused.

use std::ffi::OsString;
use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::host;
use crate::sys::ListenError;

/// Links that may lead to one folder, as in the kernel.
const LINKS_MAX: usize = 40;

/// Makes the folder if it is missing, the last one of its path alone (more would be a slip of the pen), and looks who can
/// write to it, and to those above it.
pub(super) fn prepare(folder: &Path) -> Result<(), ListenError> {
    let absolute = std::path::absolute(folder).map_err(host("find the folder", folder))?;
    let mut ahead: Vec<OsString> = parts(&absolute);
    let mut walked = PathBuf::from("/");
    let mut links = 0;
    let mut open_to = check(&walked, &inspect(&walked)?)?;
    while let Some(part) = ahead.pop() {
        if part == ".." {
            walked.pop();
            open_to = check(&walked, &inspect(&walked)?)?;
            continue;
        }
        let next = walked.join(&part);
        if ahead.is_empty() {
            make(&next)?;
        }
        let found = inspect(&next)?;
        if found.is_symlink() {
            links += 1;
            if open_to == OpenTo::Others || links > LINKS_MAX {
                return unsafe_because(&next, "it is a link, in a folder that others can write to");
            }
            let target = std::fs::read_link(&next).map_err(host("read the link", &next))?;
            if target.is_absolute() {
                walked = PathBuf::from("/");
                open_to = check(&walked, &inspect(&walked)?)?;
            }
            ahead.extend(parts(&target));
            continue;
        }
        if !found.is_dir() {
            return unsafe_because(&next, "it is no folder");
        }
        open_to = check(&next, &found)?;
        walked = next;
    }
    Ok(())
}

/// Who can put new entries into a folder. Those that are there only their owner can take away, or else it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenTo {
    Owner,
    Others,
}

/// The names of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

fn make(folder: &Path) -> Result<(), ListenError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(host("make the folder", folder)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn inspect(folder: &Path) -> Result<Metadata, ListenError> {
    std::fs::symlink_metadata(folder).map_err(host("inspect the folder", folder))
}

/// Refuses a folder whose entries somebody else can exchange. What members of the owner's own group may do is up to the owner.
fn check(folder: &Path, found: &Metadata) -> Result<OpenTo, ListenError> {
    const ANYBODY_WRITES: u32 = 0o002;
    const GROUP_WRITES: u32 = 0o020;
    const STICKY: u32 = 0o1000;
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return unsafe_because(folder, "it belongs to another user");
    }
    let own_group = found.gid() == 0 || found.gid() == rustix::process::getegid().as_raw();
    let why = if found.mode() & ANYBODY_WRITES != 0 {
        "anybody can write to it, and it is not sticky"
    } else if found.mode() & GROUP_WRITES != 0 && !own_group {
        "another group can write to it, and it is not sticky"
    } else {
        return Ok(OpenTo::Owner);
    };
    if found.mode() & STICKY == 0 { unsafe_because(folder, why) } else { Ok(OpenTo::Others) }
}

fn unsafe_because<T>(folder: &Path, why: &'static str) -> Result<T, ListenError> {
    Err(ListenError::Folder { folder: folder.to_owned(), why })
}

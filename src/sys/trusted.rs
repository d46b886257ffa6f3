//! Files that nobody but this process's user and root can have written.
//!
//! The way to the file is walked folder by folder, each opened relative to the one before it. In a folder that others can write
//! they can exchange what is in it, so no way leads through one; with the sticky bit they can only add to it, so a way leads
//! through to what is ours or root's, but over no symbolic link. Hence nothing that was checked can be another thing when it is opened.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};

use super::{FileError, own_uid};

/// Links on one way. The kernel follows as many.
const LINKS_MAX: usize = 40;

/// Reads a text of at most `bytes_max` bytes that others can't have written.
pub(crate) fn read_trusted(path: &Path, bytes_max: usize) -> Result<String, FileError> {
    let host = |source| FileError::Host { path: path.to_owned(), source };
    let (folder, name) = walk(path)?;
    // A pipe would keep us waiting for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&folder, &name, flags, Mode::empty()).map_err(|errno| host(errno.into()))?;
    let stat = fstat(&file).map_err(|errno| host(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    is_ours(&stat).and_then(|()| is_closed(&stat)).map_err(|why| unsafe_at(path, why))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).expect("a small constant").saturating_add(1);
    File::from(file).take(limit).read_to_end(&mut bytes).map_err(host)?;
    if bytes.len() > bytes_max {
        return Err(FileError::TooLarge { path: path.to_owned(), limit: bytes_max });
    }
    String::from_utf8(bytes).map_err(|error| {
        let whole = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..whole].iter().filter(|byte| **byte == b'\n').count();
        FileError::NotText { path: path.to_owned(), line }
    })
}

/// The folder that a file lies in, all links on the way followed, and the file's name there.
fn walk(path: &Path) -> Result<(OwnedFd, OsString), FileError> {
    let host = |source: io::Error| FileError::Host { path: path.to_owned(), source };
    let mut left: VecDeque<OsString> = parts(&std::path::absolute(path).map_err(host)?);
    let (mut at, mut folder) = (PathBuf::from("/"), root().map_err(host)?);
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == OsStr::new("/") {
            (at, folder) = (PathBuf::from("/"), root().map_err(host)?);
            continue;
        }
        let sticky = check_folder(&folder, &at)?;
        at.push(&name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat(&folder, &name, flags, Mode::empty()).map_err(|errno| host(errno.into()))?;
        let stat = fstat(&next).map_err(|errno| host(errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if sticky => {
                return Err(unsafe_at(&at, "is a symbolic link in a folder that others can write"));
            }
            FileType::Symlink if links == LINKS_MAX => {
                return Err(unsafe_at(&at, "leads over too many links"));
            }
            FileType::Symlink => {
                links += 1;
                let target = readlinkat(&folder, &name, Vec::new()).map_err(|errno| host(errno.into()))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                parts(&target).into_iter().rev().for_each(|part| left.push_front(part));
                at.pop();
            }
            _ if left.is_empty() => return Ok((folder, name)),
            _ => folder = next,
        }
    }
    Err(FileError::NotAFile { path: path.to_owned() })
}

fn root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, "/", flags, Mode::empty()).map_err(Into::into)
}

/// What a path is made of, `/` first if it is absolute.
fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

/// Whether others may add to a folder; an error if they may change what is in it.
fn check_folder(folder: &OwnedFd, at: &Path) -> Result<bool, FileError> {
    let stat =
        fstat(folder).map_err(|errno| FileError::Host { path: at.to_owned(), source: errno.into() })?;
    is_ours(&stat).map_err(|why| unsafe_at(at, why))?;
    match is_closed(&stat) {
        Ok(()) => Ok(false),
        Err(_) if Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX) => Ok(true),
        Err(why) => Err(unsafe_at(at, why)),
    }
}

fn is_ours(stat: &Stat) -> Result<(), &'static str> {
    let ours = stat.st_uid == 0 || stat.st_uid == own_uid();
    ours.then_some(()).ok_or("belongs to another user")
}

fn is_closed(stat: &Stat) -> Result<(), &'static str> {
    let open = Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    (!open).then_some(()).ok_or("can be written by others")
}

fn unsafe_at(path: &Path, why: &'static str) -> FileError {
    FileError::Unsafe { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const LIMIT: usize = 64;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("file");
        fs::write(&file, "a text").expect("it is ours");
        mode(&file, 0o644);
        (folder, file)
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
    }

    #[test]
    fn a_file_of_ours_is_read_and_over_links_that_are_ours() {
        let (folder, file) = folder();
        assert_eq!(read_trusted(&file, LIMIT).expect("it is ours"), "a text");
        symlink("file", folder.path().join("link")).expect("it is ours");
        symlink(folder.path(), folder.path().join("folder")).expect("it is ours");
        let over =
            folder.path().join("folder/./folder/../").join(folder.path().file_name().expect("it has one"));
        assert_eq!(read_trusted(&over.join("link"), LIMIT).expect("all ours"), "a text");
    }

    #[test]
    fn what_others_can_write_is_not_read() {
        let (folder, file) = folder();
        for (path, bits) in [(&*file, 0o664), (&*file, 0o646), (folder.path(), 0o777), (folder.path(), 0o770)]
        {
            let before = fs::metadata(path).expect("it is there").permissions();
            mode(path, bits);
            let error = read_trusted(&file, LIMIT).expect_err("others can write it");
            let FileError::Unsafe { path: at, why } = &error else { panic!("{error}") };
            assert_eq!((&**at, *why), (path, "can be written by others"));
            fs::set_permissions(path, before).expect("it is ours");
        }
        assert!(read_trusted(&file, LIMIT).is_ok());
    }

    #[test]
    fn a_link_in_a_folder_that_others_can_write_is_not_followed() {
        let (folder, file) = folder();
        let open = folder.path().join("open");
        fs::create_dir(&open).expect("it is ours");
        mode(&open, 0o1777);
        symlink(&file, open.join("link")).expect("it is ours");
        symlink(folder.path(), open.join("folder")).expect("it is ours");
        for link in ["link", "folder/file"] {
            let error = read_trusted(&open.join(link), LIMIT).expect_err("it might be anybody's");
            assert!(
                error.to_string().contains("is a symbolic link in a folder that others can write"),
                "{error}"
            );
        }
        fs::copy(&file, open.join("file")).expect("it is ours");
        assert!(read_trusted(&open.join("file"), LIMIT).is_ok(), "what is ours stays so in such a folder");
        symlink("self", folder.path().join("self")).expect("it is ours");
        let error = read_trusted(&folder.path().join("self"), LIMIT).expect_err("it leads nowhere");
        assert!(error.to_string().contains("too many links"), "{error}");
    }

    #[test]
    fn what_is_no_text_of_that_size_is_said_so() {
        let (folder, file) = folder();
        assert!(matches!(read_trusted(&file, 5), Err(FileError::TooLarge { limit: 5, .. })));
        assert!(read_trusted(&file, 6).is_ok());
        fs::write(&file, b"first\nsecond \xff").expect("it is ours");
        assert!(matches!(read_trusted(&file, LIMIT), Err(FileError::NotText { line: 2, .. })));
        assert!(matches!(read_trusted(folder.path(), LIMIT), Err(FileError::NotAFile { .. })));
        let pipe = folder.path().join("pipe");
        let made = rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0);
        made.expect("it is ours");
        assert!(matches!(read_trusted(&pipe, LIMIT), Err(FileError::NotAFile { .. })), "and nobody waits");
        let missing = read_trusted(&folder.path().join("missing"), LIMIT).expect_err("it is not there");
        let FileError::Host { source, .. } = missing else { panic!("{missing}") };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
    }
}

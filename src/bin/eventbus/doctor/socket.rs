//! The files of a broker: the folder, the socket, and the key beside it. The broker and its clients look themselves, and closer.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::Access;

use super::Check;

/// Bytes of the longest path that a socket can have.
const PATH_BYTES_MAX: usize = 107;

const OPEN: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Who can put something else in the socket's place.
pub(super) fn folder(socket: &Path) -> Check {
    const NAME: &str = "folder";
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let own_folder =
        "a folder that root or the broker's user alone can write to, such as /run/daemoneye, is best";
    let resolved = match folder.canonicalize() {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = format!("{} is not there", folder.display());
            return match folder.parent() {
                Some(above) if above.is_dir() => {
                    Check::weak(NAME, found, "the broker makes it when it starts")
                }
                _ => Check::missing(
                    NAME,
                    found,
                    "make the folders above it: the broker makes the last one alone",
                ),
            };
        }
        Err(error) => {
            return Check::missing(
                NAME,
                format!("{} can't be entered: {error}", folder.display()),
                own_folder,
            );
        }
    };
    let mut sticky = None;
    let mut foreign = None;
    for folder in resolved.ancestors() {
        let Ok(found) = fs::symlink_metadata(folder) else { continue };
        let name = folder.display();
        if found.mode() & OPEN != 0 && found.mode() & STICKY == 0 {
            let found = format!(
                "{name} can be written by others ({}): they can exchange what is in it",
                owned(&found)
            );
            return Check::missing(NAME, found, own_folder);
        }
        // Above, nobody else can take away what is there.
        if found.mode() & OPEN != 0 && folder == resolved {
            sticky = Some(format!(
                "{name} can be written by others ({}): a stranger may be there first",
                owned(&found)
            ));
        }
        if found.uid() != 0 && found.uid() != own_uid() {
            foreign = Some(format!("{name} is another user's ({})", owned(&found)));
        }
    }
    match (foreign, sticky) {
        (Some(found), _) => Check::weak(
            NAME,
            found,
            "that user has to be the broker's: who owns the folder decides who listens",
        ),
        (None, Some(found)) => Check::weak(NAME, found, own_folder),
        (None, None) => Check::ok(NAME, format!("{} is root's, or this user's, alone", resolved.display())),
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn owned(found: &Metadata) -> String {
    format!("uid {}, gid {}, mode {:o}", found.uid(), found.gid(), found.mode() & 0o7777)
}

/// Whom the socket lets in.
pub(super) fn file(socket: &Path) -> Check {
    const NAME: &str = "socket";
    let (bytes, name) = (socket.as_os_str().len(), socket.display());
    if bytes > PATH_BYTES_MAX {
        let found = format!("its path has {bytes} bytes, and at most {PATH_BYTES_MAX} are possible");
        return Check::missing(NAME, found, "choose a shorter one");
    }
    let found = match fs::symlink_metadata(socket) {
        Ok(found) => found,
        Err(error) => {
            return Check::missing(
                NAME,
                format!("{name}: {error}"),
                "no broker has listened there: `eventbus broker`",
            );
        }
    };
    if !found.file_type().is_socket() {
        return Check::missing(
            NAME,
            format!("{name} is no socket"),
            "a broker does not replace it: remove it, or name another path",
        );
    }
    let state = format!("{name}: {}", owned(&found));
    if rustix::fs::access(socket, Access::WRITE_OK).is_err() {
        return Check::missing(
            NAME,
            format!("{state}: not for this user"),
            "--socket-group and --socket-mode of the broker say whom it lets in",
        );
    }
    if found.mode() & 0o002 != 0 {
        return Check::weak(
            NAME,
            format!("{state}: any user may connect"),
            "a group of its own lets in fewer: --socket-group",
        );
    }
    Check::ok(NAME, state)
}

/// Whether this user can prove that it may connect.
pub(super) fn key(socket: &Path, path: &Path) -> Check {
    const NAME: &str = "key file";
    let name = path.display();
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => {
            return Check::missing(NAME, format!("{name}: {error}"), "the broker writes it when it starts");
        }
    };
    let state = format!("{name}: {}", owned(&found));
    let owner = fs::symlink_metadata(socket).map(|socket| socket.uid()).ok();
    if owner.is_some_and(|owner| owner != found.uid()) {
        return Check::missing(
            NAME,
            format!("{state}: the socket is another's"),
            "remove what is not the broker's, and start it again",
        );
    }
    match File::open(path) {
        Ok(_) if found.mode() & 0o004 != 0 => Check::weak(
            NAME,
            format!("{state}: any user can read it"),
            "a group of its own lets in fewer: --socket-group",
        ),
        Ok(_) => Check::ok(NAME, state),
        Err(error) => Check::missing(
            NAME,
            format!("{state}: {error}"),
            "those can read it whom the socket lets in; else a launch token is needed",
        ),
    }
}

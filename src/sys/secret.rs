//! Linux: where a secret is kept, and the file that shares one.
//!
//! Not in memory of ours: that is what core dumps and whoever reads our memory by a bug of the application get to see. It is in a
//! file of the kernel without a name, which is mapped nowhere and read into memory for the moment of its use. Where the host has none to
//! give it is in memory after all, and written over in the end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a secret.
pub(crate) const SECRET_BYTES: usize = 32;

/// Lends memory for what is secret to some work, and leaves nothing there, nor where the stack was that the work had.
#[inline(never)]
pub(crate) fn expose<const N: usize, T>(work: impl FnOnce(&mut [u8; N]) -> T) -> T {
    let mut bytes = [0; N];
    let result = work(&mut bytes);
    bytes.zeroize();
    scrub();
    result
}

/// By words, and of a few pages alone, since each handshake waits for it: by bytes 32 KiB take 8 µs, and so 1, but on a thread that has just
/// begun each page of them that was not touched before takes two more.
#[inline(never)]
fn scrub() {
    let mut stack = [0_u64; (8 << 10) / 8];
    stack.zeroize();
    std::hint::black_box(&mut stack);
}

/// Bytes that nobody can guess.
pub(crate) fn randomize(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes[filled..], flags))?;
    }
    Ok(())
}

/// 32 bytes that are nobody's business.
pub(crate) struct Secret(Place);

enum Place {
    Unmapped(File),
    /// The host has no such file, or no descriptor for it.
    Memory(Zeroizing<[u8; SECRET_BYTES]>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    pub(crate) fn new() -> io::Result<Self> {
        expose(|bytes| {
            randomize(bytes)?;
            Ok(Self::of(bytes))
        })
    }

    /// To be called where the bytes are [exposed](expose).
    pub(crate) fn of(bytes: &[u8; SECRET_BYTES]) -> Self {
        let place = unmapped(bytes).map(Place::Unmapped);
        Self(place.unwrap_or_else(|_| Place::Memory(Zeroizing::new(*bytes))))
    }

    /// Does some work with the bytes.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&[u8; SECRET_BYTES]) -> T) -> io::Result<T> {
        expose(|bytes| {
            match &self.0 {
                Place::Unmapped(file) => file.read_exact_at(bytes, 0)?,
                Place::Memory(kept) => bytes.copy_from_slice(&kept[..]),
            }
            Ok(work(bytes))
        })
    }
}

fn unmapped(bytes: &[u8; SECRET_BYTES]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create(c"eventbus-secret", flags)?);
    file.write_all_at(bytes, 0)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// A new file that nobody may read yet.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o000).open(path)
}

/// Puts a secret into a new file, and lets those read it who may by `mode`, now that all of it is there.
pub(super) fn fill(mut file: File, secret: &Secret, mode: u32) -> io::Result<()> {
    secret.with(|bytes| file.write_all(bytes))??;
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// The secret in the file at `path`, which has to be this user's.
pub(crate) fn read_file(path: &Path, owner: u32) -> io::Result<Secret> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let found = file.metadata()?;
    let problem = if !found.is_file() {
        "it is no ordinary file".to_owned()
    } else if found.uid() != owner {
        format!("it belongs to uid {}, not {owner}", found.uid())
    } else if found.len() != SECRET_BYTES as u64 {
        format!("it has {} bytes, not {SECRET_BYTES}", found.len())
    } else {
        // It is as good a place as one of ours.
        return Ok(Secret(Place::Unmapped(file)));
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// Writes a new file that nobody but its owner can read.
pub(crate) fn write_token(path: &Path, bytes: &[u8], owner: Option<u32>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    let written = file.write_all(bytes).and_then(|()| match owner {
        Some(owner) => std::os::unix::fs::fchown(&file, Some(owner), None),
        None => Ok(()),
    });
    written.inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// Opens a file that is this user's, or root's, and that nobody else can read. Waits for nobody who would write to it.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    check_private(&file)?;
    Ok(file)
}

fn check_private(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no ordinary file"));
    }
    let own = [0, rustix::process::geteuid().as_raw()].contains(&found.uid());
    if own && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let what = format!("others can read it: it has mode {:o}, of uid {}", found.mode() & 0o777, found.uid());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_read_is_not_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "secret").expect("our folder");
        for (mode, private) in [(0o400, true), (0o600, true), (0o440, false), (0o404, false)] {
            let file = File::open(&path).expect("we are root");
            file.set_permissions(std::fs::Permissions::from_mode(mode)).expect("it is ours");
            assert_eq!(check_private(&file).is_ok(), private, "{mode:o}");
        }
    }

    #[test]
    fn what_would_keep_its_reader_waiting_is_no_token() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("token");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).expect("our folder");
        let (said, opened) = std::sync::mpsc::channel();
        std::thread::spawn(move || said.send(open_private(&path)));
        let opened = opened.recv_timeout(std::time::Duration::from_secs(20)).expect("it does not wait");
        assert_eq!(opened.expect_err("it is a pipe").kind(), io::ErrorKind::InvalidData);
    }
}

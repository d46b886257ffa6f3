//! What a hostile process hands over where rings are made of memory with names: both sides' is writable for it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use shm::layout::MAGIC_PRODUCER;

use super::descriptors::{Offer, lingering, share, wait_for};
use super::segment::Segment;
use crate::support::roles::signals;
use crate::support::{STRANGER, name_of_segment};

/// A name in the shared memory, removed with it unless the peer was first.
pub(super) struct Name(String);

impl Name {
    pub(super) fn create(kind: char) -> (Self, OwnedFd) {
        let name = Self(fresh(kind));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(name.path(), flags, Mode::RUSR | Mode::WUSR).expect("memory");
        (name, descriptor)
    }

    fn path(&self) -> PathBuf {
        path(&self.0)
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let path = self.path();
        // The peer may have taken it away; some are folders.
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm{name}"))
}

/// A name that nothing has.
pub(super) fn fresh(kind: char) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_nanos();
    name_of_segment(kind, std::process::id(), now)
}

pub(super) fn kind(magic: u64) -> char {
    if magic == MAGIC_PRODUCER { 'p' } else { 'c' }
}

pub(super) fn open(name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path(name), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// What is offered where a name is due.
pub(super) fn offer(what: &str, bytes: usize, magic: u64) -> Offer {
    let kind = kind(magic);
    let other_kind = if kind == 'p' { 'c' } else { 'p' };
    let own = Segment::named(if what == "name-of-the-other-kind" { other_kind } else { kind }, bytes);
    // Of one without memory it can be seen that the broker has looked at it.
    if !what.starts_with("swapped-") {
        own.set(0, magic);
        if what != "named-sparse" {
            own.fill();
        }
    }
    let name = own.name.as_ref().expect("it was just named").0.clone();
    let copy = |descriptor: &OwnedFd| descriptor.try_clone().expect("a descriptor");
    let (sent, descriptors) = match what {
        "handle-a-descriptor" => (None, vec![copy(&Segment::honest(bytes, magic).descriptor)]),
        "handle-none" => (None, vec![]),
        "name-and-a-descriptor" => (Some(name), vec![copy(&own.descriptor)]),
        "name-and-what-lingers" => (Some(name), vec![lingering().into()]),
        "name-empty" => (Some(String::new()), vec![]),
        "name-too-long" => (Some(format!("{name}0")), vec![]),
        "name-of-a-path" => (Some("/deebp/../../etc/passwd0000000".into()), vec![]),
        "name-in-capitals" => (Some(name.to_uppercase()), vec![]),
        other => {
            // Somebody else's, which the harness has made.
            let foreign = other.strip_prefix("name:").map(ToOwned::to_owned);
            (foreign.or(Some(name)), vec![])
        }
    };
    match what {
        "descriptor-magic" => own.set(0, u64::MAX),
        "third-writer" => share(&own, magic),
        other => {
            if let Some(change) = other.strip_prefix("named-") {
                put_in_place(change, &own);
            }
        }
    }
    Offer { own, name: sent, descriptors }
}

/// Waits until the broker has looked at a segment, for which it has all memory allocated, finishes it as an honest peer would have,
/// and then changes what the name leads to.
pub(super) fn swap(what: &str, own: &Segment, magic: u64) {
    let blocks = || rustix::fs::fstat(&own.descriptor).expect("it is open").st_blocks;
    wait_for(|| blocks().cast_unsigned() * 512 >= own.words().len() as u64 * 8);
    own.set(0, magic);
    put_in_place(what, own);
}

/// Changes what the name leads to.
fn put_in_place(what: &str, own: &Segment) {
    let path = own.name.as_ref().expect("it has one").path();
    let bytes = own.words().len() as u64 * 8;
    let remove = || std::fs::remove_file(&path).expect("it is ours");
    let resize = |bytes| rustix::fs::ftruncate(&own.descriptor, bytes).expect("it is ours");
    let permit = |mode| rustix::fs::fchmod(&own.descriptor, Mode::from_raw_mode(mode)).expect("it is ours");
    match what {
        "sparse" => {}
        "gone" => remove(),
        "short" => resize(bytes / 2),
        "long" => resize(bytes * 2),
        "read-by-others" => permit(0o604),
        "written-by-a-group" => permit(0o620),
        "closed" => permit(0),
        "of-a-stranger" => chown(&path, Some(STRANGER), None).expect("we are root"),
        "link" => {
            // To a segment that nothing is wrong with.
            remove();
            let behind = format!("/proc/{}/fd/{}", std::process::id(), own.descriptor.as_raw_fd());
            symlink(behind, &path).expect("a link");
        }
        "folder" => {
            remove();
            std::fs::create_dir(&path).expect("a folder");
        }
        "pipe" => {
            remove();
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).expect("a pipe");
        }
        "leased" => {
            remove();
            lease(&path, bytes);
        }
        other => panic!("no offer {other}"),
    }
}

/// A file that whoever opens it to write has to wait for, until the kernel loses patience.
fn lease(path: &Path, bytes: u64) {
    let made = File::options().write(true).create_new(true).mode(0o600).open(path).expect("memory");
    made.set_len(bytes).expect("a size");
    drop(made);
    let leased = File::open(path).expect("it was just made");
    signals::lease(&leased);
    // For as long as this process lives.
    std::mem::forget(leased);
}

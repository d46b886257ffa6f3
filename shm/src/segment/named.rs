//! Segments with a name, for platforms that have no sealed memory without one.
//!
//! The name is there from the moment that a segment is made until its peer has attached: who attaches takes it away, and if nobody
//! does, its maker's drop. So a hand-over that is complete leaves nothing with a name, however the processes end. One that is cut
//! short by a kill leaves the name, which [`collect_abandoned`] takes away.
//!
//! The kernel keeps nothing here from the processes of the same user: both sides map writable, and where the system lets it, a
//! peer can shrink the segment, so that touching it raises a signal (I7 is the peer's word there). Segments of other users, or that
//! other users can open, are refused for that reason. What Linux can do beyond is done: the whole length is allocated before it is
//! touched, and pages are not inherited by a forked child.

use core::fmt;
use core::ptr::NonNull;
use std::io;

use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::{Handle, Kind, Mapping, SegmentError, SegmentName};

pub(super) fn create(kind: Kind, bytes: usize) -> Result<(Handle, Mapping), SegmentError> {
    let failed = |source| SegmentError::Host { step: "name", source };
    let name = SegmentName::fresh(kind).map_err(failed)?;
    let memory = named(&name).size(bytes).create().map_err(|error| host("create", error))?;
    // Dropped from here on, it takes its name with it.
    system::allocate(&name, bytes)?;
    let mapping = mapping(memory, bytes)?;
    mapping.format(kind);
    Ok((Handle::Name(name), mapping))
}

/// Checked and mapped, and its name taken away; the magic is the caller's to look at.
pub(super) fn attach(name: &SegmentName, kind: Kind, bytes: usize) -> Result<Mapping, SegmentError> {
    check(name, kind, bytes, system::own_user())?;
    let memory = open(name)?;
    check_size(memory.len() as u64, bytes)?;
    // A second look at it, dropped as its maker would drop it. It may be that its maker has, meanwhile.
    if let Ok(mut last) = named(name).open() {
        last.set_owner(true);
    }
    mapping(memory, bytes)
}

pub(super) fn check(name: &SegmentName, kind: Kind, bytes: usize, owner: u32) -> Result<(), SegmentError> {
    if name.kind() != kind {
        return Err(SegmentError::NotMemory);
    }
    system::check(name, bytes, owner)
}

/// Removes the names that processes of this user, killed in the middle of a hand-over, have left behind; how many. A name stays
/// while there is a process with its maker's number. To be called where a process that uses names starts.
///
/// Does nothing on other platforms than Linux: macOS does not list names, which stay there until the system's next start; on
/// Windows a file stays in the folder for temporary ones.
pub fn collect_abandoned() -> usize {
    system::collect_abandoned()
}

/// Pages of a named segment, which are unmapped with this value.
pub(super) struct Pages {
    _memory: Shmem,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

fn named(name: &SegmentName) -> ShmemConf {
    ShmemConf::new().os_id(name.as_str())
}

fn mapping(memory: Shmem, bytes: usize) -> Result<Mapping, SegmentError> {
    let start = NonNull::new(memory.as_ptr().cast()).expect("what is mapped doesn't start at page 0");
    let mapping = Mapping { start, bytes, _pages: super::Pages::Named { _pages: Pages { _memory: memory } } };
    system::keep_from_children(&mapping)?;
    Ok(mapping)
}

/// Systems other than Linux hand out whole pages, of at most this size.
const PAGE_BYTES_MAX: u64 = if cfg!(target_os = "linux") { 1 } else { 16 << 10 };

fn check_size(found: u64, expected: usize) -> Result<(), SegmentError> {
    if (expected as u64..expected as u64 + PAGE_BYTES_MAX).contains(&found) {
        return Ok(());
    }
    Err(SegmentError::Size { found, expected })
}

/// What the system said, where it did.
fn host(step: &'static str, error: ShmemError) -> SegmentError {
    let source = match error {
        ShmemError::MapCreateFailed(code)
        | ShmemError::MapOpenFailed(code)
        | ShmemError::UnknownOsError(code) => io::Error::from_raw_os_error(code.cast_signed()),
        other => io::Error::other(other),
    };
    SegmentError::Host { step, source }
}

/// Maps what is under a name that was handed to this process.
fn open(name: &SegmentName) -> Result<Shmem, SegmentError> {
    named(name).open().map_err(|error| match host("open", error) {
        SegmentError::Host { source, .. } => system::not_open(source, system::own_user()),
        other => other,
    })
}

/// What the system says of a name beyond what `shared_memory` asks.
#[cfg(unix)]
mod system {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::Mode;
    use rustix::io::Errno;
    use rustix::shm::OFlags;

    use super::super::host;
    use super::{Mapping, SegmentError, SegmentName, check_size};

    const OWNER_ALONE: u32 = 0o600;

    pub(super) fn own_user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// No link is followed, since it could lead anywhere, and nobody is waited for: who has a lease on the file can make whoever
    /// opens it wait for most of a minute.
    #[cfg(target_os = "linux")]
    const OPEN: OFlags = OFlags::RDWR.union(OFlags::from_bits_retain(
        rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK).bits(),
    ));
    /// Names lead to no files here.
    #[cfg(not(target_os = "linux"))]
    const OPEN: OFlags = OFlags::RDWR;

    fn open(name: &SegmentName) -> io::Result<File> {
        Ok(rustix::shm::open(name.as_str(), OPEN, Mode::empty())?.into())
    }

    /// Whose fault it is that a segment of `owner` can't be opened.
    pub(super) fn not_open(source: io::Error, owner: u32) -> SegmentError {
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT) => SegmentError::Gone,
            // A link, a folder, a socket, a file with a lease, a program that runs.
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::AGAIN | Errno::TXTBSY) => {
                SegmentError::NotMemory
            }
            // Who is not the owner may be refused for being another.
            Some(Errno::ACCESS | Errno::PERM) if owner == own_user() => SegmentError::NotMemory,
            _ => SegmentError::Host { step: "open", source },
        }
    }

    /// Fills a segment of our own with memory, so that no touch of it can fail.
    pub(super) fn allocate(name: &SegmentName, bytes: usize) -> Result<(), SegmentError> {
        let failed = |source| SegmentError::Host { step: "open", source };
        fill(&open(name).map_err(failed)?, bytes).map_err(host("allocate"))
    }

    pub(super) fn check(name: &SegmentName, bytes: usize, owner: u32) -> Result<(), SegmentError> {
        let memory = open(name).map_err(|source| not_open(source, owner))?;
        let failed = |source| SegmentError::Host { step: "inspect", source };
        let found = memory.metadata().map_err(failed)?;
        let (uid, mode) = (found.uid(), found.mode() & 0o777);
        if uid != owner || mode & !OWNER_ALONE != 0 {
            return Err(SegmentError::NotPrivate { uid, mode, expected: owner });
        }
        check_size(found.len(), bytes)?;
        fill(&memory, bytes).map_err(|errno| SegmentError::Sparse(errno.into()))
    }

    #[cfg(target_os = "linux")]
    fn fill(memory: &File, bytes: usize) -> Result<(), Errno> {
        super::super::allocate(memory, bytes as u64)
    }

    /// Pages come at the first touch here, and where there are none that is a signal.
    #[cfg(not(target_os = "linux"))]
    fn fill(_: &File, _: usize) -> Result<(), Errno> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    pub(super) fn keep_from_children(mapping: &Mapping) -> Result<(), SegmentError> {
        let advice = rustix::mm::Advice::LinuxDontFork;
        // SAFETY: I6: the range is that of the mapping; the advice changes what a forked child inherits, not our pages.
        unsafe { rustix::mm::madvise(mapping.start.as_ptr().cast(), mapping.bytes, advice) }
            .map_err(host("keep to itself"))
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn keep_from_children(_: &Mapping) -> Result<(), SegmentError> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    pub(super) fn collect_abandoned() -> usize {
        let Ok(entries) = std::fs::read_dir("/dev/shm") else {
            return 0;
        };
        let abandoned = entries.flatten().filter_map(|entry| {
            let name: SegmentName = format!("/{}", entry.file_name().to_str()?).parse().ok()?;
            let ours = entry.metadata().is_ok_and(|found| found.uid() == own_user());
            (ours && is_dead(name.pid())).then_some(name)
        });
        abandoned.filter(|name| rustix::shm::unlink(name.as_str()).is_ok()).count()
    }

    #[cfg(target_os = "linux")]
    fn is_dead(pid: u32) -> bool {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed());
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn collect_abandoned() -> usize {
        0
    }
}

/// Windows knows no owner here but the folder for temporary files, and its memory can't shrink while it is mapped.
#[cfg(not(unix))]
mod system {
    use std::io;

    use super::{Mapping, SegmentError, SegmentName, check_size, open};

    pub(super) fn own_user() -> u32 {
        0
    }

    pub(super) fn allocate(_: &SegmentName, _: usize) -> Result<(), SegmentError> {
        Ok(())
    }

    pub(super) fn check(name: &SegmentName, bytes: usize, _: u32) -> Result<(), SegmentError> {
        check_size(open(name)?.len() as u64, bytes)
    }

    pub(super) fn not_open(source: io::Error, _: u32) -> SegmentError {
        if source.kind() == io::ErrorKind::NotFound {
            return SegmentError::Gone;
        }
        SegmentError::Host { step: "open", source }
    }

    pub(super) fn keep_from_children(_: &Mapping) -> Result<(), SegmentError> {
        Ok(())
    }

    pub(super) fn collect_abandoned() -> usize {
        0
    }
}

//! What the kernel offers, and how much of it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::fs::{Access, MemfdFlags, SealFlags};
use rustix::process::{PidfdFlags, Resource, getrlimit};

use super::Check;

/// Descriptors of a broker with all the connections that it may have, 1024 with two each, and of what it has else.
const DESCRIPTORS: u64 = 2 * 1024 + 64;
/// Descriptors below which next to nothing works.
const DESCRIPTORS_MIN: u64 = 64;

/// Rings of 8 MiB between four collectors with two publishers each, and four subscribing processes.
const MEMORY: u64 = 32 * (8 << 20);
/// One ring between two processes, and as much besides.
const MEMORY_MIN: u64 = 2 * (8 << 20);

/// Whether rings can be memory without a name that nobody makes smaller, or writable, afterwards.
pub(super) fn sealed_memory() -> Check {
    const NAME: &str = "sealed memory";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let made = rustix::fs::memfd_create(c"eventbus-doctor", flags);
    match made.and_then(|memory| rustix::fs::fcntl_add_seals(&memory, seals)) {
        Ok(()) => Check::ok(NAME, "memfd with all seals"),
        Err(error) => Check::weak(
            NAME,
            format!("no memfd that can be sealed: {error}; events go over the broker"),
            "Linux 5.1 has it, unless a sandbox forbids it: allow memfd_create and fcntl there; \
             `--backing named` does without, between processes of one user",
        ),
    }
}

/// Whether the kernel says who is at the other end of a socket: the user, and the process.
pub(super) fn peers() -> [Check; 2] {
    const USER: &str = "peer's user";
    const PROCESS: &str = "peer's process";
    let ends = UnixStream::pair();
    let credentials = ends
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|(end, _)| getsockopt(end, sockopt::PeerCredentials).map_err(|error| error.to_string()));
    let own = rustix::process::geteuid().as_raw();
    let user = match credentials {
        Ok(peer) if peer.uid() == own => Check::ok(USER, "SO_PEERCRED names it"),
        Ok(peer) => {
            Check::missing(USER, format!("SO_PEERCRED names uid {} and not {own}", peer.uid()), KERNEL)
        }
        Err(error) => Check::missing(USER, format!("SO_PEERCRED fails: {error}"), KERNEL),
    };
    let watched = ends.as_ref().is_ok_and(|(end, _)| getsockopt(end, sockopt::PeerPidfd).is_ok());
    let opened = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let process = match (watched, opened) {
        (true, _) => Check::ok(PROCESS, "SO_PEERPIDFD yields it: its end is seen at once"),
        (false, Ok(_)) => Check::weak(
            PROCESS,
            "a pidfd by its number alone, which may be another's by then",
            "Linux 6.5 has SO_PEERPIDFD",
        ),
        (false, Err(error)) => Check::weak(
            PROCESS,
            format!("no pidfd ({error}): its end is seen by its socket alone"),
            "Linux 5.3 has pidfds, unless a sandbox forbids them",
        ),
    };
    [user, process]
}

const KERNEL: &str = "the bus needs a Linux kernel that says who connects";

/// How many descriptors this process may have.
pub(super) fn descriptors() -> Check {
    const NAME: &str = "descriptors";
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let found = format!("RLIMIT_NOFILE is {} (hard limit: {})", number(soft), number(hard));
    let advice = format!(
        "a broker with 1024 connections needs {DESCRIPTORS}: `ulimit -n 4096`, LimitNOFILE=4096 in a unit"
    );
    match soft {
        DESCRIPTORS.. => Check::ok(NAME, found),
        DESCRIPTORS_MIN.. => Check::weak(NAME, found, advice),
        _ => Check::missing(NAME, found, advice),
    }
}

fn number(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

/// How much memory this process, and its control groups, may have.
pub(super) fn memory() -> Check {
    const NAME: &str = "memory";
    let limits = [("RLIMIT_AS", Resource::As), ("RLIMIT_FSIZE", Resource::Fsize)];
    let limits = limits.map(|(name, resource)| (name.to_owned(), getrlimit(resource).current));
    let groups = control_groups().into_iter().map(|group| (group.display().to_string(), left_in(&group)));
    let free = [("MemAvailable".to_owned(), available())];
    let known = limits.into_iter().chain(groups).chain(free).filter_map(|(name, bytes)| Some((name, bytes?)));
    let Some((name, bytes)) = known.min_by_key(|(_, bytes)| *bytes) else {
        return Check::weak(NAME, "the host does not say how much there is", "is /proc mounted?");
    };
    let found = format!("{} MiB, by {name}", bytes >> 20);
    let advice = format!(
        "a ring takes 8 MiB at first, 32 rings {} MiB: raise that, or `--ring-bytes` makes smaller ones",
        MEMORY >> 20
    );
    match bytes {
        MEMORY.. => Check::ok(NAME, found),
        MEMORY_MIN.. => Check::weak(NAME, found, advice),
        _ => Check::missing(NAME, found, advice),
    }
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The control groups of this process, of the second version, and those above them.
fn control_groups() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    Path::new("/sys/fs/cgroup")
        .join(own)
        .ancestors()
        .map(Path::to_owned)
        .take_while(|group| group.starts_with("/sys/fs/cgroup"))
        .collect()
}

fn left_in(group: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

/// What `--backing named` has its rings in.
pub(super) fn shared_memory() -> Check {
    const NAME: &str = "shared memory";
    const FOLDER: &str = "/dev/shm";
    let advice = "`--backing named` alone needs it";
    let free = rustix::fs::access(FOLDER, Access::WRITE_OK | Access::EXEC_OK)
        .and_then(|()| rustix::fs::statvfs(FOLDER));
    match free {
        Ok(free) => {
            let bytes = free.f_bavail.saturating_mul(free.f_frsize);
            let found = format!("{FOLDER} has {} MiB", bytes >> 20);
            if bytes >= MEMORY { Check::ok(NAME, found) } else { Check::weak(NAME, found, advice) }
        }
        Err(error) => Check::weak(NAME, format!("{FOLDER} can't be used: {error}"), advice),
    }
}

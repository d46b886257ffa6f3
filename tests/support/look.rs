//! Processes, looked at from outside.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{DEADLINE, Role};

/// Whether the process is stopped by a signal.
pub(crate) fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// Whether there is such a process, and it has not ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !['Z', 'X'].contains(&state))
}

/// The state letter of `/proc/PID/stat`.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

/// Open descriptors.
pub(crate) fn descriptors(pid: u32) -> usize {
    open(pid).len()
}

/// What the open descriptors are.
pub(crate) fn open(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").flatten();
    // One that is closed meanwhile still counts.
    descriptors
        .map(|entry| fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned())
        .collect()
}

/// Open sockets.
pub(crate) fn sockets(pid: u32) -> usize {
    open(pid).iter().filter(|what| what.starts_with("socket:")).count()
}

/// Connections that the host has of a socket at this path: those that were accepted have its name.
pub(crate) fn connections(path: &Path) -> usize {
    const CONNECTED: &str = "03";
    let path = path.to_str().expect("a path of UTF-8");
    let all = fs::read_to_string("/proc/net/unix").expect("the kernel says it");
    let is_one = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.get(5) == Some(&CONNECTED) && columns.get(7) == Some(&path)
    };
    all.lines().filter(is_one).count()
}

/// Mapped segments, by name: `eventbus-p` for producers' and `eventbus-c` for consumers', or `deebp` and `deebc` where they have
/// names of their own.
pub(crate) fn segments(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    maps.lines().filter(|line| line.contains("memfd:eventbus-") || line.contains("/dev/shm/deeb")).count()
}

/// Data bytes of the rings that the process has an end of, the smallest first.
pub(crate) fn rings(pid: u32) -> Vec<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    let of_producers =
        maps.lines().filter(|line| line.contains("memfd:eventbus-p") || line.contains("/dev/shm/deebp"));
    let bytes = of_producers.map(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [start, end] = [range.0, range.1].map(|end| u64::from_str_radix(end, 16).expect("an address"));
        end - start - 4096
    });
    let mut rings: Vec<u64> = bytes.collect();
    rings.sort_unstable();
    rings
}

/// From now on the process may have so many descriptors, whatever it has open.
pub(crate) fn limit_descriptors(pid: u32, count: u64) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid is positive");
    let limit = Rlimit { current: Some(count), maximum: Some(count) };
    prlimit(Some(pid), Resource::Nofile, limit).expect("it is ours");
}

/// Processor time that it took so far, all threads together.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let (_, rest) = stat.rsplit_once(')').expect("the name is in brackets");
    let ticks = rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks"));
    // A hundred in a second, on every Linux that we run on.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// Threads.
pub(crate) fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").count()
}

/// Voluntary context switches of all threads: how often any of them went to sleep.
pub(crate) fn sleeps(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?.to_owned();
            line.rsplit_once('\t')?.1.parse::<u64>().ok()
        })
        .sum()
}

/// What of ours lies in the shared memory that has names, and was made by one of these processes. Nothing should, once they have
/// their rings.
pub(crate) fn named_segments(pids: &[u32]) -> Vec<String> {
    let made_here = |name: &str| {
        let Some(digits) = name.strip_prefix("deeb").and_then(|rest| rest.get(1..6)) else {
            return name.contains("eventbus") || name.contains("daemoneye");
        };
        u32::from_str_radix(digits, 36).is_ok_and(|pid| pids.contains(&pid))
    };
    let entries =
        fs::read_dir("/dev/shm").map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let names = entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| made_here(name)).collect()
}

/// Kilobytes of memory that are the process's own at this moment.
pub(crate) fn resident_kilobytes(pid: u32) -> u64 {
    kilobytes(pid, "VmRSS:")
}

/// The most of them that it ever had.
pub(crate) fn resident_kilobytes_max(pid: u32) -> u64 {
    kilobytes(pid, "VmHWM:")
}

fn kilobytes(pid: u32, fact: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(fact)).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What a process holds of what can leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    pub(crate) segments: usize,
    pub(crate) threads: usize,
}

impl Held {
    pub(crate) fn by(role: &Role) -> Self {
        let pid = role.pid();
        Self { descriptors: descriptors(pid), segments: segments(pid), threads: threads(pid) }
    }

    /// Waits until a role holds this much again.
    pub(crate) fn again_by(self, role: &Role) {
        let start = Instant::now();
        while Self::by(role) != self {
            let late = start.elapsed() > DEADLINE;
            assert!(!late, "{:?} instead of {self:?}: {:?}", Self::by(role), open(role.pid()));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether these bytes are somewhere in the memory that the process can write to, segments apart.
pub(crate) fn holds(pid: u32, bytes: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("the process lives");
    let regions = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).expect("it is hexadecimal");
        (rest.starts_with("rw") && !rest.contains("memfd:")).then(|| (number(start), number(end)))
    });
    regions.into_iter().any(|(start, end)| {
        let mut region = vec![0; usize::try_from(end - start).expect("it fits into memory")];
        // What goes meanwhile is not there.
        memory.read_exact_at(&mut region, start).is_ok()
            && region.windows(bytes.len()).any(|window| window == bytes)
    })
}

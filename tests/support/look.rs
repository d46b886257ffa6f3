//! Processes, looked at from outside.

use std::fs;

/// Whether the process is stopped by a signal.
pub(crate) fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// The state letter of `/proc/PID/stat`.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

/// Open descriptors.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

/// Mapped segments, by name: `eventbus-p` for producers' and `eventbus-c` for consumers', or `deebp` and `deebc` where they have
/// names of their own.
pub(crate) fn segments(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    maps.lines().filter(|line| line.contains("memfd:eventbus-") || line.contains("/dev/shm/deeb")).count()
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

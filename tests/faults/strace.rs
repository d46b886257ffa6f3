//! `strace`, attached to a process to count its calls or to have some of them fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Folder, wait_until};

/// The names that the kernel shows for segments: what is filtered by them concerns nothing else.
const SEGMENTS: [&str; 2] = ["/memfd:eventbus-p", "/memfd:eventbus-c"];

#[derive(Debug)]
pub(crate) struct Strace {
    child: Child,
    traced: u32,
    log: PathBuf,
}

impl Strace {
    /// Counts these calls.
    pub(crate) fn counting(folder: &Folder, pid: u32, calls: &[&str], segments_only: bool) -> Self {
        Self::attach(folder, pid, calls, segments_only, &[])
    }

    /// Has the call fail: at its Nth time in each thread, or each time.
    pub(crate) fn failing(
        folder: &Folder,
        pid: u32,
        call: &str,
        segments_only: bool,
        errno: &str,
        nth: Option<u64>,
    ) -> Self {
        let when = nth.map(|nth| format!(":when={nth}")).unwrap_or_default();
        let inject = format!("inject={call}:error={errno}{when}");
        Self::attach(folder, pid, &[call], segments_only, &["-e", &inject])
    }

    /// Has the kernel know no way to open the process at the other end of a socket by the socket, the second of two options that
    /// are asked for.
    pub(crate) fn without_peer_pidfds(folder: &Folder, pid: u32) -> Self {
        Self::attach(folder, pid, &["getsockopt"], false, &["-e", Self::NO_PEER_PIDFD])
    }

    /// The same, and none by its number either.
    pub(crate) fn without_pidfds(folder: &Folder, pid: u32) -> Self {
        let by_number = "inject=pidfd_open:error=ENOSYS";
        let more = ["-e", Self::NO_PEER_PIDFD, "-e", by_number];
        Self::attach(folder, pid, &["getsockopt", "pidfd_open"], false, &more)
    }

    const NO_PEER_PIDFD: &str = "inject=getsockopt:error=ENOPROTOOPT:when=2+2";

    fn attach(folder: &Folder, pid: u32, calls: &[&str], segments_only: bool, more: &[&str]) -> Self {
        let log = folder.path().join(format!("strace-{pid}"));
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&log).args(["-p", &pid.to_string()]);
        // A question mark passes over a call that this machine does not have.
        let traced: Vec<String> = calls.iter().map(|call| format!("?{call}")).collect();
        command.args(["-e", &format!("trace={}", traced.join(","))]).args(more);
        if segments_only {
            command.args(SEGMENTS.iter().flat_map(|name| ["-P", name]));
        }
        let child = command.stdin(Stdio::null()).spawn().expect("strace is installed");
        wait_until("strace is attached to each thread", || is_traced(pid));
        Self { child, traced: pid, log }
    }

    /// Lets go of the process, which is to go on, and yields what was seen of it.
    pub(crate) fn detach(mut self) -> Seen {
        // What is to fail, and has begun, would end as a call that does not exist.
        wait_until("the process has nothing to do", || is_asleep(self.traced));
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid is positive");
        kill_process(pid, Signal::TERM).expect("it is ours, and not reaped");
        wait_until("strace has let go", || self.child.try_wait().expect("it is ours").is_some());
        let seen = Seen(fs::read_to_string(&self.log).expect("it writes its log"));
        fs::remove_file(&self.log).expect("it is ours");
        seen
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether each thread has a tracer.
fn is_traced(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
}

/// Whether each thread sleeps.
fn is_asleep(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    tasks.flatten().all(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tS"))
    })
}

/// The log of a process's calls.
#[derive(Debug)]
pub(crate) struct Seen(String);

impl Seen {
    /// How often each call was made, at most, by one thread.
    pub(crate) fn most_by_one_thread(&self) -> BTreeMap<&str, u64> {
        let mut by_thread: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for line in self.0.lines() {
            let Some((thread, call)) = line.split_once(' ') else { continue };
            // The second half of a call that was interrupted in the log has no bracket here.
            if let Some((name, _)) = call.trim_start().split_once('(')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                *by_thread.entry((name, thread)).or_default() += 1;
            }
        }
        let mut most = BTreeMap::new();
        for ((name, _), count) in by_thread {
            let known: &mut u64 = most.entry(name).or_default();
            *known = count.max(*known);
        }
        most
    }

    /// How many calls were made to fail.
    pub(crate) fn injected(&self) -> usize {
        self.0.lines().filter(|line| line.contains("(INJECTED)")).count()
    }
}

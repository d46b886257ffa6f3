//! The process table of this machine, as events.
//!
//! A process is its id and its start time: an id alone is given again. Threads of a process are none; the kernel's own
//! are, as in every process list.
//! No process is left out for what it calls itself: names and arguments that are no UTF-8 are converted, and a command line
//! of any length is cut to what is worth carrying.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use daemoneye_eventbus::ProcessEvent;
use sysinfo::{Process, ProcessRefreshKind, ProcessesToUpdate, System, ThreadKind, UpdateKind, Users};

/// Bytes of a command line. The kernel allows some megabytes, a record takes one. Longer: cut, and the metadata says how long
/// it was.
const COMMAND_LINE_BYTES_MAX: usize = 32 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pid: u32,
    /// Seconds since 1970.
    started: u64,
}

pub(crate) type Scan = BTreeMap<Identity, ProcessEvent>;

#[derive(Debug)]
pub(crate) struct ProcessTable {
    system: System,
    users: Users,
}

impl ProcessTable {
    pub(crate) fn new() -> Self {
        // Otherwise a descriptor is held for each process, up to half of what this process may have.
        sysinfo::set_open_files_limit(0);
        Self { system: System::new(), users: Users::new_with_refreshed_list() }
    }

    /// The processes that are there now.
    ///
    /// One `System` serves all scans, although a process may become another program: a new one could read another boot
    /// time from a clock that was set meanwhile, and all start times would change.
    pub(crate) fn scan(&mut self) -> Scan {
        let what = ProcessRefreshKind::nothing()
            .with_memory()
            .with_user(UpdateKind::Always)
            .with_cmd(UpdateKind::Always)
            .with_exe(UpdateKind::Always);
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
        let is_thread = |process: &&Process| process.thread_kind() == Some(ThreadKind::Userland);
        let processes = self.system.processes().values().filter(|process| !is_thread(process));
        processes
            .map(|process| {
                let identity = Identity { pid: process.pid().as_u32(), started: process.start_time() };
                (identity, self.event(process))
            })
            .collect()
    }

    fn event(&self, process: &Process) -> ProcessEvent {
        let mut metadata = HashMap::from([("memory_bytes".to_owned(), process.memory().to_string())]);
        if let Some(uid) = process.user_id() {
            let user = self.users.get_user_by_id(uid);
            let user = user.map_or_else(|| uid.to_string(), |user| user.name().to_owned());
            metadata.insert("user".to_owned(), user);
        }
        let arguments: Vec<_> = process.cmd().iter().map(|argument| argument.to_string_lossy()).collect();
        let mut command_line = arguments.join(" ");
        let bytes = command_line.len();
        if bytes > COMMAND_LINE_BYTES_MAX {
            command_line.truncate(command_line.floor_char_boundary(COMMAND_LINE_BYTES_MAX));
            metadata.insert("command_line_cut_from_bytes".to_owned(), bytes.to_string());
        }
        ProcessEvent {
            pid: process.pid().as_u32(),
            name: name(process),
            command_line: Some(command_line).filter(|line| !line.is_empty()),
            executable_path: process.exe().map(|path| path.to_string_lossy().into_owned()),
            ppid: process.parent().map(sysinfo::Pid::as_u32),
            start_time: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(process.start_time())),
            metadata,
        }
    }
}

/// What the process is called now. sysinfo reads the name once in a process's life, and keeps that of the shell which has since
/// become another program; so it is read again where there is a file for that.
fn name(process: &Process) -> String {
    let name = std::fs::read(format!("/proc/{}/comm", process.pid()));
    let name = name.unwrap_or_else(|_| process.name().as_encoded_bytes().to_vec());
    String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned()
}

/// What happened to a process between two scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Started,
    Exited,
}

/// The processes that only one of two scans has, with their `change` in the metadata: first who exited, as last seen, then who
/// started.
pub(crate) fn changes(before: &Scan, now: &Scan) -> Vec<ProcessEvent> {
    let only = |here: &Scan, there: &Scan, change: Change| -> Vec<ProcessEvent> {
        let missing = here.iter().filter(|(identity, _)| !there.contains_key(identity));
        missing.map(|(_, process)| changed(process, change)).collect()
    };
    let mut changes = only(before, now, Change::Exited);
    changes.extend(only(now, before, Change::Started));
    changes
}

fn changed(process: &ProcessEvent, change: Change) -> ProcessEvent {
    let change = match change {
        Change::Started => "started",
        Change::Exited => "exited",
    };
    let mut process = process.clone();
    process.metadata.insert("change".to_owned(), change.to_owned());
    process
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(processes: &[(u32, u64)]) -> Scan {
        let event = |pid| ProcessEvent {
            pid,
            name: "sh".into(),
            command_line: None,
            executable_path: None,
            ppid: None,
            start_time: None,
            metadata: HashMap::new(),
        };
        processes.iter().map(|&(pid, started)| (Identity { pid, started }, event(pid))).collect()
    }

    fn changes_of(before: &[(u32, u64)], now: &[(u32, u64)]) -> Vec<(u32, String)> {
        let changes = changes(&scan(before), &scan(now));
        changes.into_iter().map(|process| (process.pid, process.metadata["change"].clone())).collect()
    }

    #[test]
    fn what_stays_is_no_change() {
        assert_eq!(changes_of(&[(1, 5), (2, 6)], &[(1, 5), (2, 6)]), []);
    }

    #[test]
    fn a_process_id_that_is_given_again_is_an_exit_and_a_start() {
        let expected = [(7, "exited".to_owned()), (7, "started".to_owned())];
        assert_eq!(changes_of(&[(7, 5)], &[(7, 9)]), expected);
    }

    #[test]
    fn the_table_has_this_process_and_none_of_its_threads() {
        let busy = std::thread::spawn(std::thread::park);
        let scan = ProcessTable::new().scan();
        let own = std::process::id();
        let here: Vec<_> = scan.values().filter(|process| process.pid == own).collect();
        assert_eq!(here.len(), 1, "{here:?}");
        assert!(
            here[0].command_line.is_some() && here[0].executable_path.is_some() && here[0].ppid.is_some()
        );
        assert!(here[0].metadata.contains_key("user") && here[0].metadata["memory_bytes"] != "0");
        let tasks = std::fs::read_dir("/proc/self/task").expect("this process has threads");
        let tasks = tasks.map(|task| task.expect("a thread").file_name());
        let threads: Vec<u32> = tasks.filter_map(|task| task.to_str()?.parse().ok()).collect();
        assert!(threads.len() > 1);
        busy.thread().unpark();
        let shown: Vec<_> = scan.keys().filter(|process| threads.contains(&process.pid)).collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
    }

    /// Runs `program` until the end of its stdin, and says how the table shows it.
    fn shown(table: &mut ProcessTable, program: &mut std::process::Command) -> ProcessEvent {
        let mut child = program.stdin(std::process::Stdio::piped()).spawn().expect("it runs");
        let shown = table.scan().into_values().find(|process| process.pid == child.id());
        drop(child.stdin.take());
        child.wait().expect("it ends");
        shown.expect("it is in the table while it runs")
    }

    #[test]
    fn a_name_that_is_no_utf8_hides_no_process() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join(std::ffi::OsStr::from_bytes(b"ev\xffil"));
        // A copy could not be run while another test forks: it would be open for writing there.
        std::os::unix::fs::symlink("/bin/sh", &program).expect("a link");
        let shown = shown(&mut ProcessTable::new(), &mut std::process::Command::new(&program));
        assert_eq!(shown.name, "ev\u{fffd}il");
        assert!(shown.command_line.is_some_and(|line| line.ends_with("ev\u{fffd}il")));
        assert!(shown.executable_path.is_some());
    }

    #[test]
    fn a_command_line_of_any_length_is_cut_and_says_so() {
        let long = "ä".repeat(50_000);
        let mut program = std::process::Command::new("sh");
        let shown = shown(&mut ProcessTable::new(), program.args(["-c", "read line || exit 0", &long]));
        let line = shown.command_line.expect("a command line");
        assert!(line.len() <= COMMAND_LINE_BYTES_MAX && line.len() > COMMAND_LINE_BYTES_MAX - 4);
        let bytes: usize = shown.metadata["command_line_cut_from_bytes"].parse().expect("a number");
        assert!(bytes > 100_000, "{bytes}");
    }

    #[test]
    fn a_process_that_becomes_another_program_is_shown_as_that() {
        use std::io::{BufRead as _, BufReader, Write as _};
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo ready; read line; exec cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let (mut stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let mut table = ProcessTable::new();
        let mut named = || {
            let scan = table.scan();
            scan.into_values().find(|process| process.pid == child.id()).map(|process| process.name)
        };
        stdout.read_line(&mut line).expect("it speaks");
        let before = named();
        // The second line comes back from the program that the shell has become.
        stdin.write_all(b"go\nback\n").expect("it listens");
        stdout.read_line(&mut line).expect("it speaks");
        let after = named();
        drop(stdin);
        child.wait().expect("it ends");
        assert_eq!((before.as_deref(), after.as_deref()), (Some("sh"), Some("cat")));
    }
}

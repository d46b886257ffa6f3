//! The one harness: real processes with a role each, told what to do line by line, and looked at from outside.
//!
//! A role is this test binary, started again with [`ROLE`] in its environment; [`roles`] holds what it does then. It takes one
//! JSON command per line on its standard input and answers each with one line. Everything here waits for conditions, with
//! a deadline; whatever was started is killed and reaped, by id, when its handle is dropped.

pub(crate) mod chance;
pub(crate) mod look;
pub(crate) mod proof;
pub(crate) mod roles;

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What was asked of the allocator, in processes that count it.
pub(crate) static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
thread_local! {
    /// The same, by this thread.
    pub(crate) static OWN_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}
/// Says what rings are made of.
const BACKING: &str = "EVENTBUS_TEST_BACKING";
/// What a role process is to be: a JSON object.
pub(crate) const ROLE: &str = "EVENTBUS_TEST_ROLE";
/// Begins each line that a role answers, to tell it from what the test runner prints.
const ANSWER: &str = "@role ";
/// How long anything may take on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// For `within`: a `/dev/shm` of its own, of 1 MiB.
pub(crate) const WITH_LITTLE_MEMORY: [&str; 6] =
    ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=1M tmpfs /dev/shm && exec \"$@\"", "sh"];
/// A uid that owns nothing here.
pub(crate) const STRANGER: u32 = 65534;

/// What rings are made of in these tests: `memfd`, or, if the environment says so, `named`, or `relay`: they lead over the broker.
pub(crate) fn backing() -> String {
    let backing = std::env::var(BACKING).unwrap_or_else(|_| "memfd".into());
    assert!(["memfd", "named", "relay"].contains(&backing.as_str()), "{BACKING} is {backing:?}");
    backing
}

/// Whether rings are made of memory that has a name, which is one user's.
pub(crate) fn is_named() -> bool {
    backing() == "named"
}

/// The name of a segment: a producer's (`p`) or a consumer's (`c`), said to be made by process `pid`.
pub(crate) fn name_of_segment(kind: char, pid: u32, number: u128) -> String {
    let digit = |place: u32| char::from_digit(pid / 36_u32.pow(place) % 36, 36).expect("a digit");
    let pid: String = (0..5).rev().map(digit).collect();
    format!("/deeb{kind}{pid}{number:019}")
}

/// A folder of one test, removed with it.
#[derive(Debug)]
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("eventbus-test-").tempdir().expect("a temporary folder");
        // Strangers may enter; the socket's mode decides who may connect.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        Self(folder)
    }

    /// One that belongs to a user, or to nobody in particular, as `/tmp` does.
    pub(crate) fn of(owner: u32, mode: u32) -> Self {
        let folder = Self::new();
        std::os::unix::fs::chown(folder.path(), Some(owner), None).expect("as root");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).expect("as root");
        folder
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.path().join("bus.sock")
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The names of what is in it.
    pub(crate) fn entries(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("the folder is there");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("it is readable").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }
}

/// A role process.
#[derive(Debug)]
pub(crate) struct Role {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<Value>,
    what: String,
}

impl Role {
    /// The agent: a broker that listens at the folder's socket. Further options as [`roles::BusRole`] has them.
    pub(crate) fn agent(folder: &Folder, options: Value) -> Self {
        Self::bus(folder, "agent", "agent", options, None)
    }

    /// A client in a process of its own.
    pub(crate) fn client(folder: &Folder, id: &str) -> Self {
        Self::bus(folder, "client", id, json!({}), None)
    }

    pub(crate) fn client_with(folder: &Folder, id: &str, options: Value) -> Self {
        Self::bus(folder, "client", id, options, None)
    }

    /// A client whose memory with names, 1 MiB, is its own.
    pub(crate) fn poor_client(folder: &Folder, id: &str) -> Self {
        Self::bus(folder, "client", id, json!({"within": WITH_LITTLE_MEMORY}), None)
    }

    /// A client of another user.
    pub(crate) fn strange_client(folder: &Folder, id: &str, options: Value) -> Self {
        Self::bus(folder, "client", id, options, Some(STRANGER))
    }

    /// A process of a user, with a role, and with what `setpriv` is told in addition (`rights`).
    pub(crate) fn of_user(folder: &Folder, role: &str, id: &str, uid: u32, options: Value) -> Self {
        Self::bus(folder, role, id, options, Some(uid))
    }

    /// A process that leaves a connection to a child of its own.
    pub(crate) fn orphaner(folder: &Folder) -> Self {
        Self::bus(folder, "orphaner", "orphaner", json!({}), None).up()
    }

    /// Has an orphaner connect, without waiting for the broker, and yields the child that has the connection as well.
    pub(crate) fn leave_connection(&mut self) -> u32 {
        let heir = self.must(&json!({}))["heir"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        heir.expect("a pid")
    }

    /// A process that speaks the protocol by hand.
    pub(crate) fn intruder(folder: &Folder, uid: Option<u32>) -> Self {
        Self::bus(folder, "intruder", "intruder", json!({}), uid).up()
    }

    /// A broker of another build, made by hand: options as `roles::other_broker` has them.
    pub(crate) fn other_broker(folder: &Folder, options: Value) -> Self {
        Self::bus(folder, "other_broker", "other_broker", options, None).up()
    }

    fn bus(folder: &Folder, role: &str, id: &str, mut options: Value, uid: Option<u32>) -> Self {
        if options["backing"].is_null() {
            options["backing"] = backing().into();
        }
        options["role"] = role.into();
        options["id"] = id.into();
        if options["path"].is_null() {
            options["path"] = folder.socket().to_str().expect("a path of UTF-8").into();
        }
        Self::spawn(folder, &options, uid)
    }

    fn spawn(folder: &Folder, role: &Value, uid: Option<u32>) -> Self {
        let binary = std::env::current_exe().expect("this binary has a path");
        let mut command = match uid {
            None => within(role, &binary),
            Some(uid) => as_user(uid, role, &reachable(&binary, folder)),
        };
        in_role(&mut command, role).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the role starts");
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The runner's own output may stand before ours on the same line.
                if let Some((_, answer)) = line.split_once(ANSWER) {
                    let answer = serde_json::from_str(answer).expect("a role answers in JSON");
                    if send.send(answer).is_err() {
                        return;
                    }
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, answers, what: role.to_string() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the answer that a role gives when it is up: `{}` or `{"error": …}`.
    pub(crate) fn hello(&self) -> Value {
        self.answer(DEADLINE)
    }

    /// Waits until it is up, and fails if it is not.
    pub(crate) fn up(self) -> Self {
        let hello = self.hello();
        assert_eq!(hello, json!({}), "{} is not up", self.what);
        self
    }

    /// Has a command carried out, and yields the answer.
    pub(crate) fn call(&mut self, command: &Value) -> Value {
        self.tell(command);
        self.answer(DEADLINE)
    }

    /// Has a command carried out that must not fail.
    pub(crate) fn must(&mut self, command: &Value) -> Value {
        let answer = self.call(command);
        assert!(answer.get("error").is_none(), "{command} of {} failed: {answer}", self.what);
        answer
    }

    /// Says what to do, without waiting.
    pub(crate) fn tell(&mut self, command: &Value) {
        let stdin = self.stdin.as_mut().expect("only `kill` closes it");
        writeln!(stdin, "{command}").and_then(|()| stdin.flush()).expect("the role listens");
    }

    /// Waits until it ends by itself, having been told that there is nothing more to do.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.stdin = None;
        self.death()
    }

    /// The next answer.
    pub(crate) fn answer(&self, deadline: Duration) -> Value {
        match self.answers.recv_timeout(deadline) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => panic!("{} did not answer within {deadline:?}", self.what),
            Err(RecvTimeoutError::Disconnected) => panic!("{} ended without an answer", self.what),
        }
    }

    /// Waits until it ends, however it does.
    pub(crate) fn death(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the role dies", || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some()
        });
        status.expect("it has just died")
    }

    /// Stops it (SIGSTOP), and waits until it is.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        wait_until("the process is stopped", || look::is_stopped(self.pid()));
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it (SIGKILL), and reaps it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
        self.stdin = None;
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a pid is positive");
        kill_process(pid, signal).expect("it is ours");
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has a command of this binary play a role.
fn in_role<'a>(command: &'a mut Command, role: &Value) -> &'a mut Command {
    command.args(["--exact", "role_entry", "--nocapture", "--test-threads=1"]).env(ROLE, role.to_string())
}

/// This binary, as another user: of the groups that the role names as `groups`, and with its `rights`.
fn as_user(uid: u32, role: &Value, binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
    match role["groups"].as_str() {
        Some(groups) => command.arg(format!("--groups={groups}")),
        None => command.arg("--clear-groups"),
    };
    command.args(role["rights"].as_array().into_iter().flatten().filter_map(Value::as_str)).arg(binary);
    command
}

/// This binary, started by the command that the role names as `within`, or by nothing in between.
fn within(role: &Value, binary: &Path) -> Command {
    let words: Vec<&str> =
        role["within"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some((program, arguments)) = words.split_first() else {
        return Command::new(binary);
    };
    let mut command = Command::new(program);
    command.args(arguments).arg(binary);
    command
}

/// A copy of this binary that every user can start: the original may lie in a folder that they can't enter.
pub(crate) fn reachable(binary: &Path, folder: &Folder) -> PathBuf {
    let copy = folder.path().join("role");
    if !copy.exists() {
        // By a process of its own: a descriptor of ours that is open for writing could be inherited by a role that another
        // test starts at this moment, and a file that is being written can't be executed.
        let made = Command::new("install").arg("--mode=755").arg(binary).arg(&copy).status();
        assert!(made.is_ok_and(|status| status.success()), "there is room for a copy");
    }
    copy
}

/// Waits for a condition; fails when it is not met within the deadline.
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(DEADLINE, what, condition);
}

/// The same, for a condition that takes its time.
pub(crate) fn wait_within(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

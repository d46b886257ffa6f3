//! The agent and the collector in two processes, as DaemonEye runs them.
#![deny(warnings)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than the processes wait for one another.
const LONG: Duration = Duration::from_secs(60);

/// A process that is killed if the test fails.
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Process {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it was built");
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|said| line.send(said))
        });
        Self { child, stdin, lines }
    }

    /// Waits until it says so; the whole line.
    fn says(&self, beginning: &str) -> String {
        let line = self.lines.recv_timeout(LONG).unwrap_or_else(|_| panic!("it does not say `{beginning}`"));
        assert!(line.starts_with(beginning), "it says `{line}` and not `{beginning}`");
        line
    }

    fn go_on(&mut self) {
        self.stdin.write_all(b"go on\n").expect("it listens");
    }

    fn ends_well(mut self) {
        let status = self.child.wait().expect("it is ours");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_agent_and_a_collector_find_one_another_work_together_and_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("daemoneye.sock");
    let path = path.to_str().expect("a path of UTF-8");
    let agent = Process::start(env!("CARGO_BIN_EXE_agent"), &[path, "first"]);
    agent.says("listening");
    agent.says("subscribed");
    let mut procmond = Process::start(env!("CARGO_BIN_EXE_procmond"), &[path]);
    procmond.says("connected");
    agent.says("done");
    procmond.says("worked");
    agent.says("published");
    agent.ends_well();
    procmond.says("alone");
    let agent = Process::start(env!("CARGO_BIN_EXE_agent"), &[path, "next"]);
    agent.says("listening");
    agent.says("subscribed");
    procmond.go_on();
    procmond.says("published");
    assert_eq!(agent.says("lost"), "lost 0");
    procmond.go_on();
    procmond.says("down");
    agent.says("published");
    agent.ends_well();
    procmond.ends_well();
}

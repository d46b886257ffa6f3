//! `eventbus`, started as a user starts it, and what it says.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{DEADLINE, Folder, STRANGER, backing, look, reachable, wait_until};

/// A process of the command line. Killed, and reaped, when it is dropped.
pub(crate) struct Tool {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Said,
    err: Said,
}

/// What a tool has said when it had ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<String>,
    pub(crate) err: String,
}

/// The lines that have come so far, and whether those are all.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<(Vec<String>, bool)>>);

impl Said {
    fn by(source: Option<impl Read + Send + 'static>) -> Self {
        let said = Self::default();
        let ours = said.clone();
        let source = BufReader::new(source.expect("a pipe was asked for"));
        std::thread::spawn(move || {
            for line in source.lines().map_while(Result::ok) {
                ours.0.lock().expect("nobody panics with it").0.push(line);
            }
            ours.0.lock().expect("nobody panics with it").1 = true;
        });
        said
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics with it").0.clone()
    }

    fn is_all(&self) -> bool {
        self.0.lock().expect("nobody panics with it").1
    }

    fn with(&self, text: &str) -> String {
        let mut found = None;
        wait_until(&format!("it says {text:?}"), || {
            found = self.lines().into_iter().find(|line| line.contains(text));
            found.is_some() || self.is_all()
        });
        found.unwrap_or_else(|| panic!("it ended without {text:?}: {:?}", self.lines()))
    }
}

/// The binary, which heeds signals: whoever runs the tests may have some ignored, as `nohup` does.
pub(crate) fn eventbus() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_eventbus")]);
    command
}

/// The binary with these words, and the folder's socket behind them.
pub(crate) fn command(folder: &Folder, words: &[&str]) -> Command {
    with_socket(eventbus(), folder, words)
}

/// The same, by a user that owns nothing here.
pub(crate) fn strange_command(folder: &Folder, words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}"), "--clear-groups".into()]);
    command.arg(reachable(Path::new(env!("CARGO_BIN_EXE_eventbus")), folder));
    with_socket(command, folder, words)
}

fn with_socket(mut command: Command, folder: &Folder, words: &[&str]) -> Command {
    command.args(words).arg("--socket").arg(folder.socket());
    command
}

impl Tool {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let (out, err) = (Said::by(child.stdout.take()), Said::by(child.stderr.take()));
        Self { stdin: child.stdin.take(), child, out, err }
    }

    /// A broker that listens at the folder's socket.
    pub(crate) fn broker(folder: &Folder, words: &[&str]) -> Self {
        let backing = backing();
        let words = [&["broker", "--backing", &backing], words].concat();
        let broker = Self::start(command(folder, &words));
        broker.says("listening at ");
        broker
    }

    /// A subscriber that has subscribed.
    pub(crate) fn sub(folder: &Folder, words: &[&str]) -> Self {
        let subscriber = Self::start(command(folder, &[&["sub"], words].concat()));
        subscriber.warns(" has subscribed to ");
        subscriber
    }

    /// A publisher that waits for its input.
    pub(crate) fn publisher(folder: &Folder, words: &[&str]) -> Self {
        Self::start(command(folder, &[&["pub"], words].concat()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a line to read. It may have ended already.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("only the end closes it");
        let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
    }

    /// Whether a publisher has read all that it was told, and looks for more, or has no room for more.
    pub(crate) fn has_read_all(&self) -> bool {
        let stdin = self.stdin.as_ref().expect("only the end closes it");
        let unread = rustix::io::ioctl_fionread(stdin).expect("it is a pipe");
        unread == 0 && thread_waits(self.pid(), "eventbus-input")
    }

    /// Waits for a line on standard output.
    pub(crate) fn says(&self, text: &str) -> String {
        self.out.with(text)
    }

    /// Waits for a line on standard error.
    pub(crate) fn warns(&self, text: &str) -> String {
        self.err.with(text)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self::signal(&self.child, signal);
        if signal == Signal::STOP {
            wait_until("it is stopped", || look::is_stopped(self.pid()));
        }
    }

    /// Closes its input, and waits until it ends.
    pub(crate) fn end(mut self) -> Ended {
        self.stdin = None;
        let mut status = None;
        wait_until("it ends, and all that it says is read", || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some() && self.out.is_all() && self.err.is_all()
        });
        let code = status.expect("it has just ended").code();
        Ended { code, out: self.out.lines(), err: self.err.lines().join("\n") }
    }

    /// Kills it, and reaps it.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Tells it to end.
    pub(crate) fn interrupt(self) -> Ended {
        self.signal(Signal::INT);
        self.end()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the thread of this name waits for something.
fn thread_waits(pid: u32, name: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").flatten();
    let mut threads =
        threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    threads.any(|stat| {
        let (head, state) = stat.rsplit_once(')').unwrap_or_default();
        head.ends_with(&format!("({name}")) && state.starts_with(" S")
    })
}

/// A process that is started by hand. Killed, and reaped, when it is dropped.
pub(crate) struct Started(pub(crate) Child);

impl Started {
    pub(crate) fn by(command: &mut Command) -> Self {
        Self(command.spawn().expect("it starts"))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn signal(process: &Child, signal: Signal) {
    let pid = Pid::from_raw(process.id().cast_signed()).expect("a pid is positive");
    kill_process(pid, signal).expect("it is ours");
}

/// How a process ends that is to end by itself, and is killed if it does not.
pub(crate) fn code(process: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        match process.try_wait().expect("it is ours") {
            Some(status) => return status.code(),
            None if begun.elapsed() > DEADLINE => process.kill().expect("it is ours"),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Runs a tool to its end, with these lines to read.
pub(crate) fn ran(command: Command, lines: &[&str]) -> Ended {
    let mut tool = Tool::start(command);
    lines.iter().for_each(|line| tool.tell(line));
    tool.end()
}

/// The same, of a publisher.
pub(crate) fn published(folder: &Folder, words: &[&str], lines: &[&str]) -> Ended {
    ran(command(folder, &[&["pub"], words].concat()), lines)
}

/// A pipe that takes nothing more until somebody reads.
pub(crate) fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("descriptors");
    rustix::io::ioctl_fionbio(&writer, true).expect("it is a pipe");
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("it is a pipe");
    (reader, writer)
}

/// A process event as a line.
pub(crate) fn process(pid: u32) -> String {
    format!("{{\"Process\":{{\"pid\":{pid},\"name\":\"sh\",\"metadata\":{{}}}}}}")
}

pub(crate) fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

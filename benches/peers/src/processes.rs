//! The processes of one round: started, told to begin, and ended by their own handles, however the round goes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::Side;
use crate::pace::Outcome;

/// A child, killed and reaped when it is dropped.
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program in a role, and waits until it is ready.
    pub fn start(side: Side, role: &str, folder: &Path, time: Duration) -> Option<Self> {
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--play", side.name(), role, "--seconds", &time.as_secs_f64().to_string()])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let output = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut process = Self { child, output };
        (process.line()? == "ready").then_some(process)
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).ok()?;
        (!line.is_empty()).then(|| line.trim_end().to_owned())
    }

    pub fn go(&mut self) {
        use std::io::Write as _;
        // Who is gone tells nothing.
        let _ = self.child.stdin.as_mut().expect("it was asked for").write_all(b"go\n");
    }

    /// What a publisher tells at its end.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let line = self.line()?;
        let mut numbers = line.split(' ').map_while(|number| number.parse().ok());
        let (sent, received, nanos) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Outcome { sent, received, elapsed: Duration::from_nanos(nanos) })
    }

    /// Its processor time so far, user and system, as the kernel counts it: in hundredths of a second.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name, which may hold anything, ends with the last bracket.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Duration::from_millis(10 * ticks)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a child: the parent holds its input for as long as it lives.
pub fn end_with_parent() {
    // The publisher's input says first that it may begin.
    if std::env::args().any(|argument| argument == "publisher") {
        return;
    }
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}

/// Tells the parent that it may go on.
pub fn is_ready() {
    println!("ready");
}

/// Waits for the parent to say so.
pub fn await_go() {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).is_err() || line.is_empty() {
        std::process::exit(0);
    }
    // From here on the time is bounded: the publisher ends by itself.
}

/// Tells the parent what was seen.
pub fn tell(Outcome { sent, received, elapsed }: Outcome) {
    println!("{sent} {received} {}", elapsed.as_nanos());
    // The parent looks at its processor time first.
    let _ = std::io::stdin().read(&mut [0]);
}

//! What the benches share: the other side in a process of its own, processors, and runs in turns.
//!
//! The other side is this binary, started again with its part in the environment. The two tell each other numbers, over the
//! standard input and output of the child. A child whose parent is gone ends by itself; a parent kills and reaps its child.
//!
//! What a bench compares it runs in turns, a fraction of a second each, so that whatever else the machine does hits all
//! alike. Figures are medians of those runs; ratios are of figures of one execution, never of two.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::Criterion;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Which part a child plays.
const PART: &str = "EVENTBUS_BENCH_PART";
/// The folder that parent and child meet in.
const FOLDER: &str = "EVENTBUS_BENCH_FOLDER";

/// Where a bench and its child run, if it gives each a processor of its own.
pub(crate) const OWN_PROCESSOR: usize = 0;
pub(crate) const PEER_PROCESSOR: usize = 1;

/// Runs of each side, of which the median counts.
const ROUNDS: usize = 7;

/// Criterion as all benches here use it: whole runs take about a minute.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Whether this is only a trial that the bench runs at all (`cargo bench -- --test`).
pub(crate) fn is_trial() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// Confines this thread, and those that it starts, to one processor, as far as the machine has so many.
pub(crate) fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    if sched_setaffinity(None, &set).is_err() {
        eprintln!("there is no processor {processor}: figures will be poor");
    }
}

/// Processor time that this process took so far, in nanoseconds.
pub(crate) fn cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanos =
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"));
    nanos.as_nanos() as u64
}

/// A child process, as its parent sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Peer {
    /// Starts this binary again to play `part`, and waits until it is ready.
    pub(crate) fn start(part: &str, folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary has a path"))
            .env(PART, part)
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let input = child.stdin.take().expect("it was asked for");
        let output = child.stdout.take().expect("it was asked for");
        let mut peer = Self { child, input, output };
        assert_eq!(peer.hear(), READY);
        peer
    }

    pub(crate) fn tell(&mut self, number: u64) {
        self.input.write_all(&number.to_le_bytes()).expect("the child listens");
    }

    pub(crate) fn hear(&mut self) -> u64 {
        let mut number = [0; 8];
        self.output.read_exact(&mut number).expect("the child answers");
        u64::from_le_bytes(number)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first number that a child tells.
const READY: u64 = u64::from_le_bytes(*b"is ready");

/// The part of a child process, as itself sees it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

impl Part {
    /// The part that this process plays; `None` in the parent.
    pub(crate) fn assigned() -> Option<Self> {
        let name = std::env::var(PART).ok()?;
        let folder = std::env::var_os(FOLDER).expect("who has a part has a folder").into();
        // Whoever spins must not outlive a parent that was killed.
        set_parent_process_death_signal(Some(Signal::KILL)).expect("it is a signal");
        Some(Self { name, folder })
    }

    /// Tells the parent that it may begin.
    pub(crate) fn is_ready(&self) {
        self.tell(READY);
    }

    pub(crate) fn tell(&self, number: u64) {
        let mut output = std::io::stdout().lock();
        let told = output.write_all(&number.to_le_bytes()).and_then(|()| output.flush());
        told.unwrap_or_else(|_| std::process::exit(0));
    }

    /// The parent's next number. Ends the process if there is no parent any more.
    pub(crate) fn hear(&self) -> u64 {
        let mut number = [0; 8];
        let heard = std::io::stdin().lock().read_exact(&mut number);
        heard.unwrap_or_else(|_| std::process::exit(0));
        u64::from_le_bytes(number)
    }
}

/// A runtime for one thread, as a collector or an agent would have it.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// One timed run of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
    pub(crate) own_cpu_nanos: u64,
    pub(crate) peer_cpu_nanos: u64,
}

impl Run {
    /// Times `work`, which yields the processor time that the peer took for it.
    pub(crate) fn of(events: u64, work: impl FnOnce() -> u64) -> Self {
        let (start, cpu) = (Instant::now(), cpu_nanos());
        let peer_cpu_nanos = work();
        Self { events, elapsed: start.elapsed(), own_cpu_nanos: cpu_nanos() - cpu, peer_cpu_nanos }
    }
}

/// What one side came to: medians of its runs, processor time per event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) events_per_second: f64,
    pub(crate) own_cpu_nanos: f64,
    pub(crate) peer_cpu_nanos: f64,
}

impl Figures {
    fn of(runs: &[Run]) -> Self {
        let median = |figure: &dyn Fn(&Run) -> f64| {
            let mut all: Vec<f64> = runs.iter().map(figure).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        Self {
            events_per_second: median(&|run| run.events as f64 / run.elapsed.as_secs_f64()),
            own_cpu_nanos: median(&|run| run.own_cpu_nanos as f64 / run.events as f64),
            peer_cpu_nanos: median(&|run| run.peer_cpu_nanos as f64 / run.events as f64),
        }
    }

    /// Prints them where this process subscribes, and the child publishes.
    pub(crate) fn print(&self, what: &str) {
        let Self { events_per_second, own_cpu_nanos, peer_cpu_nanos } = self;
        println!(
            "{what}: {:.2} M events/s; CPU ns per event: publisher {peer_cpu_nanos:.1}, subscriber {own_cpu_nanos:.1}",
            events_per_second / 1e6
        );
    }
}

/// Runs the sides, by their number, in turns (once in a trial), and yields what each came to.
pub(crate) fn in_turns<const N: usize>(run: impl FnMut(usize) -> Run) -> [Figures; N] {
    in_turns_of(if is_trial() { 1 } else { ROUNDS }, run)
}

/// The same with so many rounds.
pub(crate) fn in_turns_of<const N: usize>(rounds: usize, mut run: impl FnMut(usize) -> Run) -> [Figures; N] {
    let mut runs = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (side, runs) in runs.iter_mut().enumerate() {
            runs.push(run(side));
        }
    }
    runs.map(|runs| Figures::of(&runs))
}

//! The control plane: connecting, 500 clients at once, and how long a subscribe and its end take beside those who flood the broker.
//!
//! The broker, each flood, and the echo that connecting is compared with, have processes of their own.

mod attack;
#[expect(dead_code, reason = "it serves other benches, too")]
#[path = "../support/mod.rs"]
mod harness;
mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemoneye_eventbus::{BrokerOptions, ConnectOptions, DaemoneyeBroker, EventBusClient};
use harness::{OWN_PROCESSOR, PEER_PROCESSOR, Part, Peer, is_trial, pin, runtime};

/// What is asked beside: a processor that is in use, and floods.
const BESIDE: [&str; 11] = [
    "busy",
    "mute",
    "lengths",
    "random",
    "descriptors",
    "drip-anew",
    "forgeries",
    "drip",
    "never-reads",
    "requests",
    "subscriptions",
];

fn main() {
    if let Some(part) = Part::assigned() {
        return match part.name.as_str() {
            "broker" => broker(&part),
            "echo" => echo(&part),
            "broker-apart" | "broker-together" => {
                pin(processor_of(&part.name));
                broker(&part);
            }
            "echo-apart" | "echo-together" => {
                pin(processor_of(&part.name));
                echo(&part);
            }
            "busy" => busy(&part),
            flood => {
                part.is_ready();
                attack::flood(flood, &socket(&part.folder));
            }
        };
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for placement in ["free", "apart", "together"] {
        connecting(folder.path(), placement);
    }
    if only_connecting() {
        return;
    }
    let _broker = Peer::start("broker", folder.path());
    many_at_once(folder.path());
    beside_floods(folder.path());
}

/// What takes seconds, of minutes (`cargo bench --bench control -- connecting`).
fn only_connecting() -> bool {
    std::env::args().any(|argument| argument == "connecting")
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("bus.sock")
}

async fn connect(folder: &Path, id: &str) -> EventBusClient {
    let options = ConnectOptions::new(id).path(socket(folder));
    EventBusClient::connect(options).await.expect("the broker is there")
}

/// What these percents of the runs take at most.
fn percentiles(mut times: Vec<Duration>, percents: [usize; 2]) -> [f64; 2] {
    times.sort_unstable();
    percents.map(|percent| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6)
}

/// Where the other side runs, by its name, if the two have a processor each or share one. Which of the two the scheduler does when it is
/// free to makes a bare connection cost 30 µs, or 70.
fn processor_of(part: &str) -> usize {
    if part.ends_with("apart") { PEER_PROCESSOR } else { OWN_PROCESSOR }
}

/// Beside a bare connection that is made, written to, and answered.
fn connecting(folder: &Path, placement: &str) {
    let suffix = if placement == "free" { String::new() } else { format!("-{placement}") };
    let _others = ["broker", "echo"].map(|part| Peer::start(&format!("{part}{suffix}"), folder));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if placement != "free" {
                pin(OWN_PROCESSOR);
            }
            connections(folder, placement);
        });
    });
    std::fs::remove_file(folder.join("echo.sock")).expect("it is there");
}

fn connections(folder: &Path, placement: &str) {
    let (runtime, count) = (runtime(), if is_trial() { 5 } else { 1000 });
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    let before = threads();
    for number in 0..count {
        let since = Instant::now();
        let mut stream = UnixStream::connect(folder.join("echo.sock")).expect("it listens");
        let mut bytes = [7; 64];
        stream.write_all(&bytes).and_then(|()| stream.read_exact(&mut bytes)).expect("it answers");
        bare.push(since.elapsed());
        let since = Instant::now();
        let client = runtime.block_on(connect(folder, &format!("tool-{number}")));
        ours.push(since.elapsed());
        drop(client);
        // Its thread takes its leave of the broker, which is no part of the next one's time.
        while threads() > before {
            std::thread::yield_now();
        }
    }
    let ([bare, bare_99], [ours, ours_99]) = (percentiles(bare, [50, 99]), percentiles(ours, [50, 99]));
    println!(
        "control: processors {placement}: connect and hello {ours:.0} µs (p99 {ours_99:.0}), a bare connection and one echo {bare:.0} µs (p99 {bare_99:.0}): {:.1} times (must 5)",
        ours / bare
    );
}

/// Of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

fn many_at_once(folder: &Path) {
    let count = if is_trial() { 50 } else { 500 };
    let since = Instant::now();
    let threads: Vec<_> = (0..count)
        .map(|number| {
            let folder = folder.to_owned();
            std::thread::spawn(move || runtime().block_on(connect(&folder, &format!("crowd-{number}"))))
        })
        .collect();
    let clients: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("it is served")).collect();
    println!("control: {} clients at once are served after {:.0?}", clients.len(), since.elapsed());
}

fn beside_floods(folder: &Path) {
    let runtime = runtime();
    let count = if is_trial() { 20 } else { 3000 };
    let mut clients = 0;
    // Each time by a client of its own, which is not ahead of its pace.
    let mut trips = || {
        clients += 1;
        let client = runtime.block_on(connect(folder, &format!("watcher{clients}")));
        let times = (0..count).map(|_| {
            let since = Instant::now();
            let trip = async {
                drop(client.subscription(&["events.process.anomaly"]).await.expect("it may"));
            };
            runtime.block_on(trip);
            since.elapsed()
        });
        percentiles(times.collect(), [50, 99])
    };
    for flood in BESIDE {
        let [idle, idle_99] = trips();
        let attacker = Peer::start(flood, folder);
        let [beside, beside_99] = trips();
        drop(attacker);
        println!(
            "control: a subscribe and its end {idle:.0} µs idle (p99 {idle_99:.0}), {beside:.0} µs (p99 {beside_99:.0}) beside {flood}: p99 {:.1} times (must 10)",
            beside_99 / idle_99
        );
    }
}

fn broker(part: &Part) {
    let broker = DaemoneyeBroker::with_options(BrokerOptions::new(socket(&part.folder))).expect("a thread");
    runtime().block_on(broker.start()).expect("a free path");
    part.is_ready();
    part.hear();
}

fn echo(part: &Part) {
    let listener = UnixListener::bind(part.folder.join("echo.sock")).expect("a free path");
    part.is_ready();
    for stream in listener.incoming() {
        let mut stream = stream.expect("a connection");
        let mut bytes = [0; 64];
        stream.read_exact(&mut bytes).and_then(|()| stream.write_all(&bytes)).expect("it is read");
    }
}

/// Nothing that concerns the broker: what a processor that is in use costs by itself.
fn busy(part: &Part) {
    part.is_ready();
    loop {
        std::hint::spin_loop();
    }
}

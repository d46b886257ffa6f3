//! `eventbus demo` as its user has it: three processes, an exact account, and nothing left behind.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

/// How long anything here may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A demo whose temporary folder is made in `folder`.
fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbus"));
    command.arg("demo").args(arguments);
    if let Ok(backing) = std::env::var("EVENTBUS_TEST_BACKING")
        && !arguments.contains(&"--backing")
    {
        command.args(["--backing", &backing]);
    }
    command.env("TMPDIR", folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ran(folder: &Path, arguments: &[&str]) -> (u32, Output) {
    let child = demo(folder, arguments).spawn().expect("the demo starts");
    (child.id(), child.wait_with_output().expect("the demo ends"))
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else")
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value:#}"))
}

/// Each subscriber has received, or knows that it lost, each event.
fn assert_exact(report: &Value) {
    let published = number(report, "published_events");
    assert!(published > 0, "{report:#}");
    let subscribers = report["subscribers"].as_array().expect("an array");
    assert_eq!(subscribers.len(), 2);
    let mut lost = 0;
    for subscriber in subscribers {
        let accounted = number(subscriber, "received_events") + number(subscriber, "lost_events");
        assert_eq!(accounted, published, "{report:#}");
        assert!(subscriber["latency_us"]["p99"].as_f64() >= subscriber["latency_us"]["p50"].as_f64());
        assert!(
            subscriber["latency_us"]["p50"].as_f64() > Some(0.0) && subscriber["cpu_percent"].is_number()
        );
        lost += number(subscriber, "lost_events");
    }
    assert_eq!(number(&report["delivery"], "subscribers"), 2);
    let (reached, dropped) = (number(&report["delivery"], "reached"), number(&report["delivery"], "dropped"));
    assert_eq!(reached + dropped, 2 * published);
    // What rings did not take was lost; queues may have lost more.
    assert!(dropped <= lost, "{report:#}");
}

fn assert_empty(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The processes that a demo's first line names: collector, agent, detector.
fn pids(line: &str) -> Vec<i32> {
    let pids = line.split("(pid ").skip(1).map(|rest| rest.split(')').next().unwrap_or_default());
    let pids: Vec<_> = pids.map(|pid| pid.parse().unwrap_or_else(|_| panic!("no pid in {line:?}"))).collect();
    assert_eq!(pids.len(), 3, "{line:?}");
    pids
}

/// A demo that publishes, and the first line of what it says.
fn started(folder: &Path, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child = demo(folder, arguments).spawn().expect("the demo starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("the demo speaks");
    (child, output, line)
}

fn pid(number: i32) -> Pid {
    Pid::from_raw(number).expect("a process has a number above 0")
}

/// Holds on to a process, whose number may be given again once it has ended.
fn hold(number: i32) -> OwnedFd {
    pidfd_open(pid(number), PidfdFlags::empty()).expect("the process is there")
}

/// Waits for a process to end, at most until the deadline.
fn ends(process: &OwnedFd) -> bool {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_scan_reaches_two_subscribers_in_processes_of_their_own_over_rings() {
    let folder = tempfile::tempdir().expect("a folder");
    let (parent, output) = ran(folder.path(), &["--seconds", "2", "--json"]);
    let report = report(&output);
    assert_exact(&report);
    assert_eq!(report["transport"], "ring");
    assert!(number(&report, "scans") >= 1 && number(&report, "batches") == number(&report, "scans"));
    // At least the three of the demo, and this one.
    assert!(number(&report, "processes_per_scan") >= 4, "{report:#}");
    for subscriber in report["subscribers"].as_array().expect("an array") {
        // Between two scans there is nothing to do but sleep.
        assert!(number(subscriber, "wakeups") > 0, "{report:#}");
    }
    assert_eq!(report["subscribers"][0]["name"], "agent");
    assert_eq!(report["subscribers"][1]["name"], "detector");
    assert_eq!(number(&report["subscribers"][0], "pid"), u64::from(parent));
    let pids = BTreeSet::from([
        number(&report["collector"], "pid"),
        number(&report["subscribers"][0], "pid"),
        number(&report["subscribers"][1], "pid"),
    ]);
    assert_eq!(pids.len(), 3, "{report:#}");
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_empty(folder.path());
}

#[test]
fn as_fast_as_it_goes_every_event_is_received_or_reported_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, output) = ran(folder.path(), &["--rate", "0", "--seconds", "2", "--json"]);
    let report = report(&output);
    assert_exact(&report);
    assert_eq!(number(&report, "published_events"), 256 * number(&report, "batches"));
}

#[test]
fn a_rate_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, output) = ran(folder.path(), &["--rate", "1000", "--seconds", "2", "--json"]);
    let report = report(&output);
    assert_exact(&report);
    let rate = report["events_per_second"].as_f64().expect("a number");
    // The last batch may be under way; and nothing may be early.
    assert!((800.0..=1_000.0).contains(&rate), "{rate}");
}

#[test]
fn when_the_agent_is_killed_its_children_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut child, output, line) = started(folder.path(), &["--rate", "0", "--seconds", "600"]);
    let processes = pids(&line);
    let [collector, _, detector] = processes[..] else { panic!("three processes") };
    let (collector, detector) = (hold(collector), hold(detector));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert!(ends(&collector) && ends(&detector));
    drop(output);
}

#[test]
fn when_a_child_is_killed_the_demo_says_so_and_ends_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let (child, output, line) = started(folder.path(), &["--seconds", "600"]);
    let processes = pids(&line);
    let collector = hold(processes[0]);
    kill_process(pid(processes[2]), Signal::KILL).expect("the detector runs");
    // What is printed goes on being read, or the demo would end for want of a reader.
    let reader = std::thread::spawn(move || output.lines().count());
    let ended = child.wait_with_output().expect("it ends");
    reader.join().expect("it reads to the end");
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("detector has ended"), "{ended:?}");
    assert!(ends(&collector));
    assert_empty(folder.path());
}

#[test]
fn ctrl_c_ends_it_with_a_summary_and_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut child, output, line) = started(folder.path(), &["--seconds", "600"]);
        let processes = pids(&line);
        let children = [hold(processes[0]), hold(processes[2])];
        // A terminal sends it to all three.
        for process in &processes {
            if signal == Signal::INT || *process == child.id().cast_signed() {
                kill_process(pid(*process), signal).expect("it runs");
            }
        }
        let lines: Vec<_> = output.lines().map(|line| line.expect("text")).collect();
        assert!(child.wait().expect("it ends").success(), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("every event is accounted for")), "{lines:#?}");
        assert!(children.iter().all(ends));
        assert_empty(folder.path());
    }
}

#[test]
fn rings_are_made_of_what_was_asked_for() {
    let (sealed, named) = ("/memfd:eventbus-p", "/dev/shm/deebp");
    for (backing, mark, other) in [("memfd", sealed, named), ("named", named, sealed)] {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut child, output, line) = started(folder.path(), &["--backing", backing, "--seconds", "600"]);
        for process in pids(&line) {
            let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).expect("it runs");
            assert!(maps.contains(mark) && !maps.contains(other), "{backing} {process}: {maps}");
        }
        kill_process(pid(pids(&line)[1]), Signal::INT).expect("it runs");
        assert!(output.lines().count() > 0);
        assert!(child.wait().expect("it ends").success());
    }
}

#[test]
fn a_reader_that_leaves_is_no_reason_to_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let (child, output, _) = started(folder.path(), &["--seconds", "600"]);
    drop(output);
    let ended = child.wait_with_output().expect("it ends");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    assert_empty(folder.path());
}

#[test]
fn the_socket_is_where_it_was_asked_for_and_gone_afterwards() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("bus.sock");
    let path = socket.to_str().expect("a path of UTF-8");
    let (mut child, output, line) = started(folder.path(), &["--socket", path, "--seconds", "600"]);
    assert!(socket.exists());
    kill_process(pid(pids(&line)[1]), Signal::INT).expect("it runs");
    assert!(output.lines().count() > 0);
    assert!(child.wait().expect("it ends").success());
    assert_empty(folder.path());
}

#[test]
fn a_report_that_can_not_be_written_is_a_failure() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("it is there");
    let mut demo = demo(folder.path(), &["--json", "--seconds", "1", "--rate", "100"]);
    let ended = demo.stdout(full).output().expect("the demo starts");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("No space left"), "{ended:?}");
    assert_empty(folder.path());
}

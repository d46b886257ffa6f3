//! `eventbus sub`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Folder, Role, wait_until};
use crate::tool::{Started, Tool, code, command, full_pipe, json, process, published, ran, signal};

/// An event of each kind, with what a terminal would obey.
fn events() -> Vec<Value> {
    let metadata = json!({"user": "root", "\u{1b}[2J": "\u{202e}"});
    vec![
        json!({"Process": {
            "pid": 7, "name": "a\u{1b}[31m\u{9b}b", "command_line": "sh -c 'x = \"1\"'\n", "executable_path": null,
            "ppid": 1, "start_time": {"secs_since_epoch": 1_000_000_000, "nanos_since_epoch": 7}, "metadata": metadata,
        }}),
        json!({"Network": {
            "connection_id": "tcp-7", "source_address": "10.0.0.2:1", "destination_address": "東京",
            "protocol": "tcp", "metadata": {},
        }}),
        json!({"Filesystem": {"path": "/etc/\u{7f}", "event_type": "modify", "size": 2048, "metadata": {}}}),
        json!({"Performance": {"metric_name": "load", "value": 0.1, "unit": "", "metadata": {}}}),
        json!({"TriggerRequest": {
            "request_id": "r", "collector_type": "yara", "priority": 200, "payload": [0, 255], "metadata": {},
        }}),
    ]
}

fn steers(line: &str) -> bool {
    line.chars().any(|shown| shown.is_control() || shown == '\u{202e}')
}

#[test]
fn lines_of_json_hold_what_was_published_and_are_taken_again() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let mut lines: Vec<String> = events().iter().map(Value::to_string).collect();
    for (id, round) in [("detector", 1), ("exporter", 2)] {
        let words = ["events.process.#", "--id", id, "--json", "--count", "5"];
        let subscriber = Tool::sub(&folder, &words);
        let all: Vec<&str> = lines.iter().map(String::as_str).collect();
        let topic = format!("events.process.{}", ["start", "stop"][round - 1]);
        assert_eq!(published(&folder, &[&topic], &all).code, Some(0));
        let shown = subscriber.end();
        assert_eq!(shown.code, Some(0), "{shown:?}");
        let records: Vec<Value> = shown.out.iter().map(|line| json(line)).collect();
        let received: Vec<Value> = records.iter().map(|record| record["event"].clone()).collect();
        assert_eq!(received, events(), "round {round}");
        assert!(!shown.out.iter().any(|line| steers(line)), "{:?}", shown.out);
        for record in &records {
            assert_eq!((&record["topic"], &record["publisher"]), (&json!(topic), &json!("procmond")));
            assert!(record["event_id"].is_string() && record["bus_timestamp"]["secs_since_epoch"].is_u64());
            assert!(record["correlation_metadata"]["correlation_id"].is_string());
        }
        lines = received.iter().map(Value::to_string).collect();
    }
}

#[test]
fn lines_for_people_have_each_kind_in_one_line_that_steers_no_terminal() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "5"]);
    let lines: Vec<String> = events().iter().map(Value::to_string).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(published(&folder, &["events.process.start"], &lines).code, Some(0));
    let shown = subscriber.end();
    assert_eq!(shown.out.len(), 5, "{shown:?}");
    assert!(!shown.out.iter().any(|line| steers(line)), "{:?}", shown.out);
    let ends = [
        r#"process pid=7 ppid=1 name=a\u{1b}[31m\u{9b}b command_line="sh -c 'x = \"1\"'\n" \u{1b}[2J=\u{202e} user=root"#,
        "network connection_id=tcp-7 source_address=10.0.0.2:1 destination_address=東京 protocol=tcp",
        r"filesystem event_type=modify path=/etc/\u{7f} size=2048",
        r#"performance metric_name=load value=0.1 unit="""#,
        "trigger request_id=r collector_type=yara priority=200 payload_bytes=2",
    ];
    for (line, end) in shown.out.iter().zip(ends) {
        assert!(line.ends_with(&format!("Z events.process.start procmond {end}")), "{line}");
    }
}

#[test]
fn it_ends_when_its_time_is_over_and_says_if_too_little_has_come() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let ended = Tool::sub(&folder, &["events.process.anomaly", "--for", "50ms"]).end();
    assert_eq!((ended.code, ended.out.len()), (Some(0), 0), "{ended:?}");
    assert!(ended.err.ends_with("events: 0, lost: 0"), "{ended:?}");
    let ended = Tool::sub(&folder, &["events.process.anomaly", "--for", "0.05", "--count", "1"]).end();
    assert_eq!(ended.code, Some(4), "{ended:?}");
}

#[test]
fn it_shows_as_many_events_as_were_asked_for_and_no_more() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "2"]);
    let mut publisher = Tool::publisher(&folder, &["events.process.batch"]);
    publisher.tell(&process(1));
    subscriber.says("pid=1 ");
    (2..=9).for_each(|pid| publisher.tell(&process(pid)));
    let ended = subscriber.end();
    assert_eq!((ended.code, ended.out.len()), (Some(0), 2), "{ended:?}");
    assert!(ended.out[1].contains("pid=2 "));
}

#[test]
fn a_batch_is_shown_event_by_event_and_cut_where_enough_were_shown() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--json", "--count", "3"]);
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 5}));
    let shown = subscriber.end();
    let ids: Vec<Value> = shown.out.iter().map(|line| json(line)["event_id"].clone()).collect();
    assert!(shown.code == Some(0) && ids.len() == 3, "{shown:?}");
    for (number, id) in ids.iter().enumerate() {
        assert!(id.as_str().is_some_and(|id| id.ends_with(&format!("-{number}"))), "{ids:?}");
    }
}

#[test]
fn a_stranger_sees_what_is_for_anybody_and_is_told_what_is_not() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--count", "1"]);
    subscriber.warns("withheld: events.process.#, subscribed by: agent, observers, procmond");
    published(&folder, &["events.process.start"], &[&process(1)]);
    published(&folder, &["events.process.anomaly"], &[&process(2)]);
    let ended = subscriber.end();
    assert!(ended.out.len() == 1 && ended.out[0].contains("pid=2 "), "{ended:?}");

    let ended = ran(command(&folder, &["sub", "alerts.#"]), &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("subscribed by: agent, observers; --id says who subscribes"), "{ended:?}");
}

#[test]
fn a_name_is_one_clients_at_a_time() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let _first = Tool::sub(&folder, &["events.#", "--id", "detector-1"]);
    let ended = ran(command(&folder, &["sub", "events.#", "--id", "detector-2"]), &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("the name detector is taken") && ended.err.contains("--id says another"));
}

#[test]
fn signals_end_it_cleanly_and_so_does_a_reader_that_leaves() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let subscriber = Tool::sub(&folder, &["events.process.anomaly"]);
        subscriber.signal(signal);
        let ended = subscriber.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.err.ends_with("events: 0, lost: 0"), "{ended:?}");
    }
    let mut reader = command(&folder, &["sub", "events.process.anomaly"]);
    let mut subscriber = Started::by(reader.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut said = BufReader::new(subscriber.0.stderr.take().expect("a pipe")).lines();
    assert!(said.next().is_some_and(|line| line.expect("text").contains(" has subscribed to ")));
    drop(subscriber.0.stdout.take());
    assert_eq!(code(&mut subscriber.0), Some(0));
    assert_eq!(said.count(), 0, "and it says nothing");
}

#[test]
fn a_reader_that_has_stopped_keeps_it_from_nothing() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let mut words = command(&folder, &["sub", "events.process.anomaly", "--json"]);
    let mut subscriber = Started::by(words.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut said = BufReader::new(subscriber.0.stderr.take().expect("a pipe")).lines();
    assert!(said.next().is_some_and(|line| line.expect("text").contains(" has subscribed to ")));
    // More than a pipe holds.
    let lines: Vec<String> = (0..1000).map(process).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(published(&folder, &["events.process.anomaly"], &lines).code, Some(0));
    signal(&subscriber.0, Signal::INT);
    assert_eq!(code(&mut subscriber.0), Some(0));
}

#[test]
fn a_reader_that_pauses_gets_all_that_was_asked_for() {
    const EVENTS: usize = 600;
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let count = EVENTS.to_string();
    let mut words =
        command(&folder, &["sub", "events.process.#", "--id", "detector", "--json", "--count", &count]);
    let mut subscriber = Started::by(words.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut said = BufReader::new(subscriber.0.stderr.take().expect("a pipe")).lines();
    assert!(said.next().is_some_and(|line| line.expect("text").contains(" has subscribed to ")));
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": EVENTS}));
    // All that is asked for has come, and more of it than a pipe holds. It once waited for one second then.
    let pause = Instant::now() + Duration::from_secs(2);
    wait_until("it has ended, or the pause has", || {
        Instant::now() > pause || subscriber.0.try_wait().expect("it is ours").is_some()
    });
    let shown = BufReader::new(subscriber.0.stdout.take().expect("a pipe")).lines().count();
    assert_eq!((shown, code(&mut subscriber.0)), (EVENTS, Some(0)));
}

#[test]
fn who_does_not_read_what_it_warns_of_keeps_it_from_nothing() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let (reader, writer) = full_pipe();
    let mut words = command(&folder, &["sub", "events.process.anomaly", "--count", "1"]);
    let mut subscriber = Started::by(words.stdout(Stdio::piped()).stderr(writer));
    let topic = ["events.process.anomaly", "--wait-for-subscriber", "1h"];
    assert_eq!(published(&folder, &topic, &[&process(1)]).code, Some(0));
    assert_eq!(code(&mut subscriber.0), Some(0));
    drop(reader);
}

#[test]
fn an_output_that_does_not_wait_by_itself_is_waited_for() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let (reader, writer) = std::io::pipe().expect("descriptors");
    rustix::io::ioctl_fionbio(&writer, true).expect("it is a pipe");
    let mut words =
        command(&folder, &["sub", "events.process.#", "--id", "detector", "--json", "--count", "3000"]);
    let mut subscriber = Started::by(words.stdout(writer).stderr(Stdio::piped()));
    drop(words);
    let mut said = BufReader::new(subscriber.0.stderr.take().expect("a pipe")).lines();
    assert!(said.next().is_some_and(|line| line.expect("text").contains(" has subscribed to ")));
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 3000}));
    wait_until("the pipe is full", || rustix::io::ioctl_fionread(&reader).is_ok_and(|bytes| bytes > 60_000));
    assert_eq!(BufReader::new(reader).lines().count(), 3000);
    assert_eq!(code(&mut subscriber.0), Some(0));
}

#[test]
fn an_event_that_several_patterns_match_is_shown_and_counted_once() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let words = ["events.process.#", "events.#", "events.process.batch", "--id", "detector", "--count", "2"];
    let subscriber = Tool::sub(&folder, &words);
    assert_eq!(published(&folder, &["events.process.batch"], &[&process(1), &process(2)]).code, Some(0));
    let shown = subscriber.end();
    assert!(shown.out.len() == 2 && shown.out[1].contains("pid=2 "), "{shown:?}");
}

#[test]
fn an_output_that_takes_nothing_is_a_failure_and_said() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    for words in [&["status"][..], &["status", "--json"], &["doctor"], &["pub", "events.process.batch"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("it is there");
        let mut tool = command(&folder, words);
        let ended = tool.stdin(Stdio::null()).stdout(full).output().expect("it starts");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(1) && said.contains("No space left"), "{words:?}: {ended:?}");
    }
}

#[test]
fn what_is_wrong_on_the_command_line_is_repeated_without_what_a_terminal_obeys() {
    let folder = Folder::new();
    for words in [
        &["sub", "events.\u{1b}[2J\u{202e}"][..],
        &["sub", "events.#", "--\u{1b}[2J\u{9b}"],
        &["\u{202e}\u{1b}]0;x\u{7}"],
        &["pub", "events.a", "--event", "a", "\u{202e}\u{1b}"],
    ] {
        let ended = ran(command(&folder, words), &[]);
        assert_eq!((ended.code, ended.out.len()), (Some(2), 0), "{words:?}: {ended:?}");
        assert!(!ended.err.lines().any(steers) && ended.err.contains("\\u{"), "{ended:?}");
        assert!(ended.err.lines().count() > 2, "its lines stay lines: {ended:?}");
    }
}

#[test]
fn when_the_broker_ends_it_says_so_and_goes_on_with_the_next() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.anomaly", "--count", "1"]);
    assert_eq!(broker.interrupt().code, Some(0));
    subscriber.warns("the broker ended the session: the broker shuts down; looking for the next one");
    let _broker = Tool::broker(&folder, &[]);
    subscriber.warns("back at the broker");
    let words = ["events.process.anomaly", "--wait-for-subscriber", "1h"];
    assert_eq!(published(&folder, &words, &[&process(1)]).code, Some(0));
    assert_eq!(subscriber.end().code, Some(0));
}

#[test]
fn what_makes_no_sense_on_the_command_line_is_said_before_anything_is_done() {
    let folder = Folder::new();
    for words in [
        &["sub"][..],
        &["sub", "events.proc+"],
        &["sub", "events.#", "--count", "0"],
        &["sub", "events.#", "--for", "soon"],
        &["sub", "events.#", "--id", "a b"],
        &["sub", "events.#", "--instance", "a"],
        &["pub"],
        &["pub", "events.process.batch", "--key-file", "a", "--token-file", "b"],
        &["broker", "--socket-mode", "888"],
        &["broker", "--ring-bytes", "100000"],
        &["sub", "events.#", "--ring-bytes", "4096"],
        &["status", "--token", "a"],
        &["doctor", "--key-file", "a", "--token-file", "b"],
    ] {
        let ended = ran(command(&folder, words), &[]);
        assert_eq!((ended.code, ended.out.len()), (Some(2), 0), "{words:?}: {ended:?}");
    }
}

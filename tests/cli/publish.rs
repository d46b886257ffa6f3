//! `eventbus pub`.

use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Folder, look, wait_until};
use crate::tool::{Started, Tool, code, command, full_pipe, process, published, signal};

const TOPIC: &str = "events.process.batch";

#[test]
fn events_go_from_one_process_over_rings_to_another_and_are_counted() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "3"]);
    let (one, two, three) = (process(1), process(2), process(3));
    let ended = published(&folder, &[TOPIC], &[&one, "", &two, &three]);
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
    let said = "3 published on events.process.batch as procmond, to 1 subscriber: 3 taken, 0 dropped";
    assert_eq!(ended.out, [said]);

    let shown = subscriber.end();
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let lines: Vec<&str> =
        shown.out.iter().filter_map(|line| line.split_once("Z ")).map(|(_, line)| line).collect();
    let line = |pid| format!("events.process.batch procmond process pid={pid} name=sh");
    assert_eq!(lines, [line(1), line(2), line(3)]);
    assert_eq!(broker.interrupt().code, Some(0));
    assert!(!folder.socket().exists());
}

#[test]
fn a_line_that_is_no_event_is_named_by_its_number_and_not_repeated() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "2"]);
    let secret = "{\"Process\":{\"pid\":\"hunter2\",\"name\":\"hunter2\",\"metadata\":{}}}";
    let ended = published(&folder, &[TOPIC], &[&process(1), "", &process(2), secret, &process(3)]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("line 4 is no event: expected u32 at column 27"), "{ended:?}");
    assert!(ended.err.contains("events published before it: 2, after it: none"), "{ended:?}");
    assert!(!ended.err.contains("hunter2") && !ended.out.concat().contains("hunter2"), "{ended:?}");
    assert!(ended.out[0].starts_with("2 published"), "{ended:?}");
    let shown = subscriber.end();
    assert_eq!((shown.code, shown.out.len()), (Some(0), 2), "those before it: {shown:?}");
}

#[test]
fn the_event_in_a_file_is_published_whatever_its_lines() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "1"]);
    let file = folder.path().join("event.json");
    let name = file.to_str().expect("UTF-8");
    std::fs::write(&file, process(7).replace(',', ",\n")).expect("it is ours");
    assert_eq!(published(&folder, &[TOPIC, "--event", name], &[]).code, Some(0));
    assert!(subscriber.end().out[0].ends_with("pid=7 name=sh"));

    std::fs::write(&file, process(7).replace("7,", "\n\"hunter2\",")).expect("it is ours");
    let ended = published(&folder, &[TOPIC, "--event", name], &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("event.json, line 2 is no event: expected u32"), "{ended:?}");
    assert!(!ended.err.contains("hunter2"));
}

#[test]
fn a_topic_that_is_refused_is_said_to_be_with_who_may() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    for (words, message) in [
        (&["alerts.high"][..], "published by: agent; --id says who publishes"),
        (&["events.process.batch", "--id", "netmond"], "`netmond` may not publish to `events.process.batch`"),
        (&["control.health.heartbeat.agent"], "published by: agent; --id says who publishes"),
        (&["alerts.high", "--id", "agent"], "the name agent is taken; a name is one client's at a time"),
    ] {
        let ended = published(&folder, words, &[&process(1)]);
        assert_eq!((ended.code, ended.out.len()), (Some(1), 0), "{words:?}: {ended:?}");
        assert!(ended.err.contains(message), "{words:?}: {ended:?}");
    }
    let ended = published(&folder, &["events.process.#"], &[]);
    assert_eq!(ended.code, Some(2), "that is a pattern: {ended:?}");
}

#[test]
fn without_an_id_it_is_who_the_default_table_lets_publish() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    for (topic, component) in [
        ("events.network.event", "netmond"),
        ("events.collector.usbmond", "usbmond"),
        ("control.health.status", "procmond"),
        ("control.trigger.request", "detector"),
    ] {
        let ended = published(&folder, &[topic], &[&process(1)]);
        let said = format!("1 published on {topic} as {component}, to nobody: 0 taken, 0 dropped");
        assert_eq!((ended.code, ended.out), (Some(0), vec![said]));
    }
}

#[test]
fn it_waits_for_a_subscriber_if_it_is_told_to_and_publishes_nothing_if_none_comes() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let ended = published(&folder, &[TOPIC, "--wait-for-subscriber", "100ms"], &[&process(1)]);
    assert_eq!((ended.code, ended.out.len()), (Some(1), 0), "{ended:?}");
    assert!(ended.err.contains("nobody has subscribed to events.process.batch within 100ms"), "{ended:?}");

    let mut publisher = Tool::publisher(&folder, &[TOPIC, "--wait-for-subscriber", "1h"]);
    publisher.tell(&process(1));
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "1"]);
    assert_eq!(subscriber.end().code, Some(0));
    assert!(publisher.end().out[0].contains("to 1 subscriber: 1 taken"));
}

#[test]
fn without_a_broker_it_says_how_to_get_one() {
    let folder = Folder::new();
    for words in [&["pub", TOPIC][..], &["sub", "events.#"]] {
        let ended = crate::tool::ran(command(&folder, words), &[]);
        assert_eq!((ended.code, ended.out.len()), (Some(1), 0));
        assert!(ended.err.contains("no broker can be reached at "), "{ended:?}");
        assert!(ended.err.contains("start one with `eventbus broker`"), "{ended:?}");
    }
}

/// A subscriber that has had the event of process 0, and was stopped then, and who has published that.
fn stopped_pair(folder: &Folder, words: &[&str]) -> (Tool, Tool) {
    let subscriber = Tool::sub(folder, &["events.process.#", "--id", "detector"]);
    let mut publisher = Tool::publisher(folder, &[&[TOPIC], words].concat());
    publisher.tell(&process(0));
    subscriber.says("pid=0 ");
    subscriber.signal(Signal::STOP);
    (subscriber, publisher)
}

#[test]
fn what_subscribers_lose_is_said_on_both_sides_and_adds_up() {
    const EVENTS: u32 = 3000;
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &["--ring-bytes", "65536"]);
    let (subscriber, mut publisher) = stopped_pair(&folder, &[]);
    (1..EVENTS).for_each(|pid| publisher.tell(&process(pid)));
    let ended = publisher.end();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let said = &ended.out[0];
    let words: Vec<&str> = said.split(' ').collect();
    let count = |unit: &str| -> u64 {
        let at = words.iter().position(|word| word.starts_with(unit)).expect("it is said");
        words[at - 1].parse().expect("a number")
    };
    let (taken, dropped) = (count("taken"), count("dropped"));
    assert!(taken + dropped == u64::from(EVENTS) && taken > 0 && dropped > 0, "{said}");
    assert!(said.ends_with("--patience waits for room"), "{said}");

    subscriber.signal(Signal::CONT);
    subscriber.warns(&format!("{dropped} events were lost here"));
    let shown = subscriber.interrupt();
    assert_eq!((shown.code, shown.out.len() as u64), (Some(3), taken));
    assert!(shown.err.ends_with(&format!("events: {taken}, lost: {dropped}")), "{}", shown.err);
}

#[test]
fn with_patience_it_waits_for_room_and_nothing_is_lost() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &["--ring-bytes", "65536"]);
    let (subscriber, mut publisher) = stopped_pair(&folder, &["--patience", "1h"]);
    let (pid, descriptors) = (publisher.pid(), look::descriptors(publisher.pid()));
    let teller = std::thread::spawn(move || {
        (1..3000).for_each(|pid| publisher.tell(&process(pid)));
        publisher
    });
    // It has the doorbell of the ring at hand while it waits.
    wait_until("the publisher waits for room", || look::descriptors(pid) > descriptors);
    subscriber.signal(Signal::CONT);
    let publisher = teller.join().expect("it tells all");
    let ended = publisher.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out[0].contains("3000 taken, 0 dropped"), "{ended:?}");
    subscriber.says("pid=2999 ");
    assert_eq!(subscriber.interrupt().code, Some(0));
}

#[test]
fn a_reader_that_has_left_is_no_reason_to_fail() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    for words in [&["pub", TOPIC][..], &["doctor"], &["doctor", "--json"]] {
        let (reader, writer) = std::io::pipe().expect("descriptors");
        drop(reader);
        let mut tool = command(&folder, words);
        let ended =
            tool.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output().expect("it starts");
        assert!(ended.status.success() && ended.stderr.is_empty(), "{words:?}: {ended:?}");
    }
}

#[test]
fn ctrl_c_ends_it_with_its_account() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    for (signal, id) in [(Signal::INT, "detector"), (Signal::TERM, "exporter")] {
        let subscriber = Tool::sub(&folder, &["events.process.#", "--id", id, "--count", "1"]);
        let mut publisher = Tool::publisher(&folder, &[TOPIC]);
        publisher.tell(&process(1));
        assert_eq!(subscriber.end().code, Some(0), "it has come");
        publisher.signal(signal);
        publisher.says("1 published");
        assert_eq!(publisher.end().code, Some(0));
    }
}

/// Says a client that has come back.
const BACK: &str = "back at the broker";

#[test]
fn it_goes_on_with_the_next_broker_and_nothing_of_what_it_reads_is_lost() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "3"]);
    let mut publisher = Tool::publisher(&folder, &[TOPIC, "--wait-for-subscriber", "1h"]);
    publisher.tell(&process(1));
    subscriber.says("pid=1 ");
    broker.kill();
    publisher.warns("the broker is gone; looking for the next one");
    publisher.tell(&process(2));
    subscriber.says("pid=2 ");
    let _broker = Tool::broker(&folder, &[]);
    publisher.warns(BACK);
    subscriber.warns(BACK);
    publisher.tell(&process(3));
    let ended = publisher.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out[0].contains("3 published") && ended.out[0].contains("3 taken, 0 dropped"), "{ended:?}");
    let shown = subscriber.end();
    assert!(shown.code == Some(0) && shown.out[2].contains("pid=3 "), "{shown:?}");
}

#[test]
fn without_a_broker_and_a_subscriber_it_keeps_what_it_reads_for_the_next() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &[]);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "1"]);
    let mut publisher = Tool::publisher(&folder, &[TOPIC, "--wait-for-subscriber", "1h"]);
    publisher.tell(&process(1));
    assert_eq!(subscriber.end().code, Some(0));
    broker.kill();
    publisher.warns("looking for the next one");
    (2..=4).for_each(|pid| publisher.tell(&process(pid)));
    let _broker = Tool::broker(&folder, &[]);
    publisher.warns(BACK);
    let subscriber = Tool::sub(&folder, &["events.process.#", "--id", "detector", "--count", "3"]);
    let ended = publisher.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let shown = subscriber.end();
    let pids = shown.out.iter().zip(["pid=2 ", "pid=3 ", "pid=4 "]);
    assert!(shown.out.len() == 3 && pids.into_iter().all(|(line, pid)| line.contains(pid)), "{shown:?}");
}

/// Waits until the publisher has published so many events.
fn await_published(folder: &Folder, events: u32) {
    wait_until("it has published", || {
        let shown = crate::tool::ran(command(folder, &["status"]), &[]);
        shown.out.iter().any(|line| line.contains(&format!(": {events} published, ")))
    });
}

#[test]
fn what_it_has_read_and_can_not_publish_is_counted_when_it_is_told_to_end() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &[]);
    let mut publisher = Tool::publisher(&folder, &[TOPIC]);
    publisher.tell(&process(1));
    publisher.tell("");
    await_published(&folder, 1);
    broker.kill();
    publisher.warns("looking for the next one");
    // Fewer than it keeps: it would leave the rest in the pipe.
    (2..=11).for_each(|pid| publisher.tell(&process(pid)));
    wait_until("it has read all", || publisher.has_read_all());
    let ended = publisher.interrupt();
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.out[0].starts_with("1 published on "), "{ended:?}");
    assert!(ended.err.ends_with("not published: 10 lines that were read, from line 2 on"), "{ended:?}");
}

#[test]
fn what_the_next_broker_does_not_allow_is_no_silent_loss() {
    let folder = Folder::new();
    let broker = Tool::broker(&folder, &[]);
    let mut publisher = Tool::publisher(&folder, &[TOPIC]);
    publisher.tell(&process(1));
    await_published(&folder, 1);
    broker.kill();
    publisher.warns("looking for the next one");
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, "defaults = false").expect("it is ours");
    let policy = policy.to_str().expect("UTF-8");
    let _broker = Tool::broker(&folder, &["--policy", policy]);
    publisher.warns(BACK);
    publisher.warns("procmond publishes nothing on events.process.batch: ");
    publisher.tell(&process(2));
    let ended = publisher.end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
}

#[test]
fn who_does_not_read_its_account_does_not_keep_it_from_ending() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let (reader, writer) = full_pipe();
    let mut words = command(&folder, &["pub", TOPIC]);
    let mut publisher = Started::by(words.stdin(Stdio::piped()).stdout(writer));
    let mut input = publisher.0.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, format!("{}\n", process(1)).as_bytes()).expect("it reads");
    await_published(&folder, 1);
    signal(&publisher.0, Signal::TERM);
    assert_eq!(code(&mut publisher.0), Some(0));
    drop((reader, input));
}

#[test]
fn a_signal_that_whoever_started_it_has_it_ignore_stays_ignored() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_eventbus")]);
    shell.args(["sub", "events.process.#", "--id", "detector", "--socket"]).arg(folder.socket());
    let subscriber = Tool::start(shell);
    subscriber.warns(" has subscribed to ");
    subscriber.signal(Signal::HUP);
    subscriber.signal(Signal::INT);
    assert_eq!(published(&folder, &[TOPIC, "--wait-for-subscriber", "1h"], &[&process(1)]).code, Some(0));
    subscriber.says("pid=1 ");
    subscriber.signal(Signal::TERM);
    assert_eq!(subscriber.end().code, Some(0));
}

#[test]
fn an_input_that_does_not_wait_by_itself_is_waited_for() {
    let folder = Folder::new();
    let _broker = Tool::broker(&folder, &[]);
    let (reader, mut writer) = std::io::pipe().expect("descriptors");
    rustix::io::ioctl_fionbio(&reader, true).expect("it is a pipe");
    let mut words = command(&folder, &["pub", TOPIC]);
    let mut publisher = Started::by(words.stdin(reader).stdout(Stdio::null()));
    // It keeps what the process has inherited.
    drop(words);
    for events in 1..=2 {
        std::io::Write::write_all(&mut writer, format!("{}\n", process(1)).as_bytes()).expect("it reads");
        await_published(&folder, events);
    }
    drop(writer);
    assert_eq!(code(&mut publisher.0), Some(0));
}

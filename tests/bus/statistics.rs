//! What the broker tells of its bus, in its process and over its socket: it is true, and nobody is waited for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Folder, Role, STRANGER, wait_until};

/// What an answer may take beyond the deadline of those who don't: a loaded machine.
const SLACK: Duration = Duration::from_secs(5);

fn ask(role: &mut Role) -> Value {
    role.must(&json!({"do": "broker_statistics"}))
}

/// The same without what is of its moment.
fn lasting(mut statistics: Value) -> Value {
    for moment in ["in_use", "connections", "accepted", "bytes_waiting"] {
        statistics[moment].take();
    }
    statistics
}

#[test]
fn the_figures_are_true_in_the_process_and_over_the_socket() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 1 << 16})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "queue_bytes": 1 << 30}));
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.batch", "control.shutdown"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.call(&json!({"do": "declare", "name": "other", "topic": "alerts.high"}));
    detector.stop();
    let (rounds, count) = (30, 50);
    for round in 0..rounds {
        procmond.must(&json!({"do": "batch", "from": round * count, "count": count}));
        agent.must(&json!({"do": "await", "total": (round + 1) * count}));
    }
    let published = rounds * count;
    let lost = procmond.must(&json!({"do": "totals"}))["dropped"].as_u64().expect("a count");
    assert!(lost > 0, "the stopped one has lost something");
    detector.go_on();
    detector.must(&json!({"do": "await", "total": published}));

    let mut five = agent.must(&json!({"do": "bus_statistics"}));
    assert!(five["uptime_seconds"].take().as_u64() <= Some(600));
    let delivered = 2 * published - lost;
    let expected = json!({
        "messages_published": published,
        "messages_delivered": delivered,
        "active_subscribers": 2,
        "active_topics": 1,
        "uptime_seconds": null,
    });
    assert_eq!(five, expected);
    let seen = ask(&mut agent);
    let ring = |to: &str, dropped: u64| json!(["procmond", to, 1 << 16, "Ready", 1, [published, dropped]]);
    assert_eq!(seen["rings"], json!([ring("agent", 0), ring("detector", lost)]), "{seen:#}");
    assert!(seen["bytes"].as_array().expect("one each").iter().all(|bytes| bytes.as_u64() > Some(1 << 15)));
    let sessions = &seen["sessions"];
    let claim = json!([published, 2 * published - lost, lost]);
    assert_eq!(sessions["procmond"]["topics"], json!([["events.process.batch", claim]]), "{seen:#}");
    let subscription = |granted: &str, withheld: &[&str], claim: [u64; 3]| json!([{ "granted": [granted], "withheld": withheld, "claim": claim }]);
    let of_agent = subscription("events.process.#", &[], [published, 0, 0]);
    assert_eq!(sessions["agent"]["subscriptions"], of_agent, "{seen:#}");
    let of_detector = [published - lost, lost, 0];
    let of_detector = subscription("events.process.batch", &["control.shutdown"], of_detector);
    assert_eq!(sessions["detector"]["subscriptions"], of_detector, "{seen:#}");
    for (component, pid, identity, received) in [
        ("agent", agent.pid(), "Embedded", published),
        ("detector", detector.pid(), "Weak", published - lost),
        ("procmond", procmond.pid(), "Weak", 0),
    ] {
        let session = &sessions[component];
        let facts = ["uid", "pid", "identity", "answer", "received"].map(|fact| session[fact].clone());
        assert_eq!(
            facts,
            [json!(0), json!(pid), json!(identity), json!("Told"), json!(received)],
            "{component}"
        );
    }
    let facts = ["connections", "accepted", "turned_away", "refusals", "poisonings", "omitted"];
    assert_eq!(facts.map(|fact| seen[fact].as_u64()), [3, 3, 0, 1, 0, 0].map(Some), "{seen:#}");
    let in_use = ["Connections", "Subscriptions", "Topics", "Publishers", "RingBytes"];
    let in_use = in_use.map(|resource| seen["in_use"][resource].as_u64());
    assert_eq!(in_use, [3, 2, 1, 1, 2 * ((1 << 16) + (8 << 10))].map(Some));

    assert_eq!(lasting(ask(&mut procmond)), lasting(seen), "over the socket it is the same");
    assert_eq!(procmond.must(&json!({"do": "ask_twice"})), json!({"same": true}));
}

#[test]
fn the_latencies_are_those_of_what_the_application_has_taken_with_the_time_in_its_queue() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "unread": true}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let before = Instant::now();
    procmond.must(&json!({"do": "batch", "from": 0, "count": 10}));
    let published = Instant::now();
    agent.must(&json!({"do": "await", "total": 10}));
    let heard = before.elapsed();
    wait_until("it is in the detector's queue", || {
        ask(&mut agent)["sessions"]["detector"]["subscriptions"][0]["claim"][0] == 10
    });
    let seen = ask(&mut agent);
    let of = |seen: &Value, component: &str| {
        let figures = seen["sessions"][component]["latencies"].as_array().expect("it has answered");
        figures.iter().map(|figure| figure.as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!((of(&seen, "detector"), of(&seen, "procmond")), (vec![0; 6], vec![0; 6]), "nothing was taken");
    // Figures are right to a hundredth, upwards.
    let at_most =
        |time: Duration| u64::try_from(time.as_nanos() + time.as_nanos() / 50).expect("it is short");
    let of_agent = of(&seen, "agent");
    assert_eq!(of_agent[0], 10, "events, not batches: {seen:#}");
    assert!(
        of_agent[1..].iter().all(|nanos| (1..=at_most(heard)).contains(nanos)),
        "{of_agent:?}, {heard:?}"
    );

    let waited = published.elapsed();
    assert_eq!(detector.must(&json!({"do": "read_one"}))["events"], 10);
    let taken = before.elapsed();
    let seen = ask(&mut agent);
    let of_detector = of(&seen, "detector");
    let within = u64::try_from(waited.as_nanos()).expect("it is short")..=at_most(taken);
    assert_eq!(of_detector[0], 10, "{seen:#}");
    assert!(of_detector[1..].iter().all(|nanos| within.contains(nanos)), "{of_detector:?}, {within:?}");
    assert_eq!(detector.must(&json!({"do": "statistics"}))["latencies"], json!(of_detector));
    assert_eq!(agent.must(&json!({"do": "statistics"}))["latencies"], json!(of_agent));
}

#[test]
fn a_publisher_that_lies_about_its_moment_spoils_a_figure_and_nothing_else() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut liar = Role::intruder(&folder, None);
    liar.must(&json!({"do": "hello", "id": "procmond"}));
    assert_eq!(liar.must(&json!({"do": "declare", "topic": "events.process.batch"}))["ready"], true);
    // It says 0: when the host was started.
    liar.must(&json!({"do": "publish", "count": 3}));
    agent.must(&json!({"do": "await", "total": 3}));
    let seen = ask(&mut agent);
    let figures = &seen["sessions"]["agent"]["latencies"];
    let hour = 3_600_000_000_000_u64;
    assert_eq!(figures[0], 3, "{seen:#}");
    assert!(figures[5].as_u64().is_some_and(|most| (1..hour + hour / 100).contains(&most)), "{figures}");
}

#[test]
fn what_waits_in_a_ring_is_seen_also_if_its_subscriber_is_stopped() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"ring_bytes": 1 << 16})).up();
    let mut detector = Role::client(&folder, "detector").up();
    let mut procmond = Role::client(&folder, "procmond").up();
    for subscriber in [&mut agent, &mut detector] {
        subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.batch"]}));
    }
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    assert_eq!(ask(&mut agent)["bytes_waiting"], json!([0, 0]), "a ring has figures before its first event");
    detector.stop();
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    agent.must(&json!({"do": "await", "total": 100}));
    let mut seen = Value::Null;
    // An event is in its queue a moment before its place in the ring is given back.
    wait_until("the agent has read all", || {
        seen = ask(&mut agent);
        seen["bytes_waiting"][0] == 0
    });
    assert_eq!(seen["rings"][1][1], "detector");
    let written = seen["bytes"][1].as_u64().expect("its publisher answers");
    assert!((100 * 100..1 << 16).contains(&written), "{seen:#}");
    assert_eq!(seen["bytes_waiting"][1], written, "{seen:#}");
    detector.go_on();
    wait_until("the detector has read all", || ask(&mut agent)["bytes_waiting"] == json!([0, 0]));
}

#[test]
fn who_is_mute_or_stopped_is_shown_so_and_the_answer_does_not_wait_for_it() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut mute = Role::intruder(&folder, None);
    mute.must(&json!({"do": "hello", "id": "exporter"}));
    let mut stopped = Role::client(&folder, "detector").up();
    let mut tool = Role::client(&folder, "tool").up();
    stopped.stop();
    let answers = |statistics: &Value| {
        ["agent", "exporter", "detector", "tool"]
            .map(|component| statistics["sessions"][component]["answer"].as_str().unwrap_or("").to_owned())
    };
    for _ in 0..3 {
        for asker in [&mut agent, &mut tool] {
            let since = Instant::now();
            let seen = ask(asker);
            assert!(since.elapsed() < Duration::from_millis(400) + SLACK, "{:?}", since.elapsed());
            assert_eq!(answers(&seen), ["Told", "NotAnswering", "NotAnswering", "Told"], "{seen:#}");
            assert_eq!(seen["sessions"]["detector"]["received"], Value::Null, "nothing is made up");
        }
    }
    stopped.go_on();
    // It answers what it was asked before, and is asked again.
    stopped.must(&json!({"do": "over"}));
    let mut seen = Value::Null;
    wait_until("it answers again", || {
        seen = ask(&mut tool);
        seen["sessions"]["detector"]["answer"] == "Told"
    });
    assert_eq!(answers(&seen)[1], "NotAnswering");
}

#[test]
fn statistics_are_for_the_users_of_the_broker_and_root_alone() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"socket_mode": 0o666})).up();
    let mut stranger = Role::strange_client(&folder, "tool", json!({"broker_uid": 0})).up();
    let refused = stranger.call(&json!({"do": "broker_statistics"}));
    assert_eq!(refused["kind"], format!("Refused(NotAnOperator {{ uid: {STRANGER} }})"), "{refused}");
    let seen = ask(&mut agent);
    assert_eq!(
        (&seen["sessions"]["tool"]["uid"], &seen["sessions"]["tool"]["answer"]),
        (&json!(STRANGER), &json!("Told"))
    );
    assert_eq!(seen["refusals"], 1);
    // Where the broker is an ordinary user's, root may as well.
    let folder = Folder::of(STRANGER, 0o755);
    let _agent = Role::of_user(&folder, "agent", "agent", STRANGER, json!({"socket_mode": 0o666})).up();
    for uid in [0, STRANGER] {
        let mut tool = Role::of_user(&folder, "client", "tool", uid, json!({"broker_uid": STRANGER})).up();
        assert_eq!(ask(&mut tool)["sessions"]["tool"]["uid"], uid);
        tool.kill();
    }
}

#[test]
fn an_answer_that_is_larger_than_a_frame_comes_in_parts() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut tool = Role::client(&folder, "tool").up();
    let long = "x".repeat(60);
    for number in 0..600 {
        let (name, pattern) = (number.to_string(), format!("events.process.{long}.n{number:0>60}"));
        agent.must(&json!({"do": "subscribe", "name": name, "patterns": [pattern], "unread": true}));
    }
    let seen = ask(&mut tool);
    let subscriptions = seen["sessions"]["agent"]["subscriptions"].as_array().expect("a list");
    assert_eq!((subscriptions.len(), &seen["omitted"]), (600, &json!(0)), "over a hundred kilobytes");
    let claimed = subscriptions.iter().filter(|subscription| !subscription["claim"].is_null()).count();
    assert_eq!(claimed, 256, "of so many its client speaks");
}

//! `kill -9` of each process in mid-burst: the others go on, or end with a clear error, and nothing is left behind.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Folder, Role, look, wait_until};

fn subscribe(role: &mut Role) {
    role.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
}

/// A procmond that publishes as fast as it can, until it is killed.
fn bursting(folder: &Folder) -> Role {
    let mut procmond = Role::client(folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "burst_until_killed"}));
    procmond
}

fn received(role: &mut Role) -> u64 {
    role.must(&json!({"do": "tally"}))["received"].as_u64().expect("a count")
}

fn in_order(report: &Value) {
    let count = |fact: &str| report[fact].as_u64().expect("a report counts");
    assert_eq!(count("disorder"), 0, "{report}");
    assert!(count("gaps") <= count("lost"), "{report}");
    assert_eq!(report["errors"], json!([]), "{report}");
}

#[test]
fn a_killed_publisher_leaves_its_events_and_nothing_else() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    subscribe(&mut agent);
    subscribe(&mut detector);
    let base = [&agent, &detector].map(|role| look::segments(role.pid()));
    // The first round settles what a process opens once.
    let mut descriptors = None;
    let mut pids = vec![agent.pid(), detector.pid()];
    for _ in 0..3 {
        let mut procmond = bursting(&folder);
        pids.push(procmond.pid());
        let before = received(&mut detector);
        wait_until("the burst arrives", || received(&mut detector) > before + 1000);
        procmond.kill();
        wait_until("its segments are unmapped", || {
            [&agent, &detector].map(|role| look::segments(role.pid())) == base
        });
        wait_until("the broker noticed", || {
            agent.must(&json!({"do": "components"})) == json!({"components": ["agent", "detector"]})
        });
        // Descriptors are closed by threads of their own, soon.
        let now = || [&agent, &detector].map(|role| look::descriptors(role.pid()));
        let at_first = *descriptors.get_or_insert_with(now);
        wait_until("no descriptor is left", || now().iter().zip(&at_first).all(|(now, first)| now <= first));
        for subscriber in [&mut agent, &mut detector] {
            subscriber.must(&json!({"do": "unsubscribe"}));
            subscribe(subscriber);
        }
    }
    assert_eq!(look::named_segments(&pids), Vec::<String>::new());
    assert_eq!(folder.entries(), ["bus.sock", "bus.sock.key", "bus.sock.lock"]);
}

#[test]
fn what_a_killed_publisher_published_is_read_to_the_end() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    subscribe(&mut detector);
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    detector.stop();
    procmond.must(&json!({"do": "batch", "from": 0, "count": 5000}));
    procmond.kill();
    detector.go_on();
    let report = detector.must(&json!({"do": "await", "total": 5000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(5000), &json!(0)), "{report}");
    agent.must(&json!({"do": "components"}));
}

#[test]
fn a_killed_subscriber_disturbs_neither_the_publisher_nor_the_others() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    subscribe(&mut agent);
    let procmond = bursting(&folder);
    wait_until("the burst arrives", || received(&mut agent) > 1000);
    let base = (look::segments(procmond.pid()), look::descriptors(procmond.pid()));
    for _ in 0..3 {
        let mut detector = Role::client(&folder, "detector").up();
        subscribe(&mut detector);
        wait_until("the burst arrives there, too", || received(&mut detector) > 1000);
        let before = received(&mut agent);
        detector.kill();
        wait_until("the agent receives on", || received(&mut agent) > before + 1000);
        wait_until("the publisher let go of the ring", || {
            (look::segments(procmond.pid()), look::descriptors(procmond.pid())) == base
        });
    }
    in_order(&agent.must(&json!({"do": "tally"})));
    // A bystander's account is exact to the end.
    drop(procmond);
    let report = agent.must(&json!({"do": "tally"}));
    assert_eq!(report["gaps"], report["lost"], "each loss stands between events, or none was: {report}");
}

#[test]
fn when_the_agent_is_killed_data_between_others_flows_on_and_each_is_told() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    subscribe(&mut agent);
    let mut detector = Role::client(&folder, "detector").up();
    subscribe(&mut detector);
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 1000}));
    agent.kill();
    for client in [&mut procmond, &mut detector] {
        assert_eq!(client.must(&json!({"do": "disconnected"})), json!({"why": "the broker is gone"}));
    }
    let delivery = procmond.must(&json!({"do": "batch", "from": 1000, "count": 1000}));
    assert_eq!(
        delivery["reached"].as_u64(),
        Some(1000),
        "the ring to the detector is still there: {delivery}"
    );
    let report = detector.must(&json!({"do": "await", "total": 2000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(2000), &json!(0)), "{report}");
    let refused = procmond.call(&json!({"do": "declare", "name": "late", "topic": "events.process.tree"}));
    assert_eq!(refused["error"], "the broker is gone");
    procmond.must(&json!({"do": "close"}));
    let report = detector.must(&json!({"do": "await_end"}));
    assert_eq!((&report["ended"], &report["received"]), (&json!(true), &json!(2000)), "{report}");

    assert_eq!(
        folder.entries(),
        ["bus.sock", "bus.sock.key", "bus.sock.lock"],
        "what a killed broker leaves"
    );
    let mut agent = Role::agent(&folder, json!({})).up();
    subscribe(&mut agent);
    drop(procmond);
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 1000}));
    assert_eq!(agent.must(&json!({"do": "await", "total": 1000}))["received"], 1000);
}

#[test]
fn an_agent_killed_in_mid_burst_stops_nobody() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    subscribe(&mut agent);
    let mut detector = Role::client(&folder, "detector").up();
    subscribe(&mut detector);
    let procmond = bursting(&folder);
    wait_until("the burst arrives", || received(&mut agent) > 1000);
    agent.kill();
    let before = received(&mut detector);
    wait_until("the burst goes on", || received(&mut detector) > before + 10_000);
    in_order(&detector.must(&json!({"do": "tally"})));
    drop(procmond);
    let report = detector.must(&json!({"do": "await_end"}));
    assert_eq!(report["ended"], true, "with the last ring the stream ends: {report}");
    in_order(&report);
}

#[test]
fn a_live_socket_is_refused_and_a_clean_end_removes_it() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let second = Role::agent(&folder, json!({}));
    let refusal = second.hello()["error"].as_str().expect("it is refused").to_owned();
    assert_eq!(refusal, format!("a broker is live at {}", folder.socket().display()));
    drop(second);
    let mut procmond = Role::client(&folder, "procmond").up();
    agent.must(&json!({"do": "shutdown"}));
    let why = procmond.must(&json!({"do": "disconnected"}));
    assert_eq!(why, json!({"why": "the broker ended the session: the broker shuts down"}));
    assert_eq!(folder.entries(), Vec::<String>::new());
    agent.must(&json!({"do": "shutdown"}));
}

#[test]
fn a_component_that_was_killed_can_come_back_at_once() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    subscribe(&mut agent);
    for round in 0..10 {
        let mut procmond = Role::client(&folder, "procmond").up();
        procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
        let tag = format!("life-{round}");
        procmond.must(&json!({"do": "batch", "tag": tag, "from": 0, "count": 100}));
        procmond.kill();
    }
    let report = agent.must(&json!({"do": "await", "total": 1000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(1000), &json!(0)), "{report}");
}

#[test]
fn a_broker_that_does_not_answer_is_given_up_on() {
    let folder = Folder::new();
    let agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client_with(&folder, "procmond", json!({"deadline_ms": 200})).up();
    agent.stop();
    let refused = procmond.call(&json!({"do": "declare", "topic": "events.process.batch"}));
    assert_eq!(refused["kind"], "Timeout", "{refused}");
    let refused = procmond.call(&json!({"do": "subscribe", "patterns": ["control.#"]}));
    assert_eq!(refused["kind"], "Timeout", "{refused}");
    let refused = Role::client_with(&folder, "detector", json!({"deadline_ms": 200})).hello();
    assert_eq!(refused["kind"], "Timeout", "{refused}");
    agent.go_on();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "subscribe", "patterns": ["control.#"]}));
}

#[test]
fn a_publisher_that_lost_its_session_while_it_was_stopped_does_not_count_on_its_rings() {
    let folder = Folder::new();
    let deadline = Duration::from_secs(1);
    let mut agent = Role::agent(&folder, json!({"route_deadline_ms": 1000})).up();
    subscribe(&mut agent);
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 10}));
    agent.must(&json!({"do": "await", "total": 10}));
    procmond.stop();
    let [mut detector, mut exporter] =
        ["detector", "exporter"].map(|component| Role::client(&folder, component).up());
    let took = |subscriber: &mut Role| {
        let since = Instant::now();
        let answer = subscriber.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
        (answer["missed"].clone(), since.elapsed())
    };
    let (missed, waited) = took(&mut detector);
    assert!(missed == json!(["procmond"]) && waited >= deadline, "{missed} {waited:?}");
    let (missed, waited) = took(&mut exporter);
    assert!(missed == json!([]) && waited < deadline / 2, "it delays one subscribe: {missed} {waited:?}");
    wait_until("the agent has read the ring to its end", || look::segments(agent.pid()) == 0);
    procmond.tell(&json!({"do": "batch", "from": 10, "count": 1000}));
    procmond.go_on();
    let delivery = procmond.answer(crate::support::DEADLINE);
    assert_eq!((&delivery["reached"], &delivery["subscribers"]), (&json!(0), &json!(0)), "{delivery}");
    let why = procmond.must(&json!({"do": "disconnected"}));
    let text = "the broker ended the session: a route was not installed within the deadline";
    assert_eq!(why, json!({ "why": text }));
}

#[test]
fn a_subscriber_that_went_with_the_broker_is_counted_no_more_though_nothing_is_published() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    for subscriber in [&mut agent, &mut detector] {
        subscribe(subscriber);
    }
    let mut procmond = Role::client_with(&folder, "procmond", json!({"comes_back": true})).up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let count = |procmond: &mut Role| procmond.must(&json!({"do": "subscribers"}))["count"].clone();
    assert_eq!(count(&mut procmond), 2);
    agent.kill();
    procmond.must(&json!({"do": "disconnected"}));
    wait_until("the one that lives is left", || count(&mut procmond) == 1);
    detector.kill();
    wait_until("nobody is left", || count(&mut procmond) == 0);
}

#[test]
fn a_shutdown_does_not_wait_for_a_publisher_that_is_stopped_for_longer_than_it_says() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({"backing": "relay"})).up();
    subscribe(&mut agent);
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 10}));
    agent.must(&json!({"do": "await", "total": 10}));
    procmond.stop();
    let since = Instant::now();
    agent.must(&json!({"do": "shutdown"}));
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(1), "it has time to say that it has sent all: {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_clean_shutdown_ends_streams_whose_publisher_is_idle() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut detector = Role::client(&folder, "detector").up();
    subscribe(&mut detector);
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    agent.must(&json!({"do": "shutdown"}));
    let report = detector.must(&json!({"do": "await_end"}));
    assert_eq!((&report["ended"], &report["received"]), (&json!(true), &json!(100)), "{report}");
}

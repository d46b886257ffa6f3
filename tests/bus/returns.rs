//! A broker that goes, and another that comes: clients come back by themselves, and what lies between them goes on.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::policy::FOR_THE_AGENT;
use crate::support::{DEADLINE, Folder, Role, look, wait_until};

const BATCHES: &str = "events.process.batch";

fn returning(folder: &Folder, id: &str) -> Role {
    Role::client_with(folder, id, json!({"comes_back": true})).up()
}

fn subscribe(role: &mut Role) {
    role.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
}

fn components(agent: &mut Role) -> Value {
    agent.must(&json!({"do": "components"}))["components"].clone()
}

/// The next broker, once these are back.
fn next_broker(folder: &Folder, expected: &Value) -> Role {
    let mut agent = Role::agent(folder, json!({})).up();
    wait_until("they are back", || components(&mut agent) == *expected);
    agent
}

/// All that was published is there, once and in order.
fn is_whole(report: &Value, total: u64) {
    let facts = [&report["received"], &report["lost"], &report["disorder"], &report["gaps"]];
    assert_eq!(facts, [&json!(total), &json!(0), &json!(0), &json!(0)], "{report}");
    assert_eq!(report["errors"], json!([]), "{report}");
}

#[test]
fn rings_go_on_without_a_broker_and_others_take_their_place_under_the_next() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let (mut procmond, mut detector) = (returning(&folder, "procmond"), returning(&folder, "detector"));
    subscribe(&mut detector);
    procmond.must(&json!({"do": "declare", "topic": BATCHES}));
    let mut total = 0;
    let mut publish = |procmond: &mut Role, detector: &mut Role| {
        procmond.must(&json!({"do": "batch", "from": total, "count": 1000}));
        total += 1000;
        is_whole(&detector.must(&json!({"do": "await", "total": total})), total);
        total
    };
    let first = publish(&mut procmond, &mut detector);
    let base = [&procmond, &detector].map(|role| look::segments(role.pid()));
    for round in 0..4 {
        // Killed, and shut down.
        if round % 2 == 0 {
            agent.kill();
        } else {
            agent.must(&json!({"do": "shutdown"}));
        }
        for client in [&mut procmond, &mut detector] {
            client.must(&json!({"do": "disconnected"}));
        }
        publish(&mut procmond, &mut detector);
        drop(agent);
        agent = next_broker(&folder, &json!(["agent", "detector", "procmond"]));
        wait_until("the ring from before is gone", || {
            publish(&mut procmond, &mut detector);
            [&procmond, &detector].map(|role| look::segments(role.pid())) == base
        });
        publish(&mut procmond, &mut detector);
    }
    // The last broker's own process hears it, too, and what was published since the first was lost, as far as there was room to keep it.
    subscribe(&mut agent);
    let since = publish(&mut procmond, &mut detector) - first;
    let heard = agent.must(&json!({"do": "await", "total": since}));
    assert_eq!(
        heard["received"].as_u64().zip(heard["lost"].as_u64()).map(|(a, b)| a + b),
        Some(since),
        "{heard}"
    );
    assert_eq!((&heard["disorder"], heard["received"].as_u64() > Some(1000)), (&json!(0), true), "{heard}");
}

#[test]
fn the_next_agent_gets_also_what_a_detector_hears_meanwhile_which_hears_it_once() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let (mut procmond, mut detector) = (returning(&folder, "procmond"), returning(&folder, "detector"));
    subscribe(&mut detector);
    procmond.must(&json!({"do": "declare", "topic": BATCHES}));
    procmond.must(&json!({"do": "batch", "tag": "before", "from": 0, "count": 500}));
    is_whole(&detector.must(&json!({"do": "await", "total": 500})), 500);
    agent.kill();
    procmond.must(&json!({"do": "disconnected"}));
    let batch = |procmond: &mut Role, from: u64, count: u64| {
        procmond.must(&json!({"do": "batch", "tag": "away", "from": from, "count": count}))
    };
    let alone = batch(&mut procmond, 0, 1000);
    let became = ["reached", "kept", "dropped"].map(|what| alone[what].as_u64());
    assert_eq!(became, [Some(1000), Some(1000), Some(0)], "{alone}");
    is_whole(&detector.must(&json!({"do": "await", "total": 1500})), 1500);
    let read = procmond.must(&json!({"do": "flush", "within_ms": 60_000}));
    assert_eq!(read["unread"], 0, "who is there has read all: {read}");
    let mut agent = next_broker(&folder, &json!(["agent", "detector", "procmond"]));
    let back = batch(&mut procmond, 1000, 1000);
    assert_eq!((&back["reached"], &back["kept"]), (&json!(1000), &json!(1000)), "{back}");
    subscribe(&mut agent);
    is_whole(&agent.must(&json!({"do": "await", "total": 2000})), 2000);
    wait_until("nothing is kept any more", || batch(&mut procmond, 2000, 0)["kept"] == 0);
    batch(&mut procmond, 2000, 500);
    is_whole(&agent.must(&json!({"do": "await", "total": 2500})), 2500);
    is_whole(&detector.must(&json!({"do": "await", "total": 3000})), 3000);
}

#[test]
fn brokers_that_come_and_go_in_a_stream_of_events_lose_and_double_none_and_keep_their_order() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let (mut procmond, mut detector) = (returning(&folder, "procmond"), returning(&folder, "detector"));
    subscribe(&mut detector);
    let over = AtomicBool::new(false);
    let mut total = 0;
    let mut publish = || {
        // One publisher with topics whose routes come one by one: its order holds across them.
        for topic in ["start", "stop", "tree"] {
            let topic = format!("events.process.{topic}");
            procmond.must(&json!({"do": "publish", "topic": topic, "from": total, "count": 100}));
            total += 100;
        }
        // So that nothing is lost for want of room.
        detector.must(&json!({"do": "await", "total": total}));
        total
    };
    // What is declared under a broker that goes is for those alone who are back at the next.
    publish();
    let total = std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                publish();
            }
            publish()
        });
        for round in 0..8 {
            if round % 2 == 0 {
                agent.kill();
            } else {
                agent.must(&json!({"do": "shutdown"}));
                agent.kill();
            }
            agent = next_broker(&folder, &json!(["agent", "detector", "procmond"]));
        }
        over.store(true, Ordering::Relaxed);
        stream.join().expect("it is heard")
    });
    is_whole(&detector.must(&json!({"do": "tally"})), total);
}

#[test]
fn what_is_asked_for_while_there_is_no_broker_is_had_from_the_next() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let (mut procmond, mut detector) = (returning(&folder, "procmond"), returning(&folder, "detector"));
    agent.kill();
    for client in [&mut procmond, &mut detector] {
        client.must(&json!({"do": "disconnected"}));
    }
    detector.tell(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.tell(&json!({"do": "declare", "topic": BATCHES}));
    let _agent = next_broker(&folder, &json!(["agent", "detector", "procmond"]));
    for client in [&mut procmond, &mut detector] {
        let answer = client.answer(DEADLINE);
        assert!(answer["error"].is_null(), "{answer}");
    }
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    is_whole(&detector.must(&json!({"do": "await", "total": 100})), 100);
}

#[test]
fn what_the_next_broker_does_not_grant_any_more_ends() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let (mut procmond, mut detector) = (returning(&folder, "procmond"), returning(&folder, "detector"));
    subscribe(&mut detector);
    detector.must(&json!({"do": "subscribe", "name": "health", "patterns": ["control.health.#"]}));
    procmond.must(&json!({"do": "declare", "topic": BATCHES}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    detector.must(&json!({"do": "await", "total": 100}));
    agent.kill();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, FOR_THE_AGENT).expect("a folder of ours");
    agent = Role::agent(&folder, json!({"policy": policy})).up();
    wait_until("they are back", || components(&mut agent) == json!(["agent", "detector", "procmond"]));
    let report = detector.must(&json!({"do": "await_end"}));
    assert_eq!((&report["ended"], &report["received"]), (&json!(true), &json!(100)), "{report}");
    let report = detector.must(&json!({"do": "tally", "name": "health"}));
    assert_eq!(report["ended"], false, "the other goes on: {report}");
    wait_until("nobody is reached", || {
        procmond.must(&json!({"do": "batch", "from": 100, "count": 1}))["subscribers"] == 0
    });
}

#[test]
fn who_says_nothing_while_brokers_come_and_go_takes_no_more_memory_with_each() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let (mut procmond, mut detector) = (returning(&folder, "procmond"), returning(&folder, "detector"));
    subscribe(&mut detector);
    procmond.must(&json!({"do": "declare", "topic": BATCHES}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    is_whole(&detector.must(&json!({"do": "await", "total": 100})), 100);
    let one = look::segments(detector.pid());
    let open = || [&procmond, &detector].map(|role| look::descriptors(role.pid()));
    let before = open();
    for _ in 0..10 {
        agent.kill();
        agent = next_broker(&folder, &json!(["agent", "detector", "procmond"]));
        // The first, which it lets go of when it has something to say, and that of the broker of now.
        wait_until("the ring between is gone", || look::segments(procmond.pid()) == 2 * one);
    }
    // One that is let go of is heard of when the next comes, and some may be on their way.
    wait_until("a few rings are open, and not ten", || {
        look::segments(detector.pid()) <= 5 * one
            && open().iter().zip(before).all(|(now, before)| *now <= before + 8)
    });
    procmond.must(&json!({"do": "batch", "from": 100, "count": 100}));
    is_whole(&detector.must(&json!({"do": "await", "total": 200})), 200);
}

//! What is published while the agent is away is kept for the next, within bounds, whoever else hears it.

use serde_json::{Value, json};

use crate::support::{DEADLINE, Folder, Role, wait_until};

const BATCHES: &str = "events.process.batch";
const MINUTE_MS: u64 = 60_000;

/// Events that a collector which is left alone has published already.
const FIRST: u64 = 1;

/// An agent that has heard something, and goes; and a collector that knows it.
fn left_alone(folder: &Folder, options: Value) -> Role {
    let mut options = options;
    options["comes_back"] = true.into();
    let mut agent = Role::agent(folder, json!({})).up();
    let mut procmond = Role::client_with(folder, "procmond", options).up();
    subscribe(&mut agent);
    for (name, topic) in [("main", BATCHES), ("tree", "events.process.tree")] {
        procmond.must(&json!({"do": "declare", "name": name, "topic": topic}));
    }
    procmond.must(&json!({"do": "batch", "tag": "before", "from": 0, "count": 10}));
    agent.must(&json!({"do": "await", "total": 10}));
    agent.kill();
    procmond.must(&json!({"do": "disconnected"}));
    // The kernel closes what the agent had one by one.
    wait_until("the agent's end of each ring is closed", || {
        let alone = procmond.must(&json!({"do": "batch", "tag": "into the void", "from": 0, "count": 1}));
        alone["reached"] == 0
    });
    procmond
}

/// The next agent, which nobody has told yet to subscribe.
fn next_agent(folder: &Folder) -> Role {
    let mut agent = Role::agent(folder, json!({})).up();
    wait_until("the collector is back", || {
        agent.must(&json!({"do": "components"}))["components"] == json!(["agent", "procmond"])
    });
    agent
}

fn subscribe(role: &mut Role) {
    role.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
}

fn batch(procmond: &mut Role, from: u64, count: u64) -> Value {
    procmond.must(&json!({"do": "batch", "tag": "away", "from": from, "count": count}))
}

fn is_whole(report: &Value, total: u64) {
    let facts = [&report["received"], &report["lost"], &report["disorder"], &report["gaps"]];
    assert_eq!(facts, [&json!(total), &json!(0), &json!(0), &json!(0)], "{report}");
}

#[test]
fn the_next_agent_gets_what_was_published_without_one_and_then_what_is_new() {
    let folder = Folder::new();
    let mut procmond = left_alone(&folder, json!({}));
    let alone = batch(&mut procmond, 0, 1000);
    assert_eq!((&alone["subscribers"], &alone["kept"]), (&json!(0), &json!(1000)), "{alone}");
    let mut agent = next_agent(&folder);
    let alone = batch(&mut procmond, 1000, 1000);
    assert_eq!(
        (&alone["subscribers"], &alone["kept"]),
        (&json!(0), &json!(1000)),
        "there is nobody yet: {alone}"
    );
    subscribe(&mut agent);
    // The collector is silent: what it has said before comes all the same.
    is_whole(&agent.must(&json!({"do": "await", "total": FIRST + 2000})), FIRST + 2000);
    wait_until("it is heard again", || {
        let live = procmond.must(&json!({"do": "batch", "tag": "live", "from": 0, "count": 0}));
        live["kept"] == 0
    });
    let live = batch(&mut procmond, 2000, 1000);
    assert_eq!((&live["reached"], &live["kept"]), (&json!(1000), &json!(0)), "{live}");
    is_whole(&agent.must(&json!({"do": "await", "total": FIRST + 3000})), FIRST + 3000);
}

#[test]
fn what_is_published_while_the_agent_comes_back_stays_in_order_on_all_topics() {
    for _ in 0..5 {
        let folder = Folder::new();
        let mut procmond = left_alone(&folder, json!({}));
        let topics = ["start", "stop", "tree"].map(|topic| format!("events.process.{topic}"));
        // It begins to publish on them before there is a broker again.
        procmond.tell(&json!({"do": "publish", "topic": topics[0], "tag": "away", "from": 0, "count": 20}));
        let mut agent = next_agent(&folder);
        procmond.answer(DEADLINE);
        let mut total = 20;
        let mut publish = |procmond: &mut Role| {
            for topic in &topics {
                procmond.must(
                    &json!({"do": "publish", "topic": topic, "tag": "away", "from": total, "count": 20}),
                );
                total += 20;
            }
            total
        };
        publish(&mut procmond);
        agent.tell(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
        for _ in 0..50 {
            publish(&mut procmond);
        }
        agent.answer(DEADLINE);
        let total = publish(&mut procmond);
        is_whole(&agent.must(&json!({"do": "await", "total": FIRST + total})), FIRST + total);
    }
}

#[test]
fn what_does_not_fit_is_lost_and_told() {
    let folder = Folder::new();
    let mut procmond = left_alone(&folder, json!({"outbox_bytes": 100_000}));
    let mut kept = FIRST;
    for from in (0..10_000).step_by(100) {
        let alone = batch(&mut procmond, from, 100);
        let (one, dropped) = (alone["kept"].as_u64().expect("a number"), alone["dropped"].as_u64());
        assert_eq!(Some(100 - one), dropped, "{alone}");
        kept += one;
    }
    assert!((100..2000).contains(&kept), "{kept} events fit into 100,000 bytes");
    let mut agent = next_agent(&folder);
    let seen = agent.must(&json!({"do": "broker_statistics"}));
    let causes = &seen["sessions"]["procmond"]["causes"][0];
    let unkept = FIRST + 10_000 - kept;
    assert_eq!((&causes["unkept"], &causes["kept"]), (&json!(unkept), &json!(kept)), "{seen:#}");
    subscribe(&mut agent);
    let report = agent.must(&json!({"do": "await", "total": FIRST + 10_000}));
    assert_eq!(
        (&report["received"], &report["lost"]),
        (&json!(kept), &json!(FIRST + 10_000 - kept)),
        "{report}"
    );
    assert_eq!(report["disorder"], 0, "{report}");
}

#[test]
fn who_says_nothing_of_it_has_an_outbox_of_four_mebibytes() {
    let folder = Folder::new();
    let mut procmond = left_alone(&folder, json!({}));
    let mut kept = 0_u64;
    // Each in a record of its own, of 64 KiB and a little more with what it costs to keep it.
    for _ in 0..80 {
        let alone = procmond.must(&json!({"do": "large", "bytes": 64 << 10}));
        kept += alone["kept"].as_u64().expect("a number");
    }
    assert!((60..=63).contains(&kept), "{kept} events of 64 KiB");
}

#[test]
fn nothing_is_kept_by_who_wants_nothing_kept() {
    let folder = Folder::new();
    let mut procmond = left_alone(&folder, json!({"outbox_bytes": 0}));
    let alone = batch(&mut procmond, 1000, 100);
    assert_eq!((&alone["kept"], &alone["dropped"]), (&json!(0), &json!(0)), "{alone}");
    let mut agent = next_agent(&folder);
    subscribe(&mut agent);
    wait_until("it is heard", || {
        let live = procmond.must(&json!({"do": "batch", "tag": "live", "from": 0, "count": 1}));
        assert_eq!(live["kept"], 0, "{live}");
        live["reached"] == 1
    });
    is_whole(&agent.must(&json!({"do": "await", "total": 1})), 1);
}

#[test]
fn control_messages_are_not_kept() {
    let folder = Folder::new();
    let mut procmond = left_alone(&folder, json!({}));
    let beat = "control.health.heartbeat.procmond";
    // Declared under the next broker; the one after that brings the agent.
    let mut agent = next_agent(&folder);
    procmond.must(&json!({"do": "declare", "name": "beat", "topic": beat}));
    agent.kill();
    procmond.must(&json!({"do": "disconnected"}));
    let alone = procmond.must(&json!({"do": "batch", "name": "beat", "from": 0, "count": 10}));
    assert_eq!((&alone["events"], &alone["kept"], &alone["dropped"]), (&json!(10), &json!(0), &json!(0)));
    let mut agent = next_agent(&folder);
    agent.must(&json!({"do": "subscribe", "patterns": ["control.health.heartbeat.+"]}));
    wait_until("it is heard", || {
        procmond.must(&json!({"do": "batch", "name": "beat", "from": 0, "count": 1}))["reached"] == 1
    });
    is_whole(&agent.must(&json!({"do": "await", "total": 1})), 1);
}

#[test]
fn who_waits_for_readers_waits_for_those_who_are_to_come() {
    let folder = Folder::new();
    let mut procmond = left_alone(&folder, json!({"outbox_bytes": 100_000}));
    let read = procmond.must(&json!({"do": "totals"}))["events"].as_u64().expect("a number") - FIRST;
    batch(&mut procmond, 0, 100);
    let unread = procmond.must(&json!({"do": "flush", "within_ms": 20}));
    assert_eq!((&unread["unread"], &unread["consumed"]), (&json!(FIRST + 100), &json!(read)), "{unread}");
    // More than there is room for: it waits for that, too.
    procmond.tell(
        &json!({"do": "singles_within", "tag": "away", "from": 100, "count": 2000, "within_ms": MINUTE_MS}),
    );
    let mut agent = next_agent(&folder);
    subscribe(&mut agent);
    let totals = procmond.answer(DEADLINE);
    assert_eq!((&totals["events"], &totals["dropped"]), (&json!(read + FIRST + 2100), &json!(0)), "{totals}");
    let all = procmond.must(&json!({"do": "flush", "within_ms": MINUTE_MS}));
    assert_eq!((&all["unread"], &all["consumed"]), (&json!(0), &json!(read + FIRST + 2100)), "{all}");
    is_whole(&agent.must(&json!({"do": "await", "total": FIRST + 2100})), FIRST + 2100);
}

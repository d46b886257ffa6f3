//! Publishing allocates nothing, nor does receiving, for an event that is read by reference. Counted in the processes themselves.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "the harness serves other tests, too")]
mod support;

use serde_json::{Value, json};
use support::{Folder, Role};

#[global_allocator]
static COUNTING: counting::Counting = counting::Counting;

/// Where a role process begins; nothing in a test run.
#[test]
fn role_entry() {
    support::roles::run_if_asked();
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{value} has no {key}"))
}

/// The agent reads by reference what procmond publishes in this way, so many events at a time.
fn measured(how: &str, at_once: u64) -> (Value, Value) {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"], "unread": true}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    // Not a control topic: those go over the broker, where a frame is allocated for each.
    let acks = "events.network.anomaly";
    procmond.must(&json!({"do": "subscribe", "name": "acks", "patterns": [acks], "unread": true}));
    agent.must(&json!({"do": "declare", "name": "acks", "topic": acks}));
    let rounds = 600;
    agent.tell(&json!({"do": "read_frugally", "count": rounds * at_once, "round": at_once}));
    let published = procmond.must(&json!({"do": how, "rounds": rounds, "count": at_once}));
    let read = agent.answer(support::DEADLINE);
    for side in [&published, &read] {
        assert_eq!(number(side, "events") + number(side, "warm"), rounds * at_once, "{published} {read}");
    }
    (published, read)
}

#[test]
fn nothing_is_allocated_for_an_event_of_a_batch() {
    let (published, read) = measured("batches_frugally", 256);
    assert_eq!(number(&published, "allocations"), 0, "{published}");
    assert!(number(&read, "allocations") * 1000 < number(&read, "events"), "{read}");
}

#[test]
fn nothing_is_allocated_for_a_single_event() {
    let (published, read) = measured("singles_frugally", 256);
    assert_eq!(number(&published, "allocations"), 0, "{published}");
    // The memory that is filled again and again grows with the longest backlog that there was, up to a bound: some 1,500 allocations,
    // however many events there are.
    assert!(number(&read, "allocations") * 32 < number(&read, "events"), "{read}");
}

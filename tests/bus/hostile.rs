//! A process owns the other side of a real granted ring, and does its worst.
//!
//! The attacks stand in [`table`], by the names that `docs/threats.md` has for them; what an intruder does under each name is in
//! `tests/support/roles/hostile`. Each is made beside an honest pair that shares a process with the victim, and must feel nothing.
//!
//! What a peer writes has the same outcome whatever rings are made of. Where that decides, in the kernel's answers and in what is
//! handed over, the tests of [`named`] have a table of their own; another user shares rings of sealed memory only.

mod descriptors;
mod document;
mod floods;
mod named;
mod publisher;
mod relay;
mod sizes;
mod subscriber;
mod table;

use serde_json::{Value, json};

use crate::support::{Folder, Role, backing, wait_until};
use table::Then;

const TOPIC: &str = "events.process.batch";
const RING_BYTES: usize = 1 << 16;

/// A broker, and two honest processes that talk to each other beside what is attacked.
struct Scene {
    folder: Folder,
    agent: Role,
    /// Subscribes to what netmond publishes, as `beside`.
    detector: Role,
    netmond: Role,
    beside: u64,
}

impl Scene {
    fn new() -> Self {
        Self::over(&backing())
    }

    /// With rings made of this, whatever those of other tests are made of.
    fn over(backing: &str) -> Self {
        Self::with_rings(backing, RING_BYTES)
    }

    /// The same, of so many bytes.
    fn with_rings(backing: &str, ring_bytes: usize) -> Self {
        let folder = Folder::new();
        let options = json!({
            "ring_bytes": ring_bytes,
            "ring_budget_per_uid": 1 << 29,
            "socket_mode": 0o666,
            "backing": backing,
        });
        let agent = Role::agent(&folder, options).up();
        let mut detector = Role::client(&folder, "detector").up();
        detector.must(&json!({"do": "subscribe", "name": "beside", "patterns": ["events.network.#"]}));
        let mut netmond = Role::client(&folder, "netmond").up();
        netmond.must(&json!({"do": "declare", "topic": "events.network.event"}));
        Self { folder, agent, detector, netmond, beside: 0 }
    }

    /// The honest pair goes on, and so does the control plane.
    fn is_undisturbed(&mut self, after: &str) {
        self.pair_is_undisturbed(after);
        let names = texts(&self.agent.must(&json!({"do": "components"})), "components");
        assert!(["agent", "detector", "netmond"].iter().all(|name| names.iter().any(|known| known == name)));
    }

    fn pair_is_undisturbed(&mut self, after: &str) {
        self.netmond.must(&json!({"do": "batch", "from": self.beside, "count": 20}));
        self.beside += 20;
        let report = self.detector.must(&json!({"do": "await", "name": "beside", "total": self.beside}));
        let facts = ["received", "lost", "disorder", "errors"].map(|fact| &report[fact]);
        assert_eq!(facts, [&json!(self.beside), &json!(0), &json!(0), &json!([])], "after {after}");
    }

    /// How often `component` broke a ring, as `by` says.
    fn poisonings(&mut self, component: &str, by: &str) -> u64 {
        let list = self.agent.must(&json!({"do": "poisonings"}));
        let list = list["poisonings"].as_array().expect("a list");
        let entry = list.iter().find(|entry| entry["component"] == component && entry["by"] == by);
        entry.map_or(0, |entry| entry["count"].as_u64().expect("a count"))
    }

    fn await_poisonings(&mut self, component: &str, by: &str, count: u64) {
        wait_until("the broker counts it", || self.poisonings(component, by) >= count);
        assert_eq!(self.poisonings(component, by), count);
    }
}

fn count(report: &Value, fact: &str) -> u64 {
    report[fact].as_u64().expect("a report counts")
}

fn texts(report: &Value, list: &str) -> Vec<String> {
    let texts = report[list].as_array().expect("a list").iter();
    texts.map(|text| text.as_str().expect("a text").to_owned()).collect()
}

//! `kill -9` at any moment: of a publisher, of a subscriber, of the agent, a hundred times over. Whoever is left holds what it held
//! before, is not disturbed in what it has to do with others, and goes on with whoever comes next.
//!
//! `EVENTBUS_CRASH_ROUNDS` says how often; the moments follow from a seed, which is printed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::chance::Chance;
use crate::support::look::{self, Held};
use crate::support::{Folder, Role, wait_until};

const ROUNDS: &str = "EVENTBUS_CRASH_ROUNDS";
/// Within this time a role connects, declares or subscribes, publishes or receives, and closes, several times over.
const KILLED_WITHIN_MICROS: u64 = 15_000;
/// Of so many rounds the agent is killed in one.
const ROUNDS_PER_AGENT: u64 = 20;
/// What the heap of a process may grow by and shrink again.
const GROWTH_KILOBYTES_MAX: u64 = 8 << 10;

/// Those who are there all the time: the agent, a publisher and a subscriber with a stream of events between them.
struct Bystanders {
    agent: Role,
    netmond: Role,
    exporter: Role,
    sent: u64,
    held: [Held; 3],
}

fn network(role: &mut Role) {
    role.must(&json!({"do": "subscribe", "name": "network", "patterns": ["events.network.#"]}));
}

impl Bystanders {
    fn new(folder: &Folder) -> Self {
        let mut agent = Role::agent(folder, json!({"ring_bytes": 1 << 20})).up();
        let mut exporter = Role::client(folder, "exporter").up();
        let mut netmond = Role::client(folder, "netmond").up();
        network(&mut agent);
        network(&mut exporter);
        netmond.must(&json!({"do": "declare", "topic": "events.network.event"}));
        let held = [&agent, &netmond, &exporter].map(Held::by);
        let mut all = Self { agent, netmond, exporter, sent: 0, held };
        all.publish();
        all.arrived();
        all.held = [&all.agent, &all.netmond, &all.exporter].map(Held::by);
        all
    }

    fn publish(&mut self) {
        self.netmond.must(&json!({"do": "batch", "from": self.sent, "count": 50}));
        self.sent += 50;
    }

    /// All events of the bystanders' own stream, each once and in order.
    fn arrived(&mut self) {
        for subscriber in [&mut self.agent, &mut self.exporter] {
            exact(subscriber, self.sent);
        }
    }

    /// They have nothing left of who was killed, and their stream goes on.
    fn are_as_before(&mut self, folder: &Folder) {
        let there = json!({"components": ["agent", "exporter", "netmond"]});
        wait_until("the broker noticed", || self.agent.must(&json!({"do": "components"})) == there);
        // A publisher lets go of a ring at its next call after it has heard from the broker.
        wait_until("the publisher let go of each ring", || {
            self.publish();
            look::segments(self.netmond.pid()) == self.held[1].segments
        });
        self.arrived();
        for (role, held) in [&self.agent, &self.netmond, &self.exporter].into_iter().zip(self.held) {
            held.again_by(role);
        }
        assert_eq!(folder.entries(), ["bus.sock", "bus.sock.key", "bus.sock.lock"]);
        let pids = [&self.agent, &self.netmond, &self.exporter].map(Role::pid);
        assert_eq!(look::named_segments(&pids), Vec::<String>::new());
    }

    fn resident(&self) -> [u64; 3] {
        [&self.agent, &self.netmond, &self.exporter].map(|role| look::resident_kilobytes(role.pid()))
    }
}

fn exact(subscriber: &mut Role, count: u64) {
    let report = subscriber.must(&json!({"do": "await", "name": "network", "total": count}));
    let facts = ["received", "lost", "disorder", "gaps"].map(|fact| report[fact].as_u64());
    assert_eq!(facts, [Some(count), Some(0), Some(0), Some(0)], "{report}");
    assert_eq!((&report["errors"], &report["ended"]), (&json!([]), &json!(false)), "{report}");
}

/// A client that is up, and about to do all this, one after the other.
fn about_to(folder: &Folder, id: &str, commands: &[Value]) -> Role {
    let mut role = Role::client_with(folder, id, json!({"held": true})).up();
    role.tell(&json!({"do": "begin"}));
    for command in commands {
        role.tell(command);
    }
    role
}

fn publishing(folder: &Folder) -> Role {
    let declare = json!({"do": "declare", "topic": "events.process.batch"});
    let first = json!({"do": "batch", "from": 0, "count": 100});
    let rest = json!({"do": "batch", "from": 100, "count": 1000});
    let single = json!({"do": "publish", "topic": "events.process.lifecycle", "tag": "single", "from": 0, "count": 10});
    let again = json!({"do": "declare", "name": "again", "topic": "events.process.tree"});
    let burst = json!({"do": "burst_until_killed", "name": "again", "tag": "burst"});
    about_to(folder, "procmond", &[declare, first, single, rest, json!({"do": "close"}), again, burst])
}

fn subscribing(folder: &Folder) -> Role {
    let subscribe = json!({"do": "subscribe", "patterns": ["events.network.#"]});
    let more = json!({"do": "subscribe", "name": "more", "patterns": ["events.#"]});
    let less = json!({"do": "unsubscribe"});
    about_to(folder, "detector", &[subscribe.clone(), more, less.clone(), subscribe.clone(), less, subscribe])
}

/// Kills it at a moment that nobody can know.
fn kill_in_time(victim: &mut Role, chance: &mut Chance) {
    std::thread::sleep(Duration::from_micros(chance.below(KILLED_WITHIN_MICROS)));
    victim.kill();
}

fn publisher_is_killed(all: &mut Bystanders, folder: &Folder, chance: &mut Chance) {
    let subscribe = json!({"do": "subscribe", "name": "process", "patterns": ["events.process.#"]});
    for subscriber in [&mut all.agent, &mut all.exporter] {
        subscriber.must(&subscribe);
    }
    let mut procmond = publishing(folder);
    all.publish();
    kill_in_time(&mut procmond, chance);
    all.are_as_before(folder);
    for subscriber in [&mut all.agent, &mut all.exporter] {
        let report = subscriber.must(&json!({"do": "tally", "name": "process"}));
        let count = |fact: &str| report[fact].as_u64().expect("a report counts");
        assert!(count("disorder") == 0 && count("gaps") <= count("lost"), "{report}");
        assert_eq!((&report["errors"], &report["ended"]), (&json!([]), &json!(false)), "{report}");
        subscriber.must(&json!({"do": "unsubscribe", "name": "process"}));
    }
}

fn subscriber_is_killed(all: &mut Bystanders, folder: &Folder, chance: &mut Chance) {
    let mut detector = subscribing(folder);
    all.publish();
    kill_in_time(&mut detector, chance);
    all.are_as_before(folder);
}

/// The stream between the other two goes on without the agent, and ends when its publisher says so.
fn agent_is_killed(all: Bystanders, folder: &Folder, chance: &mut Chance) {
    let Bystanders { mut agent, mut netmond, mut exporter, sent, .. } = all;
    let comers = [publishing(folder), subscribing(folder)];
    kill_in_time(&mut agent, chance);
    for client in [&mut netmond, &mut exporter] {
        assert_eq!(client.must(&json!({"do": "disconnected"})), json!({"why": "the broker is gone"}));
    }
    drop(comers);
    let delivery = netmond.must(&json!({"do": "batch", "from": sent, "count": 50}));
    assert_eq!(delivery["dropped"], 0, "{delivery}");
    exact(&mut exporter, sent + 50);
    netmond.must(&json!({"do": "close"}));
    let report = exporter.must(&json!({"do": "await_end", "name": "network"}));
    assert_eq!((&report["received"], &report["ended"]), (&json!(sent + 50), &json!(true)), "{report}");
    wait_until("no segment is left", || look::segments(exporter.pid()) + look::segments(netmond.pid()) == 0);
    assert_eq!(folder.entries(), ["bus.sock", "bus.sock.key", "bus.sock.lock"]);
    let pids = [&agent, &netmond, &exporter].map(Role::pid);
    assert_eq!(look::named_segments(&pids), Vec::<String>::new());
    for client in [netmond, exporter] {
        assert!(client.end().success());
    }
}

fn rounds() -> u64 {
    std::env::var(ROUNDS).map_or(100, |text| text.parse().expect("a number of rounds"))
}

#[test]
fn a_client_killed_at_any_moment_leaves_nothing_and_disturbs_nobody() {
    let mut chance = Chance::new();
    let folder = Folder::new();
    let mut all = Bystanders::new(&folder);
    let rounds = rounds() - rounds() / ROUNDS_PER_AGENT;
    let mut resident = [0; 3];
    for round in 0..rounds {
        if chance.below(2) == 0 {
            publisher_is_killed(&mut all, &folder, &mut chance);
        } else {
            subscriber_is_killed(&mut all, &folder, &mut chance);
        }
        // By then a process has made what it makes once.
        if round == rounds / 10 {
            resident = all.resident();
        }
    }
    let now = all.resident();
    println!(
        "{rounds} clients killed; agent, netmond, exporter: {resident:?} kB after a tenth, {now:?} kB at the end"
    );
    for (now, before) in now.into_iter().zip(resident) {
        assert!(now < before + GROWTH_KILOBYTES_MAX, "{before} kB have become {now}");
    }
    for role in [all.netmond, all.exporter, all.agent] {
        assert!(role.end().success());
    }
    assert_eq!(folder.entries(), Vec::<String>::new());
}

#[test]
fn an_agent_killed_at_any_moment_leaves_its_socket_and_its_clients_to_the_next() {
    let mut chance = Chance::new();
    let folder = Folder::new();
    let rounds = rounds().div_ceil(ROUNDS_PER_AGENT);
    for _ in 0..rounds {
        let all = Bystanders::new(&folder);
        agent_is_killed(all, &folder, &mut chance);
    }
    println!("{rounds} agents killed");
    assert!(Role::agent(&folder, json!({})).up().end().success());
    assert_eq!(folder.entries(), Vec::<String>::new());
}

//! One exchange on the bus from its beginning to its end.

use serde_json::{Value, json};

use crate::support::look::Held;
use crate::support::{Folder, Role};

/// Events of one exchange.
pub(crate) const EVENTS: u64 = 100;
/// How long a role waits for the broker, and the broker for a role: below what the harness waits for anybody.
const DEADLINE_MS: u64 = 10_000;
/// Small rings: the calls are the same ones.
const RING_BYTES: u64 = 1 << 16;

/// Processes on one bus. Who begins `held` is up, but not yet on the bus.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) folder: Folder,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { folder: Folder::new() }
    }

    pub(crate) fn agent(&self, held: bool) -> Role {
        self.agent_with(json!({"held": held, "ring_bytes": RING_BYTES}))
    }

    pub(crate) fn agent_with(&self, mut options: Value) -> Role {
        options["log"] = self.log("agent").into();
        options["route_deadline_ms"] = (DEADLINE_MS / 2).into();
        Role::agent(&self.folder, options).up()
    }

    pub(crate) fn client(&self, id: &str, held: bool) -> Role {
        self.client_with(id, json!({"held": held}))
    }

    pub(crate) fn client_with(&self, id: &str, mut options: Value) -> Role {
        options["log"] = self.log(id).into();
        options["deadline_ms"] = DEADLINE_MS.into();
        Role::client_with(&self.folder, id, options).up()
    }

    fn log(&self, id: &str) -> String {
        self.folder.path().join(format!("{id}.log")).to_str().expect("a path of UTF-8").to_owned()
    }

    /// What the processes of this name have logged so far, warnings and errors.
    pub(crate) fn logged(&self, id: &str) -> String {
        std::fs::read_to_string(self.log(id)).unwrap_or_default()
    }

    /// What the bus has left in the folder.
    pub(crate) fn left(&self) -> Vec<String> {
        self.folder.entries().into_iter().filter(|name| name.starts_with("bus.")).collect()
    }

    /// Fails if any process has panicked, and forgets what was logged.
    pub(crate) fn nobody_panicked(&self) {
        for id in ["agent", "procmond", "detector"] {
            let logged = self.logged(id);
            assert!(!logged.contains("panicked"), "{id}: {logged}");
            if !logged.is_empty() {
                let log = std::fs::File::options().write(true).open(self.log(id)).expect("it was made");
                log.set_len(0).expect("it is ours");
            }
        }
    }
}

/// What applications were told where the bus could not do their will.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told(pub(crate) Vec<String>);

impl Told {
    /// Has a role do something, and notes if it could not.
    pub(crate) fn ask(&mut self, who: &str, role: &mut Role, command: &Value) -> Option<Value> {
        let answer = role.call(command);
        let Some(error) = answer["error"].as_str() else {
            for missed in answer["missed"].as_array().into_iter().flatten() {
                self.0.push(format!("{who}: missed {missed}"));
            }
            return Some(answer);
        };
        let kind = answer["kind"].as_str().expect("an error has a kind");
        assert!(!error.is_empty() && !kind.is_empty(), "{answer}");
        self.0.push(format!("{who}: {}: {error}", command["do"].as_str().expect("a command")));
        None
    }

    /// Lets a role that is held begin.
    pub(crate) fn begin(&mut self, who: &str, role: &mut Role) -> bool {
        self.ask(who, role, &json!({"do": "begin"})).is_some()
    }

    /// Notes if a client's session is over. What it publishes then is for nobody.
    fn look_after(&mut self, who: &str, client: &mut Role) -> bool {
        let why = client.must(&json!({"do": "over"}))["why"].as_str().map(str::to_owned);
        self.0.extend(why.iter().map(|why| format!("{who}: {why}")));
        why.is_none()
    }

    /// Notes what a subscription came to, other than each event.
    fn hear(&mut self, who: &str, role: &mut Role) {
        let report = role.must(&json!({"do": "await", "total": EVENTS}));
        if report["ended"] == true || report["errors"] != json!([]) {
            return self.0.push(format!("{who}: the stream ended: {report}"));
        }
        let facts = ["received", "lost", "disorder", "gaps"].map(|fact| report[fact].as_u64());
        assert_eq!(
            facts,
            [Some(EVENTS), Some(0), Some(0), Some(0)],
            "{who} lost events in silence: {report}"
        );
    }
}

/// Subscribe, declare, publish, receive, close. What nobody was told of has worked.
pub(crate) fn exchange(agent: &mut Role, publisher: &mut Role, subscriber: &mut Role) -> Told {
    let mut told = Told::default();
    let subscribe = json!({"do": "subscribe", "patterns": ["events.process.#"]});
    let agent_hears = told.ask("agent", agent, &subscribe).is_some();
    let subscriber_hears = told.ask("detector", subscriber, &subscribe).is_some();
    let declare = json!({"do": "declare", "topic": "events.process.batch"});
    let declared = told.ask("procmond", publisher, &declare).is_some();
    if declared {
        publisher.must(&json!({"do": "batch", "from": 0, "count": EVENTS}));
    }
    let published = declared && told.look_after("procmond", publisher);
    if agent_hears {
        if published {
            told.hear("agent", agent);
        }
        agent.must(&json!({"do": "unsubscribe"}));
    }
    if subscriber_hears {
        if published && told.look_after("detector", subscriber) {
            told.hear("detector", subscriber);
        }
        subscriber.must(&json!({"do": "unsubscribe"}));
    }
    if declared {
        publisher.must(&json!({"do": "close"}));
    }
    told
}

/// And what a process opens once, for the first ring that leads to it: the data thread, and both ends of its doorbell.
pub(crate) fn with_data_thread(held: Held) -> Held {
    Held { descriptors: held.descriptors + 2, threads: held.threads + 1, ..held }
}

/// And what a broker opens for a client: its socket, and its process.
pub(crate) fn with_connection(held: Held) -> Held {
    Held { descriptors: held.descriptors + 2, ..held }
}

//! What the role processes do: a small interpreter around the bus as its users see it.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemoneye_eventbus::{
    Connection, DaemoneyeBroker, DaemoneyeEventBus, DeclareError, EventBus, EventBusClient, Membership,
    ProcessEvent, Publisher, RecvError, SubscribeError, SubscribeOptions, Subscription,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Value, json};

use super::{ANSWER, DEADLINE, ROLE};

mod correlation;
mod filters;
mod flow;
mod frugal;
pub(crate) mod hostile;
mod identity;
mod launch;
mod log;
mod options;
mod other_broker;
mod policy;
mod raw;
mod reader;
mod requests;
mod signals;
mod squatter;
mod together;
mod watch;
mod witness;

use reader::Reader;

/// Runs the role that the environment names, if it names one.
pub(crate) fn run_if_asked() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let role: Value = serde_json::from_str(&role).expect("the harness writes JSON");
    // A harness that is killed leaves nothing behind.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .expect("it is a signal");
    match role["role"].as_str() {
        Some("intruder") => return hostile::live(&role),
        Some("third") => return hostile::third(),
        Some("squatter") => return squatter::live(&role),
        Some("other_broker") => return other_broker::live(&role),
        Some("orphaner") => return launch::orphan(&role),
        _ => {}
    }
    let runtime = match role["runtime"].as_str() {
        Some("multi") => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    runtime.expect("a runtime").block_on(live(role));
    std::process::exit(0);
}

async fn live(role: Value) {
    if let Some(path) = role["log"].as_str() {
        log::write_to(std::path::Path::new(path));
    }
    if let Some(path) = role["audit"].as_str() {
        log::write_audit_to(std::path::Path::new(path));
    }
    if role["stdin"] == true || role["stdin"] == "token" {
        return launch::live(&role).await;
    }
    // Reading blocks a thread of its own, so that the runtime goes on.
    let (send, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    if role["held"] == true {
        answer(&json!({}));
        if lines.recv().await.is_none() {
            return;
        }
    }
    let mut bus = match BusRole::start(&role).await {
        Ok(bus) => bus,
        Err(error) => {
            answer(&error);
            // It stays to be looked at.
            while lines.recv().await.is_some() {}
            return;
        }
    };
    answer(&json!({}));
    // The end of the input is the end of the harness.
    while let Some(line) = lines.recv().await {
        let command: Value = serde_json::from_str(&line).expect("the harness writes JSON");
        let result = bus.carry_out(&command).await.unwrap_or_else(|error| error);
        answer(&result);
    }
}

fn answer(value: &Value) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{ANSWER}{value}").and_then(|()| stdout.flush()).expect("the harness listens");
}

fn error(error: &(impl std::error::Error + ?Sized), kind: &str) -> Value {
    json!({ "error": error.to_string(), "kind": kind })
}

/// What the harness asks for has failed before.
fn not_made() -> Value {
    json!({ "error": "it was not made", "kind": "NotMade" })
}

enum Bus {
    Embedded(DaemoneyeEventBus),
    Client(Arc<EventBusClient>),
}

/// A process on the bus.
pub(crate) struct BusRole {
    bus: Bus,
    publishers: HashMap<String, Publisher>,
    subscriptions: HashMap<String, Reader>,
    /// Subscriptions that nobody reads so far.
    unread: HashMap<String, Subscription>,
    raw: raw::Receivers,
    /// By the names that they have for the bus.
    filtered: HashMap<String, filters::Filtered>,
    witnesses: HashMap<String, witness::Witness>,
    membership: Option<Membership>,
    /// Clients beside the first.
    together: Vec<Arc<EventBusClient>>,
    /// Processes that this one has started, with one end of a connection each.
    launched: Vec<launch::Launched>,
}

impl BusRole {
    /// Options: `role`, `path`, `instance` (in its place), `id`, `log` (a file), `audit` (another), `held` (begins at the first
    /// line of input), `within` (a command); agent:
    /// `backing`, `ring_bytes`, `ring_budget_bytes`, `ring_budget_per_uid`, `queue_bytes`, `socket_mode`, `socket_group`,
    /// `route_deadline_ms`, `strict`; client: `queue_bytes`, `outbox_bytes`, `broker_uid`, `stdin` (is its connection), `token` and `key` (files); both: `sigpipe`.
    async fn start(role: &Value) -> Result<Self, Value> {
        if role["sigpipe"] == true {
            signals::sigpipe_kills();
        }
        let path = PathBuf::from(role["path"].as_str().expect("the harness names the path"));
        let queue = role["queue_bytes"].as_u64().map(size);
        let bus = if role["role"] == "agent" {
            let options = options::of_broker(role, path, queue);
            let broker = DaemoneyeBroker::with_options(options).map_err(|e| error(&e, "start"))?;
            Bus::Embedded(
                DaemoneyeEventBus::from_broker(broker).await.map_err(|e| error(&e, &format!("{e:?}")))?,
            )
        } else {
            let options = options::of_client(role, path, queue)?;
            let client = EventBusClient::connect(options).await.map_err(|e| {
                let kind = format!("{e:?}");
                error(&e, kind.split([' ', '(', '{']).next().unwrap_or_default())
            })?;
            Bus::Client(Arc::new(client))
        };
        let (publishers, subscriptions, unread) = (HashMap::new(), HashMap::new(), HashMap::new());
        Ok(Self {
            bus,
            publishers,
            subscriptions,
            unread,
            raw: HashMap::new(),
            filtered: HashMap::new(),
            witnesses: HashMap::new(),
            membership: None,
            together: Vec::new(),
            launched: Vec::new(),
        })
    }

    async fn carry_out(&mut self, command: &Value) -> Result<Value, Value> {
        let text = |key: &str| command[key].as_str().unwrap_or("main").to_owned();
        let number = |key: &str| command[key].as_u64().unwrap_or(0);
        match command["do"].as_str().expect("a command says what to do") {
            "subscribe" => self.subscribe(text("name"), command).await,
            "await_tag" => Ok(self.subscriptions[&text("name")].due(&text("tag"), number("next")).await),
            "read" => {
                let subscription = self.unread.remove(&text("name")).expect("it was made");
                self.subscriptions.insert(text("name"), Reader::of(subscription, command));
                Ok(json!({}))
            }
            "read_one" => Ok(self.read_one(&text("name")).await),
            what @ ("halt" | "resume" | "history" | "forget") => self.ask_witness(what, &text("name")).await,
            "burst" => self.burst(command).await,
            "await" => Ok(self.subscriptions[&text("name")].settle(number("total")).await),
            "await_end" => Ok(self.subscriptions[&text("name")].settle(u64::MAX).await),
            "unsubscribe" => {
                let reader = self.subscriptions.remove(&text("name")).ok_or_else(not_made)?;
                reader.stop().await;
                Ok(json!({}))
            }
            "declare" => self.declare(text("name"), &text("topic")).await,
            "close" => {
                self.publishers.remove(&text("name")).ok_or_else(not_made)?;
                Ok(json!({}))
            }
            "batch" | "singles" | "large" | "burst_until_killed" => {
                self.publish_by_handle(command, &text("tag"), number("from"), number("count")).await
            }
            "batch_within" | "held_batch" | "singles_within" | "abandon" | "leak" | "give_up" | "flush"
            | "losses" => self.flow(command).await,
            "publish" => self.publish(&text("topic"), &text("tag"), number("from"), number("count")).await,
            "storm" => Ok(self.storm(&text("topic"), number("threads"), number("count")).await),
            "issue" | "members" | "connect_again" => self.identity(command).await,
            "totals" => Ok(delivery(self.publishers[&text("name")].totals())),
            "subscribers" => {
                let publisher = self.publishers.get_mut(&text("name")).expect("it was declared");
                Ok(json!({ "count": publisher.subscribers() }))
            }
            "disconnected" => Ok(json!({ "why": self.client().disconnected().await.to_string() })),
            "request" => Ok(self.request(command).await),
            "request_beside_topics" => Ok(self.request_beside_topics(command).await),
            "respond" => self.respond(command).await,
            "give_up_request" => Ok(self.give_up(command).await),
            "over" => {
                let over = !self.client().is_connected();
                let why = if over { Some(self.client().disconnected().await.to_string()) } else { None };
                Ok(json!({ "why": why }))
            }
            "given_up" => {
                let mut connection = self.client().connection();
                let over = connection.wait_for(|now| matches!(now, Connection::Over(_))).await;
                Ok(json!({ "why": format!("{:?}", *over.expect("the session's thread says so")) }))
            }
            "shutdown" => {
                self.agent().shutdown().await.map_err(|e| error(&e, "Shutdown"))?;
                Ok(json!({}))
            }
            "cancel" => Ok(self.cancel(&text("topic"), number("times")).await),
            "drop_elsewhere" => {
                let (publishers, subscriptions) =
                    (std::mem::take(&mut self.publishers), std::mem::take(&mut self.subscriptions));
                subscriptions.values().for_each(Reader::leave);
                std::thread::spawn(move || drop((publishers, subscriptions))).join().expect("nothing panics");
                Ok(json!({}))
            }
            _ => self.look(command).await,
        }
    }

    /// Commands that change nothing on the bus.
    async fn look(&mut self, command: &Value) -> Result<Value, Value> {
        let text = |key: &str| command[key].as_str().unwrap_or("main").to_owned();
        match command["do"].as_str().expect("a command says what to do") {
            "tally" => Ok(self.subscriptions[&text("name")].report()),
            "statistics" => Ok(self.statistics()),
            "tags" => Ok(self.subscriptions[&text("name")].tags()),
            "order" => Ok(self.subscriptions[&text("name")].order()),
            "poisonings" => Ok(self.poisonings().await),
            "ring_charges" => Ok(self.ring_charges().await),
            "refusals" => Ok(self.refusals().await),
            "decline" => self.decline(command).await,
            "reload" | "load_policy" => self.policy(command).await,
            what @ ("no_more_threads" | "few_descriptors") => {
                let (resource, most) =
                    if what == "no_more_threads" { (Resource::Nproc, 1) } else { (Resource::Nofile, 200) };
                let limit = Rlimit { current: Some(most), maximum: Some(most) };
                setrlimit(resource, limit).expect("who has more may have less");
                Ok(json!({}))
            }
            "bus_subscribe" | "bus_unsubscribe" | "bus_read" | "bus_take" | "publish_event" => {
                self.filters(command).await
            }
            "raw_publish" | "publish_control" | "subscribe_raw" | "unsubscribe_raw" | "drop_raw"
            | "read_raw" | "account_raw" | "read_opaque" => self.raw(command).await,
            "print" => Ok(self.printed(&text("secret"))),
            "correlate" | "read_correlated" => self.correlation(command).await,
            "launch" => self.launch(command).await,
            "join" => self.join(command).await,
            "publish_from_each" => self.publish_from_each(command).await,
            "part" => Ok(self.part()),
            "watch_members" | "next_change" | "broker_statistics" | "bus_statistics" | "ask_twice" => {
                self.watch(command).await
            }
            "forge" => Ok(hostile::forge(command)),
            "forge_head" => Ok(hostile::forge_head()),
            "components" => {
                let mut names: Vec<String> =
                    self.agent().broker().components().await.iter().map(ToString::to_string).collect();
                names.sort();
                Ok(json!({ "components": names }))
            }
            "batches_frugally" | "singles_frugally" => self.publish_frugally(command).await,
            "read_frugally" => self.read_frugally(command).await,
            _ => self.flow(command).await,
        }
    }

    async fn poisonings(&mut self) -> Value {
        let list = self.agent().broker().poisonings().await;
        let list = list.into_iter().map(|poisoning| {
            json!({
                "component": poisoning.component.as_str(),
                "by": poisoning.by.as_str(),
                "count": poisoning.count,
                "last": poisoning.last_violation,
            })
        });
        json!({ "poisonings": list.collect::<Vec<_>>() })
    }

    /// Takes one item of a subscription that nobody reads, and with it, over from the queue, all that waits by then. Says of how many
    /// events it tells, received or lost.
    async fn read_one(&mut self, name: &str) -> Value {
        let events = match self.unread.get_mut(name).expect("it was made").recv().await {
            Some(Ok(batch)) => batch.len() as u64,
            Some(Err(RecvError::Lagged(events))) => events,
            other => panic!("it goes on: {other:?}"),
        };
        json!({ "events": events })
    }

    /// Payer, rings and bytes of each.
    async fn ring_charges(&mut self) -> Value {
        let charges = self.agent().broker().ring_charges().await.into_iter();
        let charges =
            charges.map(|charge| json!([format!("{:?}", charge.payer), charge.rings, charge.bytes]));
        json!({ "charges": charges.collect::<Vec<_>>() })
    }

    fn client(&self) -> &Arc<EventBusClient> {
        let Bus::Client(client) = &self.bus else { panic!("only a client does that") };
        client
    }

    fn agent(&mut self) -> &mut DaemoneyeEventBus {
        let Bus::Embedded(bus) = &mut self.bus else { panic!("only the agent does that") };
        bus
    }

    async fn publish_by_handle(
        &mut self,
        command: &Value,
        tag: &str,
        from: u64,
        count: u64,
    ) -> Result<Value, Value> {
        let name = command["name"].as_str().unwrap_or("main");
        let publisher = self.publishers.get_mut(name).ok_or_else(not_made)?;
        let too_large = |e| error(&e, "TooLarge");
        match command["do"].as_str() {
            Some("batch") => {
                let mut batch = publisher.batch();
                for index in from..from + count {
                    batch.push(&event(tag, index)).map_err(too_large)?;
                }
                Ok(delivery(batch.publish()))
            }
            Some("singles") => {
                for index in from..from + count {
                    publisher.publish(&event(tag, index)).map_err(too_large)?;
                }
                Ok(delivery(publisher.totals()))
            }
            Some("large") => {
                let mut large = event("large", 0);
                large.command_line = Some("x".repeat(size(command["bytes"].as_u64().expect("a size"))));
                publisher.publish(&large).map(delivery).map_err(too_large)
            }
            _ => {
                answer(&json!({}));
                for first in (0..).step_by(100) {
                    let mut batch = publisher.batch();
                    for index in first..first + 100 {
                        batch.push(&event(tag, index)).map_err(too_large)?;
                    }
                    batch.publish();
                    tokio::task::yield_now().await;
                }
                unreachable!("it is killed before")
            }
        }
    }

    async fn subscribe(&mut self, name: String, command: &Value) -> Result<Value, Value> {
        let patterns: Vec<&str> =
            command["patterns"].as_array().expect("patterns").iter().filter_map(Value::as_str).collect();
        let mut options = SubscribeOptions::new();
        if let Some(bytes) = command["ring_bytes"].as_u64() {
            options = options.ring_bytes(size(bytes));
        }
        if let Some(bytes) = command["queue_bytes"].as_u64() {
            options = options.queue_bytes(size(bytes));
        }
        let subscription = match &self.bus {
            Bus::Embedded(bus) => bus.subscription_with(&patterns, options).await,
            Bus::Client(client) => client.subscription_with(&patterns, options).await,
        };
        let subscription = subscription.map_err(|e| {
            let kind = match &e {
                SubscribeError::Pattern(_) => "Pattern".into(),
                SubscribeError::Refused(refusal) => format!("{refusal:?}"),
                other => format!("{other:?}"),
            };
            error(&e, &kind)
        })?;
        let texts = |patterns: &[daemoneye_eventbus::TopicPattern]| -> Vec<String> {
            patterns.iter().map(ToString::to_string).collect()
        };
        let withheld: Vec<String> =
            subscription.withheld().iter().map(|part| part.pattern.to_string()).collect();
        let answer = json!({
            "granted": texts(subscription.granted()),
            "withheld": withheld,
            "missed": subscription.missed(),
        });
        if command["unread"] == true {
            self.unread.insert(name, subscription);
        } else if command["witness"] == true {
            self.witnesses.insert(name, witness::Witness::start(subscription));
        } else {
            self.subscriptions.insert(name, Reader::of(subscription, command));
        }
        Ok(answer)
    }

    async fn declare(&mut self, name: String, topic: &str) -> Result<Value, Value> {
        let publisher = match &self.bus {
            Bus::Embedded(bus) => bus.publisher(topic).await,
            Bus::Client(client) => client.publisher(topic).await,
        };
        let publisher = publisher.map_err(|e| {
            let kind = match &e {
                DeclareError::Topic(_) => "Topic".into(),
                DeclareError::Refused(refusal) => format!("{refusal:?}"),
                other => format!("{other:?}"),
            };
            error(&e, &kind)
        })?;
        self.publishers.insert(name, publisher);
        Ok(json!({}))
    }

    async fn publish(&self, topic: &str, tag: &str, from: u64, count: u64) -> Result<Value, Value> {
        for index in from..from + count {
            let published = self.client().publish(topic, event(tag, index).into(), None).await;
            published.map_err(|e| error(&e, &format!("{e:?}")))?;
        }
        Ok(json!({}))
    }

    /// Publishes from several threads at once, each numbering its own events.
    async fn storm(&self, topic: &str, threads: u64, count: u64) -> Value {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let (client, topic) = (Arc::clone(self.client()), topic.to_owned());
                tokio::task::spawn_blocking(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                    for index in 0..count {
                        let event = event(&format!("thread-{thread}"), index).into();
                        runtime.block_on(client.publish(&topic, event, None)).expect("it is granted");
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.await.expect("no thread panics");
        }
        json!({})
    }

    /// Begins each of the client's operations so many times, and gives it up at once, or after the session had a turn.
    async fn cancel(&self, topic: &str, times: u64) -> Value {
        let client = self.client();
        for index in 0..times {
            let given_up = async {
                tokio::select! {
                    biased;
                    _ = client.publisher(topic) => {}
                    () = turns(index % 4) => {}
                }
                tokio::select! {
                    biased;
                    _ = client.subscription(&["control.#"]) => {}
                    () = turns(index % 4) => {}
                }
                tokio::select! {
                    biased;
                    _ = client.publish(topic, event("given up", 0).into(), None) => {}
                    () = turns(index % 4) => {}
                }
            };
            given_up.await;
        }
        json!({})
    }

    fn statistics(&self) -> Value {
        let (statistics, latencies) = match &self.bus {
            Bus::Embedded(bus) => (bus.client_statistics(), bus.latencies()),
            Bus::Client(client) => (client.statistics(), client.latencies()),
        };
        json!({
            "latencies": watch::figures(latencies),
            "received": statistics.received_events,
            "skipped": statistics.skipped_events,
            "wakeups": statistics.wakeups,
            "ring_bytes": statistics.ring_bytes,
        })
    }
}

/// Gives others so many turns.
async fn turns(count: u64) {
    for _ in 0..count {
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}

/// An event of about the size of a real process record. Its pid is its number.
fn event(tag: &str, index: u64) -> ProcessEvent {
    ProcessEvent {
        pid: u32::try_from(index).expect("tests count to some millions"),
        name: tag.to_owned(),
        command_line: Some("/usr/lib/systemd/systemd --switched-root --system --deserialize 31".into()),
        executable_path: Some("/usr/lib/systemd/systemd".into()),
        ppid: Some(1),
        start_time: Some(std::time::UNIX_EPOCH + Duration::from_secs(index)),
        metadata: HashMap::from([("user".into(), "root".into()), ("memory_bytes".into(), "12345678".into())]),
    }
}

fn delivery(delivery: daemoneye_eventbus::Delivery) -> Value {
    json!({
        "events": delivery.events,
        "subscribers": delivery.subscribers,
        "reached": delivery.reached,
        "dropped": delivery.dropped,
        "kept": delivery.kept,
    })
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a size fits")
}

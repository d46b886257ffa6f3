//! What a broker takes, and how soon it has a change in place: memory for a thousand sessions, a subscription that ten publishers have to
//! know of, and processor time while rings flow between others.
//!
//! The broker has a process of its own, which neither publishes nor subscribes. So have each publisher, and each part of the crowd.

#[expect(dead_code, reason = "it serves other benches, too")]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemoneye_eventbus::{
    AccessPolicy, BrokerOptions, ConnectOptions, DaemoneyeBroker, EventBusClient, Opaque, RecvError,
    Resource, SubscribeOptions, Subscription,
};
use rustix::process::{Resource as Limit, Rlimit, getrlimit, setrlimit};
use support::{Part, Peer, cpu_nanos, is_trial, runtime};

/// Sessions of the crowd, in so many processes, and the subscriptions of each.
const CROWDS: usize = 5;
const SUBSCRIPTIONS: usize = 10;
const MEMORY_MUST_KIB: u64 = 64 << 10;
/// Publishers that a subscription leads from, each in a process of its own.
const PUBLISHERS: usize = 10;
const CHANGE_MUST: Duration = Duration::from_millis(20);
/// Data bytes of the rings that a newcomer's subscription asks for: as usual, and as few as can be.
const RING_BYTES: [usize; 2] = [8 << 20, 64 << 10];
/// Of one processor, in percent.
const BUSY_MUST: f64 = 0.5;

/// What the broker's process is asked: how many sessions there are, and what processor time it took so far.
const MEMBERS: u64 = 0;
const BUSY: u64 = 1;

const BATCH: &str = "events.process.batch";
/// Ten processes are to publish the same, and no table of ours has ten such collectors.
fn policy() -> AccessPolicy {
    let names: Vec<String> = (0..PUBLISHERS).map(|number| format!("'gauge{number}'")).collect();
    let text = format!(
        "defaults = true
        [[row]]
        topics = 'events.process.#'
        level = 'public'
        publishers = ['stream', {}]
        subscribers = ['anyone']",
        names.join(", ")
    );
    AccessPolicy::from_toml(&text).expect("it is well-formed")
}

fn main() {
    if let Some(part) = Part::assigned() {
        return match part.name.as_str() {
            "broker" => broker(&part),
            "stream" => stream(&part),
            name if name.starts_with("gauge") => publisher(&part),
            _ => crowd(&part),
        };
    }
    for all_differ in [false, true] {
        memory(all_differ);
    }
    changes();
    beside_rings();
}

/// What a figure comes to beside what it must be.
fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("bus.sock")
}

async fn connect(folder: &Path, id: &str) -> EventBusClient {
    let options = ConnectOptions::new(id).path(socket(folder)).shares_session(false);
    EventBusClient::connect(options).await.expect("the broker is there")
}

/// Memory of a process that is in use, in KiB, as the kernel names it.
fn memory_kib(peer: &Peer, what: &str) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", peer.child.id());
    let text = std::fs::read_to_string(path).expect("it runs, and is ours");
    let line = text.lines().find_map(|line| line.strip_prefix(what)).expect("the kernel says it");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Sessions with subscriptions that nobody publishes for, so that there are no rings: what is left is the broker's own.
fn memory(all_differ: bool) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut broker = Peer::start("broker", folder.path());
    let each = if is_trial() { 4 } else { 200 };
    let kinds = ["Rss", "Anonymous"];
    let before = kinds.map(|kind| memory_kib(&broker, kind));
    let kind = if all_differ { "different" } else { "alike" };
    let mut crowds: Vec<Peer> =
        (0..CROWDS).map(|crowd| Peer::start(&format!("{kind}-{crowd}"), folder.path())).collect();
    let since = Instant::now();
    crowds.iter_mut().for_each(|crowd| crowd.tell(each));
    let subscriptions: u64 = crowds.iter_mut().map(Peer::hear).sum();
    let took = since.elapsed();
    let after = kinds.map(|kind| memory_kib(&broker, kind));
    let [rss, heap] = std::array::from_fn(|kind| after[kind].saturating_sub(before[kind]));
    let sessions = CROWDS as u64 * each;
    broker.tell(MEMBERS);
    assert_eq!(broker.hear(), sessions, "all of them are there");
    println!(
        "broker: {sessions} sessions with {subscriptions} subscriptions, all of whose patterns are {kind}: {:.1} MiB more resident ({:.1} of it heap), {:.1} KiB for each session: must {} MiB: {}; there after {took:.1?}",
        rss as f64 / 1024.0,
        heap as f64 / 1024.0,
        rss as f64 / sessions as f64,
        MEMORY_MUST_KIB >> 10,
        verdict(rss <= MEMORY_MUST_KIB)
    );
}

/// A subscription, again and again, by who has its rings; and by newcomers, for whom all of them are to be made.
fn changes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _broker = Peer::start("broker", folder.path());
    let start = |number| Peer::start(&format!("gauge{number}"), folder.path());
    let mut publishers: Vec<Peer> = (0..PUBLISHERS).map(start).collect();
    let (runtime, count) = (runtime(), if is_trial() { 5_usize } else { 1000 });
    let client = runtime.block_on(connect(folder.path(), "watcher"));
    let subscribe = |client: &EventBusClient, ring_bytes| {
        let since = Instant::now();
        let options = SubscribeOptions::new().ring_bytes(ring_bytes);
        let subscription = client.subscription_with(&[BATCH], options);
        let subscription = runtime.block_on(subscription).expect("it is public");
        (since.elapsed(), subscription)
    };
    // The rings that it makes stay for as long as both their ends.
    let heard = subscribe(&client, RING_BYTES[0]);
    publishers.iter_mut().for_each(|publisher| publisher.tell(0));
    let hearers: Vec<u64> = publishers.iter_mut().map(Peer::hear).collect();
    assert_eq!(hearers, [1; PUBLISHERS], "all of them publish what is subscribed to");
    drop(heard);
    let [half, most, all] = percentiles((0..count).map(|_| subscribe(&client, RING_BYTES[0]).0).collect());
    println!(
        "broker: a subscription in place at {PUBLISHERS} publishers: {half:.2?} (p99 {most:.2?}, most {all:.2?}): must p99 {CHANGE_MUST:?}: {}",
        verdict(most <= CHANGE_MUST)
    );
    for ring_bytes in RING_BYTES {
        let anew = (0..count.div_ceil(10)).map(|number| {
            let id = format!("newcomer{number}-{ring_bytes}");
            let client = runtime.block_on(connect(folder.path(), &id));
            subscribe(&client, ring_bytes).0
        });
        let [half, most, all] = percentiles(anew.collect());
        println!(
            "broker: the same of a newcomer, with {PUBLISHERS} rings of {} KiB to be made: {half:.2?} (p99 {most:.2?}, most {all:.2?})",
            ring_bytes >> 10
        );
    }
}

fn percentiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort_unstable();
    [50, 99, 100].map(|percent| times[(times.len() - 1) * percent / 100])
}

/// One process publishes as fast as it can, this one reads, and the broker has nothing to do with it.
fn beside_rings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut broker = Peer::start("broker", folder.path());
    let runtime = runtime();
    let client = runtime.block_on(connect(folder.path(), "watcher"));
    let mut subscription = runtime.block_on(client.subscription(&[BATCH])).expect("it is public");
    let mut stream = Peer::start("stream", folder.path());
    let busy = |broker: &mut Peer| {
        broker.tell(BUSY);
        broker.hear()
    };
    let seconds = if is_trial() { 1 } else { 10 };
    stream.tell(seconds + 1);
    // The first events have come, and with them whatever the broker had to do for them.
    let mut received = read(&mut subscription, Duration::from_millis(500));
    assert!(received > 0, "the stream flows");
    let (since, before) = (Instant::now(), busy(&mut broker));
    received = read(&mut subscription, Duration::from_secs(seconds) - Duration::from_millis(500));
    let (nanos, elapsed) = (busy(&mut broker) - before, since.elapsed());
    let percent = nanos as f64 / elapsed.as_nanos() as f64 * 100.0;
    println!(
        "broker: {:.3} % of a processor ({:.2} ms of {elapsed:.1?}) while {:.1} M events/s flow between two others: must {BUSY_MUST} %: {}",
        percent,
        nanos as f64 / 1e6,
        received as f64 / elapsed.as_secs_f64() / 1e6,
        verdict(percent <= BUSY_MUST)
    );
}

/// Events that come within a time, those that are told as lost not counted.
fn read(subscription: &mut Subscription, time: Duration) -> u64 {
    let (until, mut received) = (Instant::now() + time, 0);
    while Instant::now() < until {
        match subscription.blocking_recv().expect("the stream goes on") {
            Ok(batch) => received += batch.len() as u64,
            Err(RecvError::Lagged(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    received
}

/// Answers what it is asked.
fn broker(part: &Part) {
    raise_descriptor_limit();
    let options = BrokerOptions::new(socket(&part.folder))
        .policy(policy())
        // All of the crowd is one user.
        .per_uid(Resource::Connections, 1024)
        .per_uid(Resource::PatternBytes, 64 << 20);
    let (runtime, broker) = (runtime(), DaemoneyeBroker::with_options(options).expect("a thread"));
    runtime.block_on(broker.start()).expect("a free path");
    part.is_ready();
    loop {
        part.tell(match part.hear() {
            MEMBERS => runtime.block_on(broker.members()).len() as u64,
            BUSY => cpu_nanos(),
            other => panic!("no question {other}"),
        });
    }
}

/// Each session of a crowd has a few descriptors.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Limit::Nofile);
    setrlimit(Limit::Nofile, Rlimit { current: maximum, maximum }).expect("it may be raised");
}

/// Many sessions, and what each of them hears: as the others do, or other things than any other.
fn crowd(part: &Part) {
    raise_descriptor_limit();
    let runtime = runtime();
    part.is_ready();
    let sessions = part.hear();
    let (mut clients, mut held) = (Vec::new(), Vec::new());
    for session in 0..sessions {
        let id = format!("{}-{session}", part.name);
        let client = runtime.block_on(connect(&part.folder, &id));
        for number in 0..SUBSCRIPTIONS {
            let last = if part.name.starts_with("different") { id.as_str() } else { "tool" };
            let pattern = format!("control.health.heartbeat.{last}-{number}");
            let subscription = runtime.block_on(client.subscription(&[&pattern])).expect("it is public");
            held.push(subscription);
        }
        clients.push(client);
    }
    part.tell(held.len() as u64);
    part.hear();
}

/// Is there to be subscribed to. Whenever it is asked, it says how many hear it.
fn publisher(part: &Part) {
    let runtime = runtime();
    let client = runtime.block_on(connect(&part.folder, &part.name));
    let mut publisher = runtime.block_on(client.publisher(BATCH)).expect("anyone may");
    part.is_ready();
    loop {
        part.hear();
        part.tell(publisher.publish(&Opaque(&[1; 256])).expect("it is small").subscribers);
    }
}

/// Batches as fast as it can, for so many seconds.
fn stream(part: &Part) {
    let runtime = runtime();
    let client = runtime.block_on(connect(&part.folder, &part.name));
    let mut publisher = runtime.block_on(client.publisher(BATCH)).expect("anyone may");
    part.is_ready();
    loop {
        let until = Instant::now() + Duration::from_secs(part.hear());
        while Instant::now() < until {
            let mut batch = publisher.batch();
            for _ in 0..256 {
                batch.push(&Opaque(&[1; 256])).expect("it is small");
            }
            batch.publish();
        }
    }
}

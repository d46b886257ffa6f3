//! What routing costs a publisher: the same whether subscribers hold 10 subscriptions or 10,000.
//!
//! Two agents in this process, each with a broker and so many subscriptions, of which one matches. For each a procmond, in a
//! process and on a processor of its own, publishes single events; the two take turns. Timed is `publish` alone, in bursts that
//! ring and queue hold; between them the agent catches up. How long one subscription more takes is a figure of its own.

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use daemoneye_eventbus::{
    ConnectOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBusClient, Opaque, Publisher, Subscription,
};
use support::{OWN_PROCESSOR, PEER_PROCESSOR, Part, Peer, Run, cpu_nanos, in_turns, is_trial, pin, runtime};
use tokio::runtime::Runtime;

const FEW: usize = 10;
const MANY: usize = 10_000;
/// Events of one burst: half a ring.
const BURST: u64 = 8192;
const EVENT: [u8; 256] = [1; 256];

fn main() {
    if let Some(part) = Part::assigned() {
        pin(PEER_PROCESSOR);
        assert_eq!(part.name, "procmond");
        return procmond(&part);
    }
    pin(OWN_PROCESSOR);
    let mut criterion = support::criterion();
    let mut sides = [FEW, MANY].map(Side::start);
    for side in &mut sides {
        measure(&mut criterion, side);
    }
    criterion.final_summary();

    let events = if is_trial() { BURST } else { 50 * BURST };
    let [few, many] = in_turns(|number| sides[number].run(events));
    few.print("routing: publishing, with 10 subscriptions");
    many.print("routing: publishing, with 10,000 subscriptions");
    let ratio = few.events_per_second / many.events_per_second;
    println!(
        "routing: with 10,000 subscriptions a publish takes {ratio:.3} times as long as with 10 (must 0.8 to 1.2)"
    );
    for side in &mut sides {
        let micros = side.subscribing(if is_trial() { 1 } else { 200 }).as_secs_f64() * 1e6;
        println!("routing: one more subscription takes {micros:.0} us with {} there", side.others.len() + 1);
    }
}

fn measure(criterion: &mut Criterion, side: &mut Side) {
    let mut group = criterion.benchmark_group("routing");
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("publish with {} subscriptions", side.others.len() + 1), |bencher| {
        bencher.iter_custom(|events| side.run(events).elapsed);
    });
    group.finish();
}

/// An agent with so many subscriptions, and its procmond.
struct Side {
    runtime: Runtime,
    bus: DaemoneyeEventBus,
    matching: Subscription,
    others: Vec<Subscription>,
    procmond: Peer,
    _folder: tempfile::TempDir,
}

impl Side {
    fn start(subscriptions: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("bus.sock");
        let runtime = runtime();
        let (bus, matching, others) = runtime.block_on(async {
            let broker = DaemoneyeBroker::new(path.to_str().expect("UTF-8")).await.expect("a broker");
            let bus = DaemoneyeEventBus::from_broker(broker).await.expect("it listens");
            let matching = bus.subscription(&["events.process.lifecycle"]).await.expect("the agent may");
            let mut others = Vec::new();
            for number in 1..subscriptions {
                let pattern = other(number);
                others.push(bus.subscription(&[&pattern]).await.expect("the agent may"));
            }
            (bus, matching, others)
        });
        let procmond = Peer::start("procmond", folder.path());
        Self { runtime, bus, matching, others, procmond, _folder: folder }
    }

    /// So many events; elapsed is what procmond took to publish them.
    fn run(&mut self, events: u64) -> Run {
        let Self { runtime, matching, procmond, .. } = self;
        let mut publishing = 0;
        let run = Run::of(events, || {
            procmond.tell(events);
            let mut left = events;
            while left > 0 {
                let burst = left.min(BURST);
                receive(runtime, matching, burst);
                procmond.tell(burst);
                left -= burst;
            }
            publishing = procmond.hear();
            procmond.hear()
        });
        Run { elapsed: Duration::from_nanos(publishing), ..run }
    }

    /// The median time of one more subscription.
    fn subscribing(&mut self, times: usize) -> Duration {
        let Self { runtime, bus, .. } = self;
        let mut all: Vec<Duration> = (0..times)
            .map(|_| {
                let start = Instant::now();
                let more = runtime.block_on(bus.subscription(&["events.process.one_more"]));
                let elapsed = start.elapsed();
                drop(more.expect("the agent may"));
                elapsed
            })
            .collect();
        all.sort_unstable();
        all[all.len() / 2]
    }
}

/// A pattern that does not match what is published.
fn other(number: usize) -> String {
    match number % 4 {
        0 => format!("events.process.other_{number}"),
        1 => format!("events.+.other_{number}"),
        2 => format!("events.process.+.other_{number}"),
        _ => format!("events.network.other_{number}.#"),
    }
}

fn receive(runtime: &Runtime, subscription: &mut Subscription, events: u64) {
    runtime.block_on(async {
        let mut received = 0;
        while received < events {
            let batch = subscription.recv().await.expect("the bus is there").expect("nothing is lost");
            received += batch.len() as u64;
        }
    });
}

fn procmond(part: &Part) {
    let runtime = runtime();
    let options = ConnectOptions::new("procmond").path(part.folder.join("bus.sock"));
    let client = runtime.block_on(EventBusClient::connect(options)).expect("the broker is there");
    let mut publisher =
        runtime.block_on(client.publisher("events.process.lifecycle")).expect("it is granted");
    part.is_ready();
    loop {
        let mut left = part.hear();
        let cpu = cpu_nanos();
        let mut publishing = Duration::ZERO;
        while left > 0 {
            let burst = left.min(BURST);
            publishing += publish(&mut publisher, burst);
            assert_eq!(part.hear(), burst);
            left -= burst;
        }
        part.tell(publishing.as_nanos() as u64);
        part.tell(cpu_nanos() - cpu);
    }
}

fn publish(publisher: &mut Publisher, events: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..events {
        let delivery = publisher.publish(&Opaque(&EVENT)).expect("it is small");
        assert_eq!((delivery.reached, delivery.dropped), (1, 0));
    }
    start.elapsed()
}

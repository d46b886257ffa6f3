//! Alerts beside ten times more batches than their reader can take: how old they are when they are received, and whether all are.
//!
//! procmond publishes batches as fast as it can and an anomaly every millisecond, by a publisher of its own or by the one of the batches. The
//! agent takes a microsecond for each event of a batch, over one subscription for all or over one for anomalies beside it.

#[expect(dead_code, reason = "it serves other benches, too")]
mod support;

use std::hint::spin_loop;
use std::path::Path;
use std::time::{Duration, Instant};

use daemoneye_eventbus::{
    ConnectOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBusClient, Opaque, RecvError, Subscription,
};
use support::{Part, Peer, is_trial, runtime};

const BULK: &str = "events.process.batch";
const ANOMALY: &str = "events.process.anomaly";
const EVENT_BYTES: usize = 256;
const BATCH: usize = 256;
/// One anomaly in this time.
const PERIOD: Duration = Duration::from_millis(1);
/// What the agent takes for each event of a batch: publishers manage ten million a second.
const SLOWNESS: Duration = Duration::from_micros(1);

fn main() {
    if let Some(part) = Part::assigned() {
        return procmond(&part);
    }
    let seconds = if is_trial() { 1 } else { 10 };
    for (what, apart) in [("one subscription for all", false), ("a subscription for anomalies", true)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Agent::start(folder.path(), apart).measure(what, seconds);
    }
}

struct Agent {
    _bus: DaemoneyeEventBus,
    bulk: Subscription,
    anomalies: Option<Subscription>,
    procmond: Peer,
    runtime: tokio::runtime::Runtime,
}

/// What a subscription brought.
#[derive(Debug, Default)]
struct Tally {
    ages: Vec<Duration>,
    bulk: u64,
    lost: u64,
}

impl Agent {
    fn start(folder: &Path, apart: bool) -> Self {
        let runtime = runtime();
        let path = folder.join("bus.sock");
        let (bus, bulk, anomalies) = runtime.block_on(async {
            let broker = DaemoneyeBroker::new(path.to_str().expect("UTF-8")).await.expect("a broker");
            let bus = DaemoneyeEventBus::from_broker(broker).await.expect("it listens");
            let patterns: &[&str] = if apart { &[BULK] } else { &[BULK, ANOMALY] };
            let bulk = bus.subscription(patterns).await.expect("the agent may");
            let anomalies =
                if apart { Some(bus.subscription(&[ANOMALY]).await.expect("the agent may")) } else { None };
            (bus, bulk, anomalies)
        });
        let procmond = Peer::start("procmond", folder);
        Self { _bus: bus, bulk, anomalies, procmond, runtime }
    }

    fn measure(self, what: &str, seconds: u64) {
        let Self { _bus, bulk, anomalies, mut procmond, runtime } = self;
        procmond.tell(seconds);
        let until = Instant::now() + Duration::from_secs(seconds + 1);
        // A thread of its own, as a busy agent has it: what is measured is the bus, and not tokio's turns.
        let apart = anomalies.map(|anomalies| std::thread::spawn(move || read(anomalies, until)));
        let mut tally = read_in(&runtime, bulk, until);
        if let Some(apart) = apart {
            let of_anomalies = apart.join().expect("nothing panics");
            tally.ages = of_anomalies.ages;
            assert_eq!(of_anomalies.lost, 0, "no anomaly is lost");
        }
        let (published, bulk) = (procmond.hear(), procmond.hear());
        tally.ages.sort_unstable();
        let age = |percent: usize| tally.ages[(tally.ages.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        println!(
            "alerts: {what}: {} of {published} received, {:.2} ms old (p99 {:.2}, most {:.2}; must p99 100), beside {:.1} M batched events/s of which {:.1} % were read",
            tally.ages.len(),
            age(50),
            age(99),
            age(100),
            bulk as f64 / seconds as f64 / 1e6,
            tally.bulk as f64 / bulk as f64 * 100.0
        );
        assert_eq!(tally.ages.len() as u64, published, "every anomaly arrives");
    }
}

fn read(subscription: Subscription, until: Instant) -> Tally {
    read_in(&runtime(), subscription, until)
}

fn read_in(runtime: &tokio::runtime::Runtime, mut subscription: Subscription, until: Instant) -> Tally {
    let mut tally = Tally::default();
    runtime.block_on(async {
        while let Ok(Some(item)) = tokio::time::timeout_at(until.into(), subscription.recv()).await {
            match item {
                Ok(batch) if batch.topic().as_str() == ANOMALY => tally.ages.push(batch.age()),
                Ok(batch) => {
                    tally.bulk += batch.len() as u64;
                    let busy = Instant::now() + SLOWNESS * u32::try_from(batch.len()).expect("at most 512");
                    while Instant::now() < busy {
                        spin_loop();
                    }
                }
                Err(RecvError::Lagged(events)) => tally.lost += events,
                Err(error) => panic!("{error}"),
            }
        }
    });
    tally
}

fn procmond(part: &Part) {
    let runtime = runtime();
    let options = ConnectOptions::new("procmond").path(part.folder.join("bus.sock"));
    let client = runtime.block_on(EventBusClient::connect(options)).expect("the broker is there");
    let mut bulk = runtime.block_on(client.publisher(BULK)).expect("it is granted");
    let mut anomalies = runtime.block_on(client.publisher(ANOMALY)).expect("it is granted");
    part.is_ready();
    loop {
        let (start, seconds) = (Instant::now(), part.hear());
        let end = Instant::now() + Duration::from_secs(seconds);
        let (mut published, mut next) = (0, start);
        let before = bulk.published();
        while Instant::now() < end {
            let mut batch = bulk.batch();
            for _ in 0..BATCH {
                batch.push(&Opaque(&[1; EVENT_BYTES])).expect("it is small");
            }
            batch.publish();
            if Instant::now() >= next {
                next = Instant::now() + PERIOD;
                anomalies.publish(&Opaque(&[2; EVENT_BYTES])).expect("it is small");
                published += 1;
            }
        }
        part.tell(published);
        part.tell(bulk.published() - before);
    }
}

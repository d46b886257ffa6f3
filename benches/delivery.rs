//! Events that are published one by one, and what waits for them: throughput, a burst into a sleeping subscriber, a steady trickle,
//! round trips.
//!
//! The agent embeds the broker and subscribes; procmond publishes from a process and a processor of its own. Events are opaque. They are
//! read by a thread that waits for nothing else, as the socket's reader does; where it says so, by a task of a runtime.
//! As a publisher never waits, one that must not lose anything is told what was consumed, over a pipe, and keeps a window; the burst
//! fits into ring and queue, and needs none. Against a plain Unix socket between the same processes, in the same run.

mod support;

use std::collections::HashMap;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use daemoneye_eventbus::{
    BrokerOptions, ConnectOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBus, EventBusClient,
    EventReceiver, EventRef, Opaque, ProcessEvent, Publisher, ReceivedBatch, RecvError, Subscription,
    WaitPolicy,
};
use support::{
    Figures, OWN_PROCESSOR, PEER_PROCESSOR, Part, Peer, Run, cpu_nanos, in_turns, in_turns_of, is_trial, pin,
    runtime,
};
use tokio::runtime::Runtime;

/// Bytes of an event, of one in the burst, and of one that goes to and fro.
const EVENT_BYTES: usize = 256;
const BURST_BYTES: usize = 300;
const PING_BYTES: usize = 64;
/// Events of a batch, and of the burst.
const BATCH: u64 = 64;
const BURST: u64 = 10_000;
/// Events that may be under way, and after how many the publisher is told.
const WINDOW: u64 = 8192;
const CREDIT: u64 = 2048;
/// Bytes of one write to a socket where writes are batched, and of one read.
const SOCKET_BYTES: usize = 64 << 10;
/// How often an event is published steadily, and for how long.
const STEADY_PERIOD: Duration = Duration::from_micros(100);
const STEADY_TIME: Duration = Duration::from_secs(5);
/// How long a thread may take to fall asleep.
const CALM: Duration = Duration::from_millis(5);

const FROM_PROCMOND: &str = "events.process.lifecycle";
const TO_PROCMOND: &str = "control.collector.task.procmond";

/// What a child is to do, told before how many times.
const SINGLES: u64 = 1;
const BATCHES: u64 = 2;
const BURST_OF_SINGLES: u64 = 3;
const BURST_AS_BATCH: u64 = 4;
const STEADY: u64 = 5;
const ECHO: u64 = 6;
const ECHO_BLOCKING: u64 = 7;

/// A procmond that falls asleep at once.
const SLEEPER: &str = "sleeping procmond";

fn main() {
    if let Some(part) = Part::assigned() {
        pin(PEER_PROCESSOR);
        match part.name.as_str() {
            "procmond" => procmond(&part, WaitPolicy::default()),
            SLEEPER => procmond(&part, asleep()),
            _ => socket_peer(&part),
        }
        return;
    }
    pin(OWN_PROCESSOR);
    let mut criterion = support::criterion();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut bus = Bus::start(folder.path(), "procmond", WaitPolicy::default());
    let mut socket = Socket::start(folder.path());
    streams(&mut criterion, &mut bus, &mut socket);
    bursts(&mut criterion, &mut bus);
    steady(&mut bus);
    let other = tempfile::tempdir().expect("a temporary folder");
    let mut sleeping = Bus::start(other.path(), SLEEPER, asleep());
    round_trips(&mut criterion, [&mut bus, &mut sleeping], &mut socket);
    within_a_process(&mut criterion, bus);
    criterion.final_summary();
}

fn streams(criterion: &mut Criterion, bus: &mut Bus, socket: &mut Socket) {
    let mut group = criterion.benchmark_group("delivery/256 B");
    group.throughput(Throughput::Elements(1));
    group.bench_function("singles", |b| b.iter_custom(|events| bus.stream(SINGLES, events).elapsed));
    group.bench_function("socket, each written by itself", |b| {
        b.iter_custom(|events| socket.stream(SINGLES, events).elapsed)
    });
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("batches of 64", |b| {
        b.iter_custom(|batches| bus.stream(BATCHES, batches * BATCH).elapsed)
    });
    group.bench_function("socket, 64 KiB written at once", |b| {
        b.iter_custom(|batches| socket.stream(BATCHES, batches * BATCH).elapsed)
    });
    group.finish();

    let events = if is_trial() { BATCH } else { 10_000 * BATCH };
    let [singles, written, batches, batched] = in_turns(|side| match side {
        0 => bus.stream(SINGLES, events),
        1 => socket.stream(SINGLES, events / 4),
        2 => bus.stream(BATCHES, events * 2),
        _ => socket.stream(BATCHES, events * 2),
    });
    singles.print("delivery: singles over the bus");
    written.print("delivery: singles over a socket, a write for each");
    batches.print("delivery: batches of 64 over the bus");
    batched.print("delivery: a socket with writes of 64 KiB");
    let ratio = |one: Figures, other: Figures| one.events_per_second / other.events_per_second;
    println!(
        "delivery: of 256 B events the bus carries {:.2} times as many as the socket one by one, {:.2} times in batches",
        ratio(singles, written),
        ratio(batches, batched)
    );
}

fn bursts(criterion: &mut Criterion, bus: &mut Bus) {
    let mut group = criterion.benchmark_group("delivery/burst");
    group.throughput(Throughput::Elements(BURST));
    group.bench_function("10,000 singles of 300 B into a sleeping subscriber", |b| {
        b.iter_custom(|bursts| {
            (0..bursts).map(|_| bus.burst(BURST_OF_SINGLES, Reader::Thread).0.elapsed).sum()
        })
    });
    group.bench_function("the same as one batch", |b| {
        b.iter_custom(|bursts| (0..bursts).map(|_| bus.burst(BURST_AS_BATCH, Reader::Thread).0.elapsed).sum())
    });
    group.finish();

    let kinds = [
        ("of singles", BURST_OF_SINGLES, Reader::Thread),
        ("as one batch", BURST_AS_BATCH, Reader::Thread),
        ("as one batch, read by a task,", BURST_AS_BATCH, Reader::Task),
    ];
    let mut wakeups = [const { Vec::new() }; 3];
    let times = if is_trial() { 1 } else { 50 };
    let figures: [Figures; 3] = in_turns_of(times, |side| {
        let (_, how, reader) = kinds[side];
        let (run, woken) = bus.burst(how, reader);
        wakeups[side].push(woken);
        run
    });
    for (((name, ..), figures), wakeups) in kinds.into_iter().zip(figures).zip(&mut wakeups) {
        wakeups.sort_unstable();
        println!(
            "delivery: a burst of 10,000 {name} takes {:.1} ms, {:.0} ns CPU per event of both processes (publisher {:.0}), \
             wakes the sleeper {} times (most: {}), and loses nothing",
            BURST as f64 / figures.events_per_second * 1e3,
            figures.own_cpu_nanos + figures.peer_cpu_nanos,
            figures.peer_cpu_nanos,
            percentile(wakeups, 50),
            percentile(wakeups, 100)
        );
    }
    println!("delivery: as one batch: must 5 wake-ups, 120 ns; aim 100 ns");
}

fn steady(bus: &mut Bus) {
    let time = if is_trial() { STEADY_TIME / 100 } else { STEADY_TIME };
    let events = (time.as_nanos() / STEADY_PERIOD.as_nanos()) as u64;
    let mut ages = Vec::new();
    let run = bus.steady(events, &mut ages);
    ages.sort_unstable();
    let micros = |percent| percentile(&ages, percent) as f64 / 1e3;
    println!(
        "delivery: of {:.0} events/s each is received {:.0} us after it was published (p99 {:.0}, most {:.0}; must p99 1000); \
         {:.1} us CPU per event of both processes",
        events as f64 / run.elapsed.as_secs_f64(),
        micros(50),
        micros(99),
        micros(100),
        (run.own_cpu_nanos + run.peer_cpu_nanos) as f64 / events as f64 / 1e3
    );
}

fn round_trips(criterion: &mut Criterion, [bus, sleeping]: [&mut Bus; 2], socket: &mut Socket) {
    let mut each = [const { Vec::new() }; 5];
    let [tasks, threads, sleeping_tasks, sleeping_threads, of_socket] = &mut each;
    let mut group = criterion.benchmark_group("delivery/round trip");
    group.bench_function("bus", |b| b.iter_custom(|trips| bus.round_trips(ECHO, trips, tasks)));
    group.bench_function("socket", |b| b.iter_custom(|trips| socket.round_trips(trips, of_socket)));
    group.finish();

    tasks.clear();
    of_socket.clear();
    for _ in 0..if is_trial() { 1 } else { 10 } {
        bus.round_trips(ECHO, 500, tasks);
        bus.round_trips(ECHO_BLOCKING, 500, threads);
        sleeping.round_trips(ECHO, 500, sleeping_tasks);
        sleeping.round_trips(ECHO_BLOCKING, 500, sleeping_threads);
        socket.round_trips(500, of_socket);
    }
    each.iter_mut().for_each(|trips| trips.sort_unstable());
    let micros = |trips: &[u64], percent| percentile(trips, percent) as f64 / 1e3;
    let [over_bus @ .., of_socket] = &each;
    println!(
        "delivery: a round trip of 64 B over a socket takes {:.1} us (p99 {:.1})",
        micros(of_socket, 50),
        micros(of_socket, 99)
    );
    let named = ["tasks", "threads", "tasks that sleep at once", "threads that sleep at once"];
    for (name, trips) in named.into_iter().zip(over_bus) {
        println!(
            "delivery: over the bus, between {name}: {:.1} us (p99 {:.1}), {:.2} times as long (must 1.2)",
            micros(trips, 50),
            micros(trips, 99),
            micros(trips, 50) / micros(of_socket, 50)
        );
    }
}

fn within_a_process(criterion: &mut Criterion, bus: Bus) {
    let Bus { runtime, mut bus, subscription, .. } = bus;
    // There is one subscription at a time for what is published.
    drop(subscription);
    let subscription = runtime.block_on(bus.subscription(&["events.process.#"])).expect("the agent may");
    let mut events = subscription.into_events();
    let mut group = criterion.benchmark_group("delivery/within a process");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("EventBus::publish to EventReceiver", |b| {
        b.iter_custom(|rounds| {
            let start = Instant::now();
            runtime.block_on(async {
                for _ in 0..rounds {
                    publish_and_receive(&mut bus, &mut events).await;
                }
            });
            start.elapsed()
        })
    });
    group.finish();
    assert_eq!(events.lagged(), 0);
    let rounds = if is_trial() { 1 } else { 5_000 };
    let run = Run::of(rounds * BATCH, || {
        runtime.block_on(async {
            for _ in 0..rounds {
                publish_and_receive(&mut bus, &mut events).await;
            }
        });
        0
    });
    println!(
        "delivery: within a process: {:.2} M events/s, published and received as owned events",
        run.events as f64 / run.elapsed.as_secs_f64() / 1e6
    );
}

async fn publish_and_receive(agent: &mut DaemoneyeEventBus, events: &mut EventReceiver) {
    let event = ProcessEvent {
        pid: 1234,
        name: "example_process".into(),
        command_line: Some("example_process --arg".into()),
        executable_path: Some("/usr/bin/example_process".into()),
        ppid: Some(1000),
        start_time: None,
        metadata: HashMap::new(),
    };
    for _ in 0..BATCH {
        agent.publish(event.clone().into(), "correlation-123".into()).await.expect("the agent may");
    }
    for _ in 0..BATCH {
        events.recv().await.expect("the bus is there");
    }
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Who reads a subscription.
#[derive(Debug, Clone, Copy)]
enum Reader {
    /// A thread that waits for nothing else.
    Thread,
    /// A task of a runtime.
    Task,
}

/// The agent, in this process, and procmond in another.
struct Bus {
    runtime: Runtime,
    subscription: Subscription,
    tasks: Publisher,
    procmond: Peer,
    bus: DaemoneyeEventBus,
}

impl Bus {
    fn start(folder: &Path, procmond: &str, policy: WaitPolicy) -> Self {
        let runtime = runtime();
        let (bus, subscription) = runtime.block_on(async {
            let options = BrokerOptions::new(folder.join("bus.sock")).wait_policy(policy);
            let broker = DaemoneyeBroker::with_options(options).expect("a broker");
            let bus = DaemoneyeEventBus::from_broker(broker).await.expect("it listens");
            let subscription = bus.subscription(&[FROM_PROCMOND]).await.expect("the agent may");
            (bus, subscription)
        });
        let procmond = Peer::start(procmond, folder);
        let tasks = runtime.block_on(bus.publisher(TO_PROCMOND)).expect("the agent may");
        Self { runtime, subscription, tasks, procmond, bus }
    }

    /// So many events in a row, within a window.
    fn stream(&mut self, how: u64, events: u64) -> Run {
        Run::of(events, || {
            self.order(how, events);
            self.receive(events, EVENT_BYTES, Reader::Thread);
            self.procmond.hear()
        })
    }

    /// One burst while everybody here sleeps, and how often who reads the rings was woken.
    fn burst(&mut self, how: u64, reader: Reader) -> (Run, u64) {
        std::thread::sleep(CALM);
        let woken = self.bus.client_statistics().wakeups;
        let run = Run::of(BURST, || {
            self.order(how, BURST);
            self.receive(BURST, BURST_BYTES, reader);
            self.procmond.hear()
        });
        (run, self.bus.client_statistics().wakeups - woken)
    }

    /// So many events, each some time after the one before; how old each is when it is received, in nanoseconds.
    fn steady(&mut self, events: u64, ages: &mut Vec<u64>) -> Run {
        Run::of(events, || {
            self.order(STEADY, events);
            let Self { runtime, subscription, procmond, .. } = self;
            runtime.block_on(async {
                for _ in 0..events {
                    let batch =
                        subscription.recv().await.expect("the bus is there").expect("nothing is lost");
                    ages.push(batch.age().as_nanos() as u64);
                    assert_eq!(batch.len(), 1);
                }
            });
            procmond.hear()
        })
    }

    fn order(&mut self, what: u64, count: u64) {
        self.procmond.tell(what);
        self.procmond.tell(count);
    }

    /// Receives so many events, looks at each, and tells procmond how far it is.
    fn receive(&mut self, events: u64, bytes: usize, reader: Reader) {
        let Self { runtime, subscription, procmond, .. } = self;
        let (mut received, mut told, mut sum) = (0, 0, 0_u64);
        let mut take = |batch: ReceivedBatch| {
            for event in batch.view() {
                sum = sum_of_event(&event, bytes).wrapping_add(sum);
            }
            received += batch.len() as u64;
            if received - told >= CREDIT || received == events {
                told = received;
                procmond.tell(told);
            }
            received < events
        };
        let next = |item: Option<Result<ReceivedBatch, RecvError>>| {
            item.expect("the bus is there").expect("nothing is lost")
        };
        match reader {
            Reader::Thread => while take(next(subscription.blocking_recv())) {},
            Reader::Task => runtime.block_on(async { while take(next(subscription.recv().await)) {} }),
        }
        assert_eq!(sum, events.wrapping_mul(sum_of(bytes)), "what was received is what was published");
    }

    /// So many times to procmond and back, each timed by itself, in nanoseconds.
    fn round_trips(&mut self, how: u64, trips: u64, each: &mut Vec<u64>) -> Duration {
        self.order(how, trips);
        let Self { runtime, subscription, tasks, .. } = self;
        let mut ping = || {
            let start = Instant::now();
            let delivery = tasks.publish(&Opaque(&[1; PING_BYTES])).expect("it is small");
            assert_eq!(delivery.reached, 1);
            start
        };
        let start = Instant::now();
        if how == ECHO {
            runtime.block_on(async {
                for _ in 0..trips {
                    let start = ping();
                    subscription.recv().await.expect("the bus is there").expect("nothing is lost");
                    each.push(start.elapsed().as_nanos() as u64);
                }
            });
        } else {
            for _ in 0..trips {
                let start = ping();
                subscription.blocking_recv().expect("the bus is there").expect("nothing is lost");
                each.push(start.elapsed().as_nanos() as u64);
            }
        }
        let elapsed = start.elapsed();
        self.procmond.hear();
        elapsed
    }
}

/// A sum over the bytes of an event.
fn sum_of_event(event: &EventRef<'_>, bytes: usize) -> u64 {
    let EventRef::Opaque(payload) = event else { panic!("only bytes are published") };
    assert_eq!(payload.len(), bytes);
    sum(payload)
}

fn sum(payload: &[u8]) -> u64 {
    let (words, _) = payload.as_chunks();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

fn sum_of(bytes: usize) -> u64 {
    sum(&vec![1; bytes])
}

/// No look at an empty ring before it sleeps.
fn asleep() -> WaitPolicy {
    WaitPolicy::default().yields(0)
}

fn procmond(part: &Part, policy: WaitPolicy) {
    let runtime = runtime();
    let options = ConnectOptions::new("procmond").path(part.folder.join("bus.sock")).wait_policy(policy);
    let client = runtime.block_on(EventBusClient::connect(options)).expect("the broker is there");
    let mut publisher = runtime.block_on(client.publisher(FROM_PROCMOND)).expect("it is granted");
    let mut tasks = runtime.block_on(client.subscription(&[TO_PROCMOND])).expect("it is granted");
    part.is_ready();
    loop {
        let (what, count) = (part.hear(), part.hear());
        let cpu = cpu_nanos();
        match what {
            SINGLES => publish(part, &mut publisher, count, 1),
            BATCHES => publish(part, &mut publisher, count, BATCH),
            BURST_OF_SINGLES => publish_burst(part, &mut publisher, count, 1),
            BURST_AS_BATCH => publish_burst(part, &mut publisher, count, count),
            STEADY => publish_steadily(&mut publisher, count),
            ECHO => runtime.block_on(echo(&mut publisher, &mut tasks, count)),
            _ => echo_blocking(&mut publisher, &mut tasks, count),
        }
        part.tell(cpu_nanos() - cpu);
    }
}

fn publish(part: &Part, publisher: &mut Publisher, events: u64, at_once: u64) {
    let event = [1; EVENT_BYTES];
    let (mut published, mut consumed) = (0, 0);
    while published < events {
        while published + at_once > consumed + WINDOW {
            consumed = part.hear();
        }
        publish_at_once(publisher, &event, at_once);
        published += at_once;
    }
    while consumed < events {
        consumed = part.hear();
    }
}

fn publish_at_once(publisher: &mut Publisher, event: &[u8], events: u64) {
    let delivery = if events == 1 {
        publisher.publish(&Opaque(event)).expect("it is small")
    } else {
        let mut batch = publisher.batch();
        for _ in 0..events {
            batch.push(&Opaque(event)).expect("it is small");
        }
        batch.publish()
    };
    assert_eq!((delivery.reached, delivery.dropped), (events, 0));
}

fn publish_burst(part: &Part, publisher: &mut Publisher, events: u64, at_once: u64) {
    for _ in 0..events / at_once {
        publish_at_once(publisher, &[1; BURST_BYTES], at_once);
    }
    while part.hear() < events {}
}

fn publish_steadily(publisher: &mut Publisher, events: u64) {
    let start = Instant::now();
    for number in 0..events as u32 {
        std::thread::sleep((number * STEADY_PERIOD).saturating_sub(start.elapsed()));
        publish_at_once(publisher, &[1; BURST_BYTES], 1);
    }
}

async fn echo(publisher: &mut Publisher, tasks: &mut Subscription, trips: u64) {
    for _ in 0..trips {
        tasks.recv().await.expect("the bus is there").expect("nothing is lost");
        publisher.publish(&Opaque(&[1; PING_BYTES])).expect("it is small");
    }
}

fn echo_blocking(publisher: &mut Publisher, tasks: &mut Subscription, trips: u64) {
    for _ in 0..trips {
        tasks.blocking_recv().expect("the bus is there").expect("nothing is lost");
        publisher.publish(&Opaque(&[1; PING_BYTES])).expect("it is small");
    }
}

/// A plain socket between this process and another.
struct Socket {
    reader: BufReader<UnixStream>,
    peer: Peer,
}

impl Socket {
    fn start(folder: &Path) -> Self {
        let listener = UnixListener::bind(folder.join("plain.sock")).expect("the folder is empty");
        let peer = Peer::start("socket peer", folder);
        let (stream, _) = listener.accept().expect("the peer has connected");
        Self { reader: BufReader::with_capacity(SOCKET_BYTES, stream), peer }
    }

    fn order(&mut self, what: u64, count: u64) {
        self.peer.tell(what);
        self.peer.tell(count);
    }

    fn stream(&mut self, how: u64, events: u64) -> Run {
        Run::of(events, || {
            self.order(how, events);
            let mut total = 0_u64;
            let mut event = Vec::new();
            for _ in 0..events {
                let mut length = [0; 4];
                self.reader.read_exact(&mut length).expect("the peer is there");
                event.resize(u32::from_le_bytes(length) as usize, 0);
                self.reader.read_exact(&mut event).expect("the peer is there");
                total = sum(&event).wrapping_add(total);
            }
            assert_eq!(
                total,
                events.wrapping_mul(sum_of(EVENT_BYTES)),
                "what was received is what was written"
            );
            self.peer.hear()
        })
    }

    fn round_trips(&mut self, trips: u64, each: &mut Vec<u64>) -> Duration {
        self.order(ECHO, trips);
        let start = Instant::now();
        for _ in 0..trips {
            let start = Instant::now();
            self.reader.get_mut().write_all(&[1; PING_BYTES]).expect("the peer is there");
            self.reader.read_exact(&mut [0; PING_BYTES]).expect("the peer is there");
            each.push(start.elapsed().as_nanos() as u64);
        }
        let elapsed = start.elapsed();
        self.peer.hear();
        elapsed
    }
}

fn socket_peer(part: &Part) {
    let stream = UnixStream::connect(part.folder.join("plain.sock")).expect("the reader listens");
    let mut writer = BufWriter::with_capacity(SOCKET_BYTES, stream);
    part.is_ready();
    loop {
        let (what, count) = (part.hear(), part.hear());
        let cpu = cpu_nanos();
        for _ in 0..count {
            match what {
                ECHO => {
                    writer.get_mut().read_exact(&mut [0; PING_BYTES]).expect("the reader is there");
                    writer.write_all(&[1; PING_BYTES]).expect("the reader is there");
                }
                _ => {
                    writer.write_all(&(EVENT_BYTES as u32).to_le_bytes()).expect("the reader is there");
                    writer.write_all(&[1; EVENT_BYTES]).expect("the reader is there");
                }
            }
            if what != BATCHES {
                writer.flush().expect("the reader is there");
            }
        }
        writer.flush().expect("the reader is there");
        part.tell(cpu_nanos() - cpu);
    }
}

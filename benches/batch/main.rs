//! The real work: batches of 256 process records from a collector to the agent, each in a process and on a processor of its
//! own, the subscriber reading every field. Against the same records as bincode over a Unix socket, and against what the machine
//! can do: flat over a bare ring, in the same run.
//!
//! The bus: procmond encodes owned records with `push`, the agent, which embeds the broker, reads them by reference. A publisher
//! never waits, so to measure a flow without loss this one keeps a window: it is told what was consumed, over a pipe, and
//! goes no further ahead than [`WINDOW`] batches. The agent pays for telling.
//!
//! The socket: the same records as one frame per batch, in writes of 64 KiB; the kernel holds the writer back. Integers are
//! written with fixed sizes, which bincode decodes faster than its default. The reader decodes to owned records.
//!
//! The bare ring: the same records in the same shape (`flat`), copied in and read in place, nothing judged or counted. Who finds it
//! full or empty spins.
//!
//! Nothing may be lost, and every field must be what was published: both sides' sums over all fields are compared.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/descriptor.rs"]
mod descriptor;

#[path = "../../shm/benches/bare/mod.rs"]
mod bare;

mod flat;

use std::collections::HashMap;
use std::hint::spin_loop;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bare::Bare;
use criterion::{Criterion, Throughput};
use daemoneye_eventbus::{
    ConnectOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBusClient, EventRef, ProcessEvent,
    ProcessEventRef, Subscription,
};
use support::{OWN_PROCESSOR, PEER_PROCESSOR, Part, Peer, Run, cpu_nanos, in_turns, is_trial, pin, runtime};
use tokio::runtime::Runtime;

/// Records of one batch.
const RECORDS: usize = 256;
/// Batches that may be under way: 2 MiB of them, a quarter of a ring.
const WINDOW: u64 = 32;
/// After how many batches the publisher is told.
const CREDIT: u64 = 8;
/// When the first process of a batch started, after 1970.
const START: Duration = Duration::from_secs(1_750_000_000);
/// When some of them had not started yet.
const LATE: Duration = Duration::from_secs(1_750_000_100);
/// The bare ring holds as much as the window.
const BARE_BYTES: usize = 2 << 20;
/// About two microseconds: a reader that polls on the writer's heels costs both of them the cache line.
const PAUSES: u32 = 50;
/// Bytes of one write to a socket, and of one read.
const SOCKET_BYTES: usize = 64 << 10;

const BINCODE: bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Fixint> =
    bincode::config::standard().with_fixed_int_encoding();

fn main() {
    if let Some(part) = Part::assigned() {
        pin(PEER_PROCESSOR);
        match part.name.as_str() {
            "procmond" => procmond(&part),
            "bare" => bare_publisher(&part),
            _ => socket_publisher(&part),
        }
        return;
    }
    pin(OWN_PROCESSOR);
    let mut criterion = support::criterion();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut bus = Bus::start(folder.path());
    let mut socket = Socket::start(folder.path());
    let mut machine = Machine::start(folder.path());
    measure(&mut criterion, "batch/bus", |batches| bus.run(batches));
    measure(&mut criterion, "batch/bare ring", |batches| machine.run(batches));
    measure(&mut criterion, "batch/socket with bincode", |batches| socket.run(batches));
    criterion.final_summary();

    let batches = if is_trial() { 100 } else { 20_000 };
    let [of_bus, of_machine, of_socket] = in_turns(|side| match side {
        0 => bus.run(batches),
        1 => machine.run(batches),
        _ => socket.run(batches / 5),
    });
    of_bus.print("batch: the bus");
    of_machine.print("batch: a bare ring with the same layout");
    of_socket.print("batch: a socket with bincode");
    let of_socket = of_bus.events_per_second / of_socket.events_per_second;
    println!("batch: the bus carries {of_socket:.2} times as many records/s as the socket (must 5, aim 10)");
    let rate = of_bus.events_per_second / of_machine.events_per_second;
    let publisher = of_bus.peer_cpu_nanos / of_machine.peer_cpu_nanos;
    let subscriber = of_bus.own_cpu_nanos / of_machine.own_cpu_nanos;
    println!(
        "batch: bus / bare ring: rate {rate:.2} (must 0.6, aim 0.8); CPU: publisher {publisher:.2}, subscriber {subscriber:.2}"
    );
}

fn measure(criterion: &mut Criterion, name: &str, mut run: impl FnMut(u64) -> Run) {
    let mut group = criterion.benchmark_group("records");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function(name, |bencher| bencher.iter_custom(|batches| run(batches).elapsed));
    group.finish();
}

/// The record with this number: 181 bytes of fields.
fn record(number: u32) -> ProcessEvent {
    let fill = |text: String, bytes: usize| format!("{text:-<bytes$}");
    ProcessEvent {
        pid: number,
        name: fill(format!("worker-{number}"), 12),
        command_line: Some(fill(
            format!("/usr/lib/service/worker --instance={number} --config=/etc/worker"),
            80,
        )),
        executable_path: Some(fill(format!("/usr/lib/service/worker-{number}"), 40)),
        ppid: Some(number / 7),
        start_time: Some(UNIX_EPOCH + START + Duration::new(u64::from(number), number * 1000)),
        metadata: HashMap::from([
            ("user".into(), "root".into()),
            ("memory_bytes".into(), fill(number.to_string(), 9)),
        ]),
    }
}

fn records() -> Vec<ProcessEvent> {
    (0..).take(RECORDS).map(record).collect()
}

/// A sum over all fields, for which each string is looked at.
fn sum(record: &ProcessEvent) -> u64 {
    let option = |text: &Option<String>| text.as_deref().map_or(0, sum_of_text);
    let pairs = record.metadata.iter().map(|(key, value)| sum_of_text(key) + sum_of_text(value));
    sum_of_numbers(record.pid, record.ppid, record.start_time)
        + sum_of_text(&record.name)
        + option(&record.command_line)
        + option(&record.executable_path)
        + pairs.sum::<u64>()
}

/// The same by reference.
fn sum_of_ref(record: ProcessEventRef<'_>) -> u64 {
    let pairs = record.metadata().map(|(key, value)| sum_of_text(key) + sum_of_text(value));
    sum_of_numbers(record.pid(), record.ppid(), record.start_time())
        + sum_of_text(record.name())
        + record.command_line().map_or(0, sum_of_text)
        + record.executable_path().map_or(0, sum_of_text)
        + pairs.sum::<u64>()
}

/// The same over the bare ring.
fn sum_of_seen(record: &flat::Seen<'_>) -> u64 {
    let pairs = record.metadata().map(|(key, value)| sum_of_bytes(key) + sum_of_bytes(value));
    let late = record.start.is_some_and(|start| start > (LATE.as_secs(), 0));
    u64::from(record.pid)
        + u64::from(record.ppid.unwrap_or_default())
        + u64::from(late)
        + sum_of_bytes(record.name)
        + record.command_line.map_or(0, sum_of_bytes)
        + record.executable_path.map_or(0, sum_of_bytes)
        + pairs.sum::<u64>()
}

fn sum_of_numbers(pid: u32, ppid: Option<u32>, start_time: Option<SystemTime>) -> u64 {
    // A comparison reads the whole time. Its distance from 1970 would take longer than all the rest.
    let late = start_time.is_some_and(|time| time > UNIX_EPOCH + LATE);
    u64::from(pid) + u64::from(ppid.unwrap_or_default()) + u64::from(late)
}

/// Both ends of a text are looked at, whose bytes are then in the cache: adding all of them up would cost both sides more
/// than the bus does, and measure that.
fn sum_of_text(text: &str) -> u64 {
    sum_of_bytes(text.as_bytes())
}

fn sum_of_bytes(bytes: &[u8]) -> u64 {
    let end = |byte: Option<&u8>| byte.map_or(0, |byte| u64::from(*byte));
    bytes.len() as u64 + end(bytes.first()) + end(bytes.last())
}

fn sum_of_batch() -> u64 {
    records().iter().map(sum).sum()
}

/// The agent, in this process, and procmond in another.
struct Bus {
    runtime: Runtime,
    subscription: Subscription,
    sum_of_batch: u64,
    procmond: Peer,
    _bus: DaemoneyeEventBus,
}

impl Bus {
    fn start(folder: &Path) -> Self {
        let runtime = runtime();
        let path = folder.join("bus.sock");
        let (bus, subscription) = runtime.block_on(async {
            let broker = DaemoneyeBroker::new(path.to_str().expect("UTF-8")).await.expect("a broker");
            let bus = DaemoneyeEventBus::from_broker(broker).await.expect("it listens");
            let subscription = bus.subscription(&["events.process.#"]).await.expect("the agent may");
            (bus, subscription)
        });
        let procmond = Peer::start("procmond", folder);
        Self { runtime, subscription, sum_of_batch: sum_of_batch(), procmond, _bus: bus }
    }

    fn run(&mut self, batches: u64) -> Run {
        let Self { runtime, subscription, sum_of_batch, procmond, _bus } = self;
        Run::of(batches * RECORDS as u64, || {
            procmond.tell(batches);
            let mut sum = 0;
            runtime.block_on(async {
                for number in 1..=batches {
                    let batch =
                        subscription.recv().await.expect("the bus is there").expect("nothing is lost");
                    assert_eq!(batch.len(), RECORDS);
                    for event in batch.view() {
                        let EventRef::Process(record) = event else { panic!("only processes are published") };
                        sum += sum_of_ref(record);
                    }
                    if number % CREDIT == 0 || number == batches {
                        procmond.tell(number);
                    }
                }
            });
            assert_eq!(sum, *sum_of_batch * batches, "what was received is what was published");
            procmond.hear()
        })
    }
}

fn procmond(part: &Part) {
    let runtime = runtime();
    let options = ConnectOptions::new("procmond").path(part.folder.join("bus.sock"));
    let client = runtime.block_on(EventBusClient::connect(options)).expect("the broker is there");
    let mut publisher = runtime.block_on(client.publisher("events.process.batch")).expect("it is granted");
    let records = records();
    part.is_ready();
    loop {
        let batches = part.hear();
        let cpu = cpu_nanos();
        let mut consumed = 0;
        for number in 0..batches {
            while number - consumed == WINDOW {
                consumed = part.hear();
            }
            let mut batch = publisher.batch();
            for record in &records {
                batch.push(record).expect("it is small");
            }
            let delivery = batch.publish();
            assert_eq!((delivery.reached, delivery.dropped), (RECORDS as u64, 0));
        }
        while consumed < batches {
            consumed = part.hear();
        }
        part.tell(cpu_nanos() - cpu);
    }
}

/// A bare ring to this process from another.
struct Machine {
    ring: Bare,
    sum_of_batch: u64,
    writer: Peer,
}

impl Machine {
    fn start(folder: &Path) -> Self {
        let ring = Bare::create(BARE_BYTES).expect("a ring can be made");
        let mut writer = Peer::start("bare", folder);
        descriptor::hand_over(&mut writer, ring.descriptor());
        Self { ring, sum_of_batch: sum_of_batch(), writer }
    }

    fn run(&mut self, batches: u64) -> Run {
        let Self { ring, sum_of_batch, writer } = self;
        Run::of(batches * RECORDS as u64, || {
            writer.tell(batches);
            let (mut total, mut left) = (0, batches);
            while left > 0 {
                match ring.read(|words| flat::read(words).map(|record| sum_of_seen(&record)).sum::<u64>()) {
                    Some(sum) => {
                        total += sum;
                        left -= 1;
                        ring.release();
                    }
                    None => pause(),
                }
            }
            assert_eq!(total, *sum_of_batch * batches, "what was received is what was written");
            writer.hear()
        })
    }
}

fn pause() {
    for _ in 0..PAUSES {
        spin_loop();
    }
}

fn bare_publisher(part: &Part) {
    let records = records();
    let mut writer = flat::Writer::default();
    part.is_ready();
    let mut ring = Bare::attach(descriptor::take_over(part), BARE_BYTES).expect("a ring can be mapped");
    loop {
        let batches = part.hear();
        assert!(ring.all_read(), "one run is over before the next begins");
        let cpu = cpu_nanos();
        for _ in 0..batches {
            let parts = writer.write(&records);
            while !ring.push(parts) {
                pause();
            }
            ring.publish();
        }
        part.tell(cpu_nanos() - cpu);
    }
}

/// A reader in this process, and a writer in another.
struct Socket {
    reader: BufReader<UnixStream>,
    frame: Vec<u8>,
    sum_of_batch: u64,
    writer: Peer,
}

impl Socket {
    fn start(folder: &Path) -> Self {
        let listener = UnixListener::bind(folder.join("plain.sock")).expect("the folder is empty");
        let writer = Peer::start("writer", folder);
        let (stream, _) = listener.accept().expect("the writer has connected");
        let reader = BufReader::with_capacity(SOCKET_BYTES, stream);
        Self { reader, frame: Vec::new(), sum_of_batch: sum_of_batch(), writer }
    }

    fn run(&mut self, batches: u64) -> Run {
        let Self { reader, frame, sum_of_batch, writer } = self;
        Run::of(batches * RECORDS as u64, || {
            writer.tell(batches);
            let mut total = 0;
            for _ in 0..batches {
                let mut length = [0; 4];
                reader.read_exact(&mut length).expect("the writer is there");
                frame.resize(u32::from_le_bytes(length) as usize, 0);
                reader.read_exact(frame).expect("the writer is there");
                let (records, _): (Vec<ProcessEvent>, usize) =
                    bincode::serde::decode_from_slice(frame, BINCODE).expect("the writer encodes it so");
                assert_eq!(records.len(), RECORDS);
                total += records.iter().map(sum).sum::<u64>();
            }
            assert_eq!(total, *sum_of_batch * batches, "what was received is what was written");
            writer.hear()
        })
    }
}

fn socket_publisher(part: &Part) {
    let stream = UnixStream::connect(part.folder.join("plain.sock")).expect("the reader listens");
    let mut writer = BufWriter::with_capacity(SOCKET_BYTES, stream);
    let records = records();
    let mut frame = Vec::new();
    part.is_ready();
    loop {
        let batches = part.hear();
        let cpu = cpu_nanos();
        for _ in 0..batches {
            frame.clear();
            bincode::serde::encode_into_std_write(&records, &mut frame, BINCODE).expect("it is plain data");
            let length = u32::try_from(frame.len()).expect("it is small");
            writer.write_all(&length.to_le_bytes()).expect("the reader is there");
            writer.write_all(&frame).expect("the reader is there");
        }
        writer.flush().expect("the reader is there");
        part.tell(cpu_nanos() - cpu);
    }
}

//! A subscriber: counts what it receives and what it lost, and how old batches are when it gets them. The agent's and the
//! detector's are the same, but for the process they are in.

use std::time::{Duration, SystemTime};

use daemoneye_eventbus::{
    ClientStatistics, EventRef, ProcessEventRef, ReceivedBatch, RecvError, Subscription,
};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::conductor::Conductor;
use super::effort::OwnEffort;
use super::failure::Failure;
use super::message::{Latency, Message, Order, Received, Seen};

pub(crate) const PATTERN: &str = "events.process.#";

/// How long a subscriber waits for events that were published before.
pub(crate) const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// The newest processes of a line.
const NEWEST: usize = 3;

/// Characters of what a process says of itself that are worth sending on.
const TEXT_CHARS_MAX: usize = 256;

/// The longest latency that is told apart from a longer one.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

/// Receives until the demo is over.
pub(crate) async fn run(
    mut subscription: Subscription,
    statistics: impl Fn() -> ClientStatistics,
    conductor: &mut Conductor,
) -> Result<(), Failure> {
    let mut meter = Meter::begin(statistics)?;
    conductor.tell(Message::Ready);
    let mut settling: Option<(u64, Instant)> = None;
    loop {
        if settling.is_some_and(|(published, _)| meter.accounted() >= published) {
            settling = None;
            conductor.tell(Message::Settled { received: meter.received() });
        }
        tokio::select! {
            // Under full load there is always an event: orders have to come first.
            biased;
            order = conductor.order() => match order {
                Some(Order::Sample { number }) => {
                    let newest = meter.newest.take();
                    conductor.tell(Message::Received { number, received: meter.received(), newest });
                }
                Some(Order::Settle { published }) => {
                    settling = Some((published, Instant::now() + SETTLE_DEADLINE));
                }
                Some(Order::Stop) => {}
                None => return Ok(()),
            },
            () = passed(settling) => {
                settling = None;
                conductor.tell(Message::Settled { received: meter.received() });
            }
            item = subscription.recv() => match item {
                Some(Ok(batch)) => meter.take(&batch),
                Some(Err(RecvError::Lagged(events))) => meter.lost = meter.lost.saturating_add(events),
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::StreamEnded),
            },
        }
    }
}

/// Resolves when a subscriber that settles has waited for long enough. Cancel-safe.
async fn passed(settling: Option<(u64, Instant)>) {
    match settling {
        Some((_, deadline)) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct Meter<F> {
    statistics: F,
    events: u64,
    lost: u64,
    batches: u64,
    text_bytes: u64,
    /// In nanoseconds: of the time since the last sample, and of the time before.
    latency: Histogram<u64>,
    latency_before: Histogram<u64>,
    ring_bytes: u64,
    newest: Newest,
    effort: OwnEffort,
}

impl<F: Fn() -> ClientStatistics> Meter<F> {
    fn begin(statistics: F) -> Result<Self, Failure> {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).expect("bounds that can be");
        Ok(Self {
            statistics,
            events: 0,
            lost: 0,
            batches: 0,
            text_bytes: 0,
            latency: histogram.clone(),
            latency_before: histogram,
            ring_bytes: 0,
            newest: Newest::default(),
            effort: OwnEffort::begin()?,
        })
    }

    fn accounted(&self) -> u64 {
        self.events.saturating_add(self.lost)
    }

    fn take(&mut self, batch: &ReceivedBatch) {
        self.latency.saturating_record(u64::try_from(batch.age().as_nanos()).unwrap_or(LATENCY_NANOS_MAX));
        self.batches += 1;
        self.events += batch.len() as u64;
        for event in batch.view() {
            if let EventRef::Process(process) = event {
                self.text_bytes += text_bytes(&process);
                self.newest.offer(&process);
            }
        }
    }

    fn received(&mut self) -> Received {
        let statistics = (self.statistics)();
        // Rings come and go; what counts is that there were some.
        self.ring_bytes = self.ring_bytes.max(statistics.ring_bytes);
        let latency = quantiles(&self.latency);
        self.latency_before.add(&self.latency).expect("both have the same bounds");
        self.latency.reset();
        Received {
            events: self.events,
            lost: self.lost,
            batches: self.batches,
            text_bytes: self.text_bytes,
            wakeups: statistics.wakeups,
            ring_bytes: self.ring_bytes,
            ring_bytes_waiting: statistics.ring_bytes_waiting,
            ring_bytes_waiting_max: statistics.ring_bytes_waiting_max,
            latency,
            latency_overall: quantiles(&self.latency_before),
            effort: self.effort.so_far(),
        }
    }
}

fn quantiles(nanos: &Histogram<u64>) -> Latency {
    // To a tenth of a microsecond.
    let micros = |nanos: u64| (nanos as f64 / 100.0).round() / 10.0;
    let at = |quantile| micros(nanos.value_at_quantile(quantile));
    Latency { p50: at(0.5), p99: at(0.99), max: micros(nanos.max()) }
}

/// Reads every field of an event, as somebody who receives it would.
fn text_bytes(process: &ProcessEventRef<'_>) -> u64 {
    let own = process.name().len()
        + process.command_line().map_or(0, str::len)
        + process.executable_path().map_or(0, str::len);
    let pairs: usize = process.metadata().map(|(key, value)| key.len() + value.len()).sum();
    (own + pairs) as u64
}

/// The processes that started last, of those that were seen since it was last asked.
#[derive(Debug, Default)]
struct Newest(Vec<((SystemTime, u32), Seen)>);

impl Newest {
    fn offer(&mut self, process: &ProcessEventRef<'_>) {
        let Some(started) = process.start_time() else { return };
        let key = (started, process.pid());
        let newest = &mut self.0;
        if newest.len() == NEWEST && newest.last().is_some_and(|(last, _)| key <= *last) {
            return;
        }
        let exited = process.metadata().any(|pair| pair == ("change", "exited"));
        if exited || newest.iter().any(|(known, _)| *known == key) {
            return;
        }
        let text = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect();
        let command_line = text(process.command_line().unwrap_or_default());
        newest.push((key, Seen { pid: process.pid(), name: text(process.name()), command_line }));
        newest.sort_by(|(a, _), (b, _)| b.cmp(a));
        newest.truncate(NEWEST);
    }

    fn take(&mut self) -> Vec<Seen> {
        self.0.drain(..).map(|(_, seen)| seen).collect()
    }
}

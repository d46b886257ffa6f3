//! The collector: procmond, as a demo has it.

use std::path::Path;
use std::time::Duration;

use daemoneye_eventbus::{ConnectOptions, CorrelationMetadata, EventBusClient, ProcessEvent, Publisher};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::conductor::Conductor;
use super::effort::OwnEffort;
use super::failure::Failure;
use super::message::{Message, Order, Published};
use super::scan::{ProcessTable, Scan, changes};
use super::synthetic::{self, Pace};

const SCAN_PERIOD: Duration = Duration::from_secs(1);

/// Publishes until it is told to stop, and stays until the demo is over, so that its rings do.
pub(crate) async fn run(socket: &Path, rate: Option<u64>, conductor: &mut Conductor) -> Result<(), Failure> {
    let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(socket)).await?;
    let batches = procmond.publisher("events.process.batch").await?;
    // Begun before the pace: nobody shall seem faster than asked.
    let effort = OwnEffort::begin()?;
    let source = match rate {
        None => Source::table(procmond.publisher("events.process.lifecycle").await?),
        Some(rate) => Source::synthetic(rate),
    };
    let mut collector = Collector { source, batches, scans: 0, processes: 0, batches_published: 0, effort };
    conductor.tell(Message::Ready);

    let mut disconnected = std::pin::pin!(procmond.disconnected());
    let mut stopped = false;
    loop {
        tokio::select! {
            // At rate 0 a batch is always due: orders have to come first.
            biased;
            order = conductor.order() => match order {
                Some(Order::Sample { number }) => {
                    conductor.tell(Message::Published { number, published: collector.published() });
                }
                Some(Order::Stop) => {
                    stopped = true;
                    conductor.tell(Message::Stopped { published: collector.published() });
                }
                Some(Order::Settle { .. }) => {}
                None => return Ok(()),
            },
            why = &mut disconnected => return Err(why.into()),
            () = collector.due(), if !stopped => collector.publish()?,
        }
    }
}

struct Collector {
    source: Source,
    batches: Publisher,
    scans: u64,
    processes: u64,
    batches_published: u64,
    effort: OwnEffort,
}

enum Source {
    Table(Box<Scanner>),
    Synthetic { pace: Pace, events: Vec<ProcessEvent> },
}

struct Scanner {
    table: ProcessTable,
    ticks: Interval,
    lifecycle: Publisher,
    /// What correlation ids of this run begin with.
    run: uuid::Uuid,
    before: Option<Scan>,
}

impl Source {
    fn table(lifecycle: Publisher) -> Self {
        let mut ticks = tokio::time::interval(SCAN_PERIOD);
        // A machine that was asleep needs no scan of the past.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let run = uuid::Uuid::new_v4();
        Self::Table(Box::new(Scanner { table: ProcessTable::new(), ticks, lifecycle, run, before: None }))
    }

    fn synthetic(rate: u64) -> Self {
        let pace = Pace::new(rate, Instant::now());
        let events = synthetic::events(pace.batch_events);
        Self::Synthetic { pace, events }
    }
}

impl Collector {
    /// Waits until there is something to publish. Cancel-safe.
    async fn due(&mut self) {
        match &mut self.source {
            Source::Table(scanner) => drop(scanner.ticks.tick().await),
            Source::Synthetic { pace, .. } => pace.due().await,
        }
    }

    fn publish(&mut self) -> Result<(), Failure> {
        match &mut self.source {
            Source::Table(scanner) => {
                self.scans += 1;
                self.processes += scanner.publish(&mut self.batches, self.scans)?;
            }
            Source::Synthetic { pace, events } => {
                publish_batch(&mut self.batches, events.iter())?;
                pace.advance(Instant::now());
            }
        }
        self.batches_published += 1;
        Ok(())
    }

    fn published(&mut self) -> Published {
        let batches = self.batches.totals();
        let (lifecycle_events, reached, dropped) = match &self.source {
            Source::Table(scanner) => {
                let lifecycle = scanner.lifecycle.totals();
                (lifecycle.events, lifecycle.reached, lifecycle.dropped)
            }
            Source::Synthetic { .. } => (0, 0, 0),
        };
        Published {
            scans: self.scans,
            processes: self.processes,
            batches: self.batches_published,
            lifecycle_events,
            events: batches.events + lifecycle_events,
            subscribers: batches.subscribers,
            reached: batches.reached + reached,
            dropped: batches.dropped + dropped,
            effort: self.effort.so_far(),
        }
    }
}

impl Scanner {
    /// Publishes the table as it is now, and what has changed since the last time; how many processes there are.
    fn publish(&mut self, batches: &mut Publisher, number: u64) -> Result<u64, Failure> {
        let scan = self.table.scan();
        let correlation = CorrelationMetadata::new(format!("scan-{}-{number}", self.run))
            .with_stage("collection".to_owned())
            .with_sequence(number);
        batches.set_correlation(correlation.clone()).expect("two numbers are a short id");
        self.lifecycle.set_correlation(correlation).expect("it was short");
        publish_batch(batches, scan.values())?;
        for change in self.before.iter().flat_map(|before| changes(before, &scan)) {
            self.lifecycle.publish(&change)?;
        }
        let processes = scan.len() as u64;
        self.before = Some(scan);
        Ok(processes)
    }
}

fn publish_batch<'a>(
    publisher: &mut Publisher,
    events: impl Iterator<Item = &'a ProcessEvent>,
) -> Result<(), Failure> {
    let mut batch = publisher.batch();
    for event in events {
        batch.push(event)?;
    }
    batch.publish();
    Ok(())
}

//! Subscriptions that a role reads, and what came of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemoneye_eventbus::{EventRef, Nothing, ReceivedBatch, RecvError, Subscription};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::DEADLINE;

/// A subscription that is being read.
pub(super) struct Reader {
    tally: Arc<Mutex<Tally>>,
    changed: watch::Receiver<()>,
    way: Way,
}

/// Who reads.
enum Way {
    Task(tokio::task::JoinHandle<()>),
    Thread { stopped: Arc<AtomicBool>, thread: std::thread::JoinHandle<()> },
}

/// Set: all subscriptions are read by threads.
const ALL_BLOCK: &str = "EVENTBUS_TEST_BLOCKING";

/// For how long a thread waits at a time, if it does not for ever: so soon it can be stopped.
const PATIENCE: Duration = Duration::from_millis(20);

/// What came of a subscription.
#[derive(Debug, Default)]
struct Tally {
    received: u64,
    lost: u64,
    batches: u64,
    /// Events that came out of order, or twice.
    disorder: u64,
    /// Events that are missing between others, by their own numbers.
    gaps: BTreeMap<String, u64>,
    /// The number that is due next, by the name of who numbers.
    due: BTreeMap<String, u64>,
    /// Who was heard, in the order of their first events.
    order: Vec<String>,
    errors: Vec<String>,
    ended: bool,
}

impl Reader {
    /// A command may say `slow_us`, the time taken for each batch as by an application that is too slow, and `blocking`: on a thread that
    /// waits `for_ever`, or for a moment at a time, as all do where the environment says so.
    pub(super) fn of(subscription: Subscription, command: &Value) -> Self {
        let pause = Duration::from_micros(command["slow_us"].as_u64().unwrap_or(0));
        let all = std::env::var(ALL_BLOCK).is_ok();
        match command["blocking"].as_str().or(all.then_some("a moment")) {
            Some(how) => Self::start_thread(subscription, pause, how == "for_ever"),
            None => Self::start(subscription, pause),
        }
    }

    fn start(mut subscription: Subscription, pause: Duration) -> Self {
        let (notes, tally, changed) = Notes::new();
        let task = tokio::spawn(async move {
            while let Some(item) = subscription.recv().await {
                notes.take(item, pause);
            }
            notes.end();
        });
        Self { tally, changed, way: Way::Task(task) }
    }

    fn start_thread(mut subscription: Subscription, pause: Duration, for_ever: bool) -> Self {
        let (notes, tally, changed) = Notes::new();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let read = move || {
            while !stop.load(Ordering::Relaxed) {
                let item = if for_ever {
                    Ok(subscription.blocking_recv())
                } else {
                    subscription.blocking_recv_within(PATIENCE)
                };
                match item {
                    Ok(Some(item)) => notes.take(item, pause),
                    Ok(None) => return notes.end(),
                    Err(Nothing) => {}
                }
            }
        };
        Self { tally, changed, way: Way::Thread { stopped, thread: std::thread::spawn(read) } }
    }

    /// Has the subscription end soon.
    pub(super) fn leave(&self) {
        match &self.way {
            Way::Task(task) => task.abort(),
            Way::Thread { stopped, .. } => stopped.store(true, Ordering::Relaxed),
        }
    }

    /// Ends the subscription.
    pub(super) async fn stop(self) {
        self.leave();
        // Whoever was stopped midway has said all that it could.
        match self.way {
            Way::Task(task) => drop(task.await),
            Way::Thread { thread, .. } => drop(tokio::task::spawn_blocking(|| thread.join()).await),
        }
    }

    /// Waits until so many events are received or lost, or the stream has ended.
    pub(super) async fn settle(&self, total: u64) -> Value {
        self.wait(|tally| tally.received.saturating_add(tally.lost) >= total).await;
        self.report()
    }

    /// The names of those who number what was received.
    pub(super) fn tags(&self) -> Value {
        let tally = self.tally.lock().expect("nobody panics with it");
        json!({ "tags": tally.due.keys().collect::<Vec<_>>() })
    }

    /// The same, in the order in which they were heard.
    pub(super) fn order(&self) -> Value {
        json!({ "order": self.tally.lock().expect("nobody panics with it").order })
    }

    /// Waits until `next` is the number that is due next of those that `tag` counts.
    pub(super) async fn due(&self, tag: &str, next: u64) -> Value {
        let due = |tally: &Tally| tally.due.get(tag).copied().unwrap_or(0);
        self.wait(|tally| due(tally) >= next).await;
        json!({ "next": due(&self.tally.lock().expect("nobody panics with it")) })
    }

    /// Waits for a condition, the end of the stream, or the deadline: what is missing then shows in the report.
    async fn wait(&self, enough: impl Fn(&Tally) -> bool) {
        let mut changed = self.changed.clone();
        let done = || {
            let tally = self.tally.lock().expect("nobody panics with it");
            tally.ended || enough(&tally)
        };
        let waiting = async {
            changed.mark_changed();
            while changed.changed().await.is_ok() && !done() {}
        };
        let _ = tokio::time::timeout(DEADLINE / 2, waiting).await;
    }

    pub(super) fn report(&self) -> Value {
        let tally = self.tally.lock().expect("nobody panics with it");
        json!({
            "received": tally.received,
            "lost": tally.lost,
            "batches": tally.batches,
            "disorder": tally.disorder,
            "gaps": tally.gaps.values().sum::<u64>(),
            "gaps_of": tally.gaps,
            "errors": tally.errors,
            "ended": tally.ended,
        })
    }
}

/// What a reader keeps of what it has read.
struct Notes {
    tally: Arc<Mutex<Tally>>,
    tell: watch::Sender<()>,
}

impl Notes {
    fn new() -> (Self, Arc<Mutex<Tally>>, watch::Receiver<()>) {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (tell, changed) = watch::channel(());
        (Self { tally: Arc::clone(&tally), tell }, tally, changed)
    }

    fn take(&self, item: Result<ReceivedBatch, RecvError>, pause: Duration) {
        let mut tally = self.tally.lock().expect("nobody panics with it");
        match item {
            Ok(batch) => {
                std::thread::sleep(pause);
                tally.batches += 1;
                for event in batch.view().iter() {
                    tally.count(&event);
                }
            }
            Err(RecvError::Lagged(events)) => tally.lost = tally.lost.saturating_add(events),
            Err(other) => tally.errors.push(other.to_string()),
        }
        drop(tally);
        self.tell.send_replace(());
    }

    fn end(&self) {
        self.tally.lock().expect("nobody panics with it").ended = true;
        self.tell.send_replace(());
    }
}

impl Tally {
    fn count(&mut self, event: &EventRef<'_>) {
        self.received += 1;
        let EventRef::Process(process) = event else {
            return;
        };
        let index = u64::from(process.pid());
        if !self.due.contains_key(process.name()) {
            self.order.push(process.name().to_owned());
        }
        let due = self.due.entry(process.name().to_owned()).or_insert(0);
        match index.checked_sub(*due) {
            Some(0) => {}
            Some(missing) => *self.gaps.entry(process.name().to_owned()).or_insert(0) += missing,
            None => self.disorder += 1,
        }
        *due = index + 1;
    }
}

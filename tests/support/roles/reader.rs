//! Subscriptions that a role reads, and what came of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemoneye_eventbus::{EventRef, RecvError, Subscription};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::DEADLINE;

/// A subscription that is being read.
pub(super) struct Reader {
    tally: Arc<Mutex<Tally>>,
    changed: watch::Receiver<()>,
    pub(super) task: tokio::task::JoinHandle<()>,
}

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
    /// Takes `pause` for each batch, as an application does that is too slow.
    pub(super) fn start(mut subscription: Subscription, pause: Duration) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (tell, changed) = watch::channel(());
        let shared = Arc::clone(&tally);
        let task = tokio::spawn(async move {
            while let Some(item) = subscription.recv().await {
                let mut tally = shared.lock().expect("nobody panics with it");
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
                tell.send_replace(());
            }
            shared.lock().expect("nobody panics with it").ended = true;
            tell.send_replace(());
        });
        Self { tally, changed, task }
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

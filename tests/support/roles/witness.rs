//! Subscriptions whose whole history is written down, and publishers whose calls are: what the account is judged by.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemoneye_eventbus::{EventRef, ProcessEvent, ReceivedBatch, RecvError, Subscription};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{BusRole, error, event, not_made};

/// A subscription with a reader that can be halted.
pub(super) struct Witness {
    history: Arc<Mutex<History>>,
    reading: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// What came of it, in its order.
#[derive(Debug, Default)]
struct History {
    entries: Vec<Entry>,
    /// Interruptions that are no losses, and events that are not what their topic and publisher say.
    errors: Vec<String>,
    ended: bool,
}

#[derive(Debug)]
enum Entry {
    /// Events of one stream whose numbers follow each other.
    Run {
        stream: u64,
        first: u64,
        count: u64,
    },
    Lost(u64),
}

impl Witness {
    pub(super) fn start(mut subscription: Subscription) -> Self {
        let history = Arc::new(Mutex::new(History::default()));
        let (reading, mut allowed) = watch::channel(true);
        let shared = Arc::clone(&history);
        let task = tokio::spawn(async move {
            while allowed.wait_for(|allowed| *allowed).await.is_ok() {
                let item = tokio::select! {
                    biased;
                    _ = allowed.changed() => continue,
                    item = subscription.recv() => item,
                };
                let mut history = shared.lock().expect("nobody panics with it");
                match item {
                    Some(Ok(batch)) => history.received(&batch),
                    Some(Err(RecvError::Lagged(events))) => history.entries.push(Entry::Lost(events)),
                    Some(Err(other)) => history.errors.push(other.to_string()),
                    None => return history.ended = true,
                }
            }
        });
        Self { history, reading, task }
    }

    fn report(&self) -> Value {
        self.history.lock().expect("nobody panics with it").report()
    }
}

impl History {
    fn received(&mut self, batch: &ReceivedBatch) {
        let source = format!("|{}|{}", batch.publisher(), batch.topic());
        for event in batch.view().iter() {
            let EventRef::Process(process) = event else {
                self.errors.push(format!("an event that is no process's: {event:?}"));
                continue;
            };
            let stream = process.name().strip_suffix(&source).and_then(|stream| stream.parse().ok());
            match stream {
                Some(stream) => self.add(stream, process.pid().into()),
                None => self.errors.push(format!("an event of {} as one of {source}", process.name())),
            }
        }
    }

    fn add(&mut self, of: u64, number: u64) {
        match self.entries.last_mut() {
            Some(Entry::Run { stream, first, count }) if *stream == of && *first + *count == number => {
                *count += 1;
            }
            _ => self.entries.push(Entry::Run { stream: of, first: number, count: 1 }),
        }
    }

    /// Runs as `[stream, first, count]`, losses as `[count]`.
    fn report(&self) -> Value {
        let entries = self.entries.iter().map(|entry| match entry {
            Entry::Run { stream, first, count } => json!([stream, first, count]),
            Entry::Lost(events) => json!([events]),
        });
        json!({ "entries": entries.collect::<Vec<_>>(), "errors": self.errors, "ended": self.ended })
    }
}

impl BusRole {
    /// `halt`: what comes waits; `resume`: it is read; `history`: all so far; `forget`: the same, and the subscription ends.
    pub(super) async fn ask_witness(&mut self, what: &str, name: &str) -> Result<Value, Value> {
        let witness = self.witnesses.get(name).ok_or_else(not_made)?;
        match what {
            "halt" | "resume" => {
                witness.reading.send_replace(what == "resume");
                Ok(json!({}))
            }
            "history" => Ok(witness.report()),
            _ => {
                let mut witness = self.witnesses.remove(name).expect("it was just there");
                witness.task.abort();
                let _ = (&mut witness.task).await;
                Ok(witness.report())
            }
        }
    }

    /// Publishes `calls` times: each time one event, or a batch of `size`. The number that is due next stands in the file
    /// `progress` after each call, whatever becomes of this process then. By the Publisher `name`, or on `topic` by the client.
    pub(super) async fn burst(&mut self, command: &Value) -> Result<Value, Value> {
        let number = |key: &str| command[key].as_u64().expect("the harness says it");
        let tag = command["tag"].as_str().expect("the harness names the stream");
        let path = command["progress"].as_str().expect("the harness names the file");
        let progress = File::options().create(true).truncate(false).write(true).open(path).expect("a folder");
        let (mut next, size) = (number("from"), number("size"));
        for _ in 0..number("calls") {
            let events = (next..next + size).map(|index| padded(tag, index, number("bytes")));
            self.publish_together(command, events.collect()).await?;
            next += size;
            progress.write_all_at(&next.to_le_bytes(), 0).expect("there is room");
            match number("rest_ms") {
                0 => tokio::task::yield_now().await,
                rest => tokio::time::sleep(Duration::from_millis(rest)).await,
            }
        }
        Ok(json!({ "next": next }))
    }

    async fn publish_together(&mut self, command: &Value, events: Vec<ProcessEvent>) -> Result<(), Value> {
        let too_large = |e| error(&e, "TooLarge");
        let Some(name) = command["name"].as_str() else {
            let topic = command["topic"].as_str().expect("without a name there is a topic");
            for event in events {
                let published = self.client().publish(topic, event.into(), None).await;
                published.map_err(|e| error(&e, &format!("{e:?}")))?;
            }
            return Ok(());
        };
        let publisher = self.publishers.get_mut(name).ok_or_else(not_made)?;
        if let [event] = events.as_slice() {
            publisher.publish(event).map_err(too_large)?;
            return Ok(());
        }
        let mut batch = publisher.batch();
        for event in &events {
            batch.push(event).map_err(too_large)?;
        }
        batch.publish();
        Ok(())
    }
}

/// An event with a command line that has so many bytes more than most.
fn padded(tag: &str, index: u64, bytes: u64) -> ProcessEvent {
    let mut event = event(tag, index);
    let padding = "x".repeat(super::size(bytes));
    event.command_line.as_mut().expect("it has one").push_str(&padding);
    event
}

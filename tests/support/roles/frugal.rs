//! Publishing and reading while allocations are counted.

use std::sync::atomic::Ordering;

use daemoneye_eventbus::{EventRef, Opaque, ProcessEvent};
use serde_json::{Value, json};

use super::{BusRole, event, not_made};
use crate::support::{ALLOCATIONS, OWN_ALLOCATIONS};

impl BusRole {
    /// Publishes events that are there already, round by round as the reader acknowledges them, and counts what this thread allocates; the first tenth of the rounds
    /// does not count.
    pub(super) async fn publish_frugally(&mut self, command: &Value) -> Result<Value, Value> {
        let number = |key: &str| command[key].as_u64().expect("a number");
        let events: Vec<ProcessEvent> = (0..number("count")).map(|index| event("frugal", index)).collect();
        let rounds = number("rounds");
        let (mut counted, mut taken) = (0, 0);
        for round in 0..rounds {
            let publisher = self.publishers.get_mut("main").ok_or_else(not_made)?;
            let before = OWN_ALLOCATIONS.get();
            if command["do"] == "batches_frugally" {
                let mut batch = publisher.batch();
                for event in &events {
                    batch.push(event).expect("it is small");
                }
                batch.publish();
            } else {
                for event in &events {
                    publisher.publish(event).expect("it is small");
                }
            }
            if round >= rounds / 10 {
                counted += events.len() as u64;
                taken += OWN_ALLOCATIONS.get() - before;
            }
            self.unread.get_mut("acks").ok_or_else(not_made)?.recv().await;
        }
        let all = rounds * events.len() as u64;
        Ok(json!({ "events": counted, "warm": all - counted, "allocations": taken }))
    }

    /// Reads so many events by reference, acknowledges each `round`, and counts what this process allocates; the first tenth does not count.
    pub(super) async fn read_frugally(&mut self, command: &Value) -> Result<Value, Value> {
        let number = |key: &str| command[key].as_u64().expect("a number");
        let (total, round) = (number("count"), number("round"));
        let subscription = self.unread.get_mut("main").ok_or_else(not_made)?;
        let (mut read, mut sum, mut warm) = (0, 0, None);
        while read < total {
            let batch = subscription.recv().await.expect("the bus is there").expect("nothing is lost");
            for event in batch.view() {
                let EventRef::Process(event) = event else { panic!("there are processes alone") };
                sum += u64::from(event.pid()) + event.name().len() as u64;
            }
            read += batch.len() as u64;
            if read % round == 0 {
                self.publishers
                    .get_mut("acks")
                    .ok_or_else(not_made)?
                    .publish(&Opaque(b""))
                    .expect("it is small");
            }
            if warm.is_none() && read >= total / 10 {
                warm = Some((read, ALLOCATIONS.load(Ordering::Relaxed)));
            }
        }
        let (warm, before) = warm.expect("it was read");
        let taken = ALLOCATIONS.load(Ordering::Relaxed) - before;
        Ok(json!({ "events": read - warm, "warm": warm, "allocations": taken, "sum": sum }))
    }
}

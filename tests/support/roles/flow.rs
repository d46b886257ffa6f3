//! Publishers that wait for room, and that are asked how far their subscribers are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use daemoneye_eventbus::{EventTooLarge, ProcessEvent, Publisher};
use serde_json::{Value, json};

use super::{BusRole, answer, delivery, error, event, not_made};

impl BusRole {
    pub(super) async fn flow(&mut self, command: &Value) -> Result<Value, Value> {
        let text = |key: &str| command[key].as_str().unwrap_or("main");
        let number = |key: &str| command[key].as_u64().unwrap_or(0);
        let patience = Duration::from_millis(number("within_ms"));
        if command["do"] == "losses" {
            let losses = self.unread.get(text("name")).ok_or_else(not_made)?.losses();
            return Ok(json!({ "ring": losses.ring, "queue": losses.queue }));
        }
        let events =
            (number("from")..number("from") + number("count")).map(|index| event(text("tag"), index));
        if command["do"] == "flood" {
            return flood(&events.collect::<Vec<_>>(), &mut self.publishers, patience);
        }
        let publisher = self.publishers.get_mut(text("name")).ok_or_else(not_made)?;
        let too_large = |e: EventTooLarge| error(&e, "TooLarge");
        match command["do"].as_str() {
            Some("batch_within") => {
                let mut batch = publisher.batch();
                for event in events {
                    batch.push(&event).map_err(too_large)?;
                }
                Ok(delivery(batch.publish_within(patience).await))
            }
            Some("held_batch") => {
                let mut batch = publisher.batch();
                for event in events {
                    batch.push(&event).map_err(too_large)?;
                }
                answer(&json!({}));
                let file = std::path::Path::new(text("until"));
                while !file.exists() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(delivery(batch.publish()))
            }
            Some("abandon" | "leak") => {
                let before = publisher.flush(patience).await;
                let mut batch = publisher.batch();
                for event in events {
                    batch.push(&event).map_err(too_large)?;
                }
                if command["do"] == "leak" {
                    std::mem::forget(batch);
                    Ok(json!({}))
                } else {
                    drop(batch);
                    let (published, consumed) = (publisher.published(), publisher.consumed());
                    Ok(json!({ "flushed": before.is_ok(), "published": published, "consumed": consumed }))
                }
            }
            Some("singles_within") => {
                for event in events {
                    publisher.publish_within(&event, patience).await.map_err(too_large)?;
                }
                Ok(delivery(publisher.totals()))
            }
            Some("give_up") => Ok(give_up(publisher, patience).await),
            Some("flush") => {
                let unread = publisher.flush(patience).await.err().map_or(0, |unread| unread.events);
                Ok(json!({ "unread": unread, "consumed": publisher.consumed() }))
            }
            other => panic!("no command {other:?}"),
        }
    }
}

/// Publishes batches as fast as it can for so long, and an anomaly every millisecond, each over a publisher of its own.
fn flood(
    events: &[ProcessEvent],
    publishers: &mut HashMap<String, Publisher>,
    duration: Duration,
) -> Result<Value, Value> {
    let mut take = |name: &str| publishers.remove(name).ok_or_else(not_made);
    let (mut bulk, mut alerts) = (take("bulk")?, take("alerts")?);
    let start = Instant::now();
    let mut published = 0;
    while start.elapsed() < duration {
        let mut batch = bulk.batch();
        for event in events {
            batch.push(event).map_err(|e| error(&e, "TooLarge"))?;
        }
        batch.publish();
        if start.elapsed() >= Duration::from_millis(published) {
            alerts.publish(&event("alert", published)).map_err(|e| error(&e, "TooLarge"))?;
            published += 1;
        }
    }
    Ok(json!({ "alerts": published, "bulk": bulk.published() }))
}

/// Waits for room, and for readers, and gives up both.
async fn give_up(publisher: &mut Publisher, patience: Duration) -> Value {
    let day = Duration::from_secs(24 * 60 * 60);
    let event = event("given up", 0);
    let published = tokio::time::timeout(patience, publisher.publish_within(&event, day)).await;
    let read = tokio::time::timeout(patience, publisher.flush(day)).await;
    json!({ "given_up": [published.is_err(), read.is_err()], "published": publisher.published() })
}

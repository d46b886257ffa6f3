//! Publishing with a correlation that the harness gives whole, by each way there is.

use daemoneye_eventbus::{CorrelationMetadata, EventRef, Opaque};
use serde_json::{Value, json};

use super::raw::in_order;
use super::{Bus, BusRole, error, event, not_made};

impl BusRole {
    /// Commands: `correlate` (one event, or bytes, `by` a way, on `topic`), `read_correlated` (`count` events of a subscription that
    /// nobody reads else).
    pub(super) async fn correlation(&mut self, command: &Value) -> Result<Value, Value> {
        if command["do"] == "read_correlated" {
            return self.read_correlated(command).await;
        }
        let correlation: CorrelationMetadata =
            serde_json::from_value(command["correlation"].clone()).expect("a correlation");
        let by = command["by"].as_str().expect("a way");
        let topic = command["topic"].as_str().expect("a topic");
        let published = match (by, &mut self.bus) {
            ("set" | "push", _) => self.by_publisher(by, correlation),
            ("client", Bus::Client(client)) => {
                let published =
                    client.publish_with_correlation(topic, event("client", 0).into(), &correlation);
                published.await.map_err(|failed| failed.to_string())
            }
            ("trait", Bus::Embedded(bus)) => {
                let published = bus.publish_with_metadata(event("trait", 0).into(), correlation);
                published.await.map_err(|failed| failed.to_string())
            }
            ("topic", Bus::Embedded(bus)) => {
                let published = bus.publish_to_topic(event("topic", 0).into(), topic, correlation);
                published.await.map_err(|failed| failed.to_string())
            }
            ("bytes", Bus::Embedded(bus)) => {
                let published = bus.broker().publish_with_correlation(topic, &correlation, b"bytes".to_vec());
                published.await.map_err(|failed| failed.to_string())
            }
            (by, _) => panic!("this process can't publish by {by}"),
        };
        published.map(|()| json!({})).map_err(|failed| json!({ "error": failed, "kind": "Correlation" }))
    }

    /// What is printed of all that this process has on the bus, with an event in a batch that is not published yet.
    pub(super) fn printed(&mut self, secret: &str) -> Value {
        let mut printed = match &self.bus {
            Bus::Embedded(bus) => format!("{bus:?}"),
            Bus::Client(client) => format!("{client:?}"),
        };
        for publisher in self.publishers.values_mut() {
            let mut batch = publisher.batch();
            batch.push(&event(secret, 0)).expect("it is small");
            batch.push(&Opaque(secret.as_bytes())).expect("it is small");
            printed += &format!("{batch:?}");
            drop(batch);
            printed += &format!("{publisher:?}");
        }
        json!({ "text": printed + &format!("{:?}{:?}", self.unread, self.subscriptions.keys()) })
    }

    /// By `set`: one event. By `push`: one under the publisher's correlation, and one under another, in a batch.
    fn by_publisher(&mut self, by: &str, correlation: CorrelationMetadata) -> Result<(), String> {
        let publisher = self.publishers.get_mut("main").expect("it was declared");
        if by == "set" {
            publisher.set_correlation(correlation).map_err(|failed| failed.to_string())?;
            return publisher.publish(&event("set", 0)).map(drop).map_err(|failed| failed.to_string());
        }
        let mut batch = publisher.batch();
        batch.push(&event("push", 0)).expect("it is small");
        let pushed = batch.push_correlated(&event("push", 1), &correlation);
        batch.publish();
        pushed.map_err(|failed| failed.to_string())
    }

    async fn read_correlated(&mut self, command: &Value) -> Result<Value, Value> {
        let subscription = self.unread.get_mut("main").ok_or_else(not_made)?;
        let mut events = Vec::new();
        while (events.len() as u64) < command["count"].as_u64().expect("a number") {
            let batch =
                subscription.recv().await.expect("the bus is there").map_err(|e| error(&e, "Recv"))?;
            let view = batch.view();
            for (position, event) in view.iter().enumerate() {
                let name = match event {
                    EventRef::Process(event) => json!([event.name(), event.pid()]),
                    _ => Value::Null,
                };
                events.push(json!([name, in_order(&view.correlation_of(position).to_owned())]));
            }
        }
        Ok(json!({ "events": events }))
    }
}

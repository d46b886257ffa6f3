//! Many clients in one process.

use std::path::Path;
use std::sync::Arc;

use daemoneye_eventbus::{ConnectOptions, EventBusClient};
use serde_json::{Value, json};

use super::{BusRole, error, event};
use crate::support::DEADLINE;

impl BusRole {
    /// Connects `count` further clients at once, in turn by each of the `paths`.
    pub(super) async fn join(&mut self, command: &Value) -> Result<Value, Value> {
        let id = command["id"].as_str().expect("an id");
        let paths = command["paths"].as_array().expect("paths").iter().filter_map(Value::as_str).cycle();
        let count = usize::try_from(command["count"].as_u64().expect("a number")).expect("a small one");
        let attempts: Vec<_> = paths
            .take(count)
            .map(|path| ConnectOptions::new(id).path(Path::new(path)).deadline(DEADLINE).comes_back(false))
            .map(|options| tokio::spawn(EventBusClient::connect(options)))
            .collect();
        for attempt in attempts {
            let client = attempt.await.expect("no task panics").map_err(|e| error(&e, "connect"))?;
            self.together.push(Arc::new(client));
        }
        Ok(json!({}))
    }

    /// Has `publishers` of them make a publisher each, named by number, and one event published by each of these, and by each client.
    pub(super) async fn publish_from_each(&mut self, command: &Value) -> Result<Value, Value> {
        let topic = command["topic"].as_str().expect("a topic");
        let count = usize::try_from(command["publishers"].as_u64().expect("a number")).expect("a small one");
        for (number, client) in self.together.iter().enumerate().take(count) {
            let mut publisher = client.publisher(topic).await.map_err(|e| error(&e, "declare"))?;
            publisher.publish(&event(&number.to_string(), 0)).map_err(|e| error(&e, "publish"))?;
            self.publishers.insert(number.to_string(), publisher);
        }
        for (index, client) in (0..).zip(&self.together) {
            let published = client.publish(topic, event("shared", index).into(), None).await;
            published.map_err(|e| error(&e, "publish"))?;
        }
        Ok(json!({}))
    }

    /// Lets go of all of them and of all publishers. The first client stays.
    pub(super) fn part(&mut self) -> Value {
        self.together.clear();
        self.publishers.clear();
        json!({})
    }
}

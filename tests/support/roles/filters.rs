//! Subscriptions with filters, as the agent makes them by the trait, and a client by its own call.

use std::sync::Arc;

use daemoneye_eventbus::{
    BusEvent, CollectionEvent, CorrelationMetadata, EventBus, EventReceiver, EventSubscription,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Bus, BusRole, error, not_made};

/// As the agent has it, or a client.
pub(super) enum Filtered {
    OfAgent(Box<EventReceiver>),
    OfClient(mpsc::Receiver<BusEvent>),
}

impl Filtered {
    async fn recv(&mut self) -> Option<Arc<BusEvent>> {
        match self {
            Self::OfAgent(events) => events.recv().await,
            Self::OfClient(events) => events.recv().await.map(Arc::new),
        }
    }

    /// What else the agent's says of itself, after the last event.
    fn said(&self) -> Value {
        match self {
            Self::OfAgent(events) => json!([events.filtered(), events.lagged(), events.subscriber_id()]),
            Self::OfClient(_) => Value::Null,
        }
    }

    fn matched_pattern(&self) -> Option<String> {
        match self {
            Self::OfAgent(events) => events.matched_pattern().map(ToString::to_string),
            Self::OfClient(_) => None,
        }
    }
}

impl BusRole {
    pub(super) async fn filters(&mut self, command: &Value) -> Result<Value, Value> {
        let text = |key: &str| command[key].as_str().unwrap_or("main").to_owned();
        if command["do"] == "publish_event" {
            let event: CollectionEvent = serde_json::from_value(command["event"].clone()).expect("an event");
            let correlation: CorrelationMetadata =
                serde_json::from_value(command["correlation"].clone()).expect("a correlation");
            let published = self.client().publish_with_correlation(&text("topic"), event, &correlation).await;
            return published.map(|()| json!({})).map_err(|failed| error(&failed, "Publish"));
        }
        match command["do"].as_str() {
            Some("bus_subscribe") => {
                let wanted = command["subscription"].clone();
                let wanted: EventSubscription = serde_json::from_value(wanted).expect("a subscription");
                let id = wanted.subscriber_id.clone();
                let kind = |failed: &_| {
                    error(failed, format!("{failed:?}").split([' ', '(']).next().unwrap_or_default())
                };
                let events = match &mut self.bus {
                    Bus::Embedded(bus) => {
                        bus.subscribe(wanted).await.map(|events| Filtered::OfAgent(Box::new(events)))
                    }
                    Bus::Client(client) => client.subscribe(wanted).await.map(Filtered::OfClient),
                };
                self.filtered.insert(id, events.map_err(|failed| kind(&failed))?);
                Ok(json!({}))
            }
            Some("bus_unsubscribe") => {
                let ended = match &mut self.bus {
                    Bus::Embedded(bus) => bus.unsubscribe(&text("id")).await,
                    Bus::Client(client) => client.unsubscribe(&text("id")).await,
                };
                ended.map(|()| json!({})).map_err(|failed| error(&failed, "NotSubscribed"))
            }
            Some("bus_take") => {
                let events = self.filtered.get_mut(&text("id")).ok_or_else(not_made)?;
                let mut received = Vec::new();
                for _ in 0..command["count"].as_u64().expect("a number") {
                    let event = events.recv().await.expect("the bus is there");
                    received.push(known_by(&event.event));
                }
                Ok(json!({ "received": received }))
            }
            _ => Ok(read(self.filtered.get_mut(&text("id")).ok_or_else(not_made)?).await),
        }
    }
}

/// All that a subscription which was ended has still to say: what each event is known by, and what else it says.
async fn read(events: &mut Filtered) -> Value {
    let (mut received, mut matched) = (Vec::new(), None);
    while let Some(event) = events.recv().await {
        matched = events.matched_pattern();
        received.push(known_by(&event.event));
    }
    json!({ "received": received, "said": events.said(), "matched": matched })
}

/// What an event is known by.
fn known_by(event: &CollectionEvent) -> Value {
    match event {
        CollectionEvent::Process(process) => json!(process.pid),
        CollectionEvent::Network(network) => json!(network.connection_id),
        CollectionEvent::TriggerRequest(trigger) => json!(trigger.request_id),
        other => panic!("nobody publishes {other:?}"),
    }
}

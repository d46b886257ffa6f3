//! Subscriptions with filters, as the agent makes them by the trait.

use daemoneye_eventbus::{CollectionEvent, EventBus, EventReceiver, EventSubscription};
use serde_json::{Value, json};

use super::{Bus, BusRole, error, not_made};

impl BusRole {
    pub(super) async fn filters(&mut self, command: &Value) -> Result<Value, Value> {
        let text = |key: &str| command[key].as_str().unwrap_or("main").to_owned();
        if command["do"] == "publish_event" {
            let event: CollectionEvent = serde_json::from_value(command["event"].clone()).expect("an event");
            let published = self.client().publish(&text("topic"), event, Some(text("correlation"))).await;
            return published.map(|()| json!({})).map_err(|failed| error(&failed, "Publish"));
        }
        let Bus::Embedded(bus) = &mut self.bus else { panic!("only the agent has the bus") };
        match command["do"].as_str() {
            Some("bus_subscribe") => {
                let wanted = command["subscription"].clone();
                let wanted: EventSubscription = serde_json::from_value(wanted).expect("a subscription");
                let id = wanted.subscriber_id.clone();
                let kind = |failed: &_| {
                    error(failed, format!("{failed:?}").split([' ', '(']).next().unwrap_or_default())
                };
                let events = bus.subscribe(wanted).await.map_err(|failed| kind(&failed))?;
                self.filtered.insert(id, events);
                Ok(json!({}))
            }
            Some("bus_unsubscribe") => {
                let ended = bus.unsubscribe(&text("id")).await;
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

/// All that a subscription which was ended has still to say: what each event is known by, and how many were filtered.
async fn read(events: &mut EventReceiver) -> Value {
    let mut received = Vec::new();
    while let Some(event) = events.recv().await {
        received.push(known_by(&event.event));
    }
    json!({ "received": received, "filtered": events.filtered(), "lost": events.lagged() })
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

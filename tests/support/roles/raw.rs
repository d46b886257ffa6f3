//! Messages: bytes that the agent and clients publish and hear.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use daemoneye_eventbus::{
    CollectionEvent, ControlError, CorrelationMetadata, EventBusError, EventRef, Losses, Message,
    MessageReceiver,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use super::{Bus, BusRole, error, not_made, size};

/// What has been subscribed to, by name.
pub(super) type Receivers = HashMap<String, Receiver>;

/// As the agent has it, or a client.
pub(super) enum Receiver {
    OfAgent(UnboundedReceiver<Message>, Uuid),
    OfClient(Box<MessageReceiver>),
}

impl Receiver {
    async fn recv(&mut self) -> Option<Message> {
        match self {
            Self::OfAgent(receiver, _) => receiver.recv().await,
            Self::OfClient(receiver) => receiver.recv().await,
        }
    }
}

impl BusRole {
    pub(super) async fn raw(&mut self, command: &Value) -> Result<Value, Value> {
        let text = |key: &str| command[key].as_str().unwrap_or("main").to_owned();
        let id = Uuid::from_u128(command["id"].as_u64().unwrap_or(0).into());
        let count = command["count"].as_u64().unwrap_or(1);
        match command["do"].as_str() {
            Some("raw_publish") => self.raw_publish(command, count).await,
            Some("publish_control") => {
                let payload = text("payload").into_bytes();
                let published = self.client().publish_control(&text("topic"), payload).await;
                published.map(|()| json!({})).map_err(|failed| error(&failed, control_kind(&failed)))
            }
            Some("subscribe_raw") => {
                let receiver = self.subscribe_raw(&text("pattern"), id).await?;
                self.raw.insert(text("name"), receiver);
                Ok(json!({}))
            }
            Some("unsubscribe_raw") => {
                let ended = self.agent().broker().unsubscribe(id).await;
                ended.map(|()| json!({})).map_err(|failed| error(&failed, &format!("{failed:?}")))
            }
            Some("drop_raw") => {
                self.raw.remove(&text("name")).ok_or_else(not_made)?;
                Ok(json!({}))
            }
            Some("read_raw") => {
                let receiver = self.raw.get_mut(&text("name")).ok_or_else(not_made)?;
                let mut messages = Vec::new();
                while (messages.len() as u64) < count
                    && let Some(message) = receiver.recv().await
                {
                    messages.push(said(&message));
                }
                Ok(json!({ "messages": messages }))
            }
            Some("account_raw") => {
                self.account(&text("name"), command["total"].as_u64().expect("a number")).await
            }
            _ => self.read_opaque(&text("name")).await,
        }
    }

    /// Payloads of `bytes` each, or the one that is given, with a correlation by its id, or `whole`.
    async fn raw_publish(&mut self, command: &Value, count: u64) -> Result<Value, Value> {
        let topic = command["topic"].as_str().expect("a topic");
        let payload = match command["bytes"].as_u64() {
            Some(bytes) => vec![7; size(bytes)],
            None => command["payload"].as_str().unwrap_or_default().as_bytes().to_vec(),
        };
        let broker = self.agent().broker();
        for _ in 0..count {
            let published = match command["correlation"].as_str() {
                Some(id) => broker.publish(topic, id, payload.clone()).await,
                None => broker.publish_with_correlation(topic, &correlation(), payload.clone()).await,
            };
            published.map_err(|failed| error(&failed, &format!("{failed:?}")))?;
        }
        Ok(json!({}))
    }

    async fn subscribe_raw(&mut self, pattern: &str, id: Uuid) -> Result<Receiver, Value> {
        let subscribed = match &self.bus {
            Bus::Embedded(bus) => {
                let receiver = bus.broker().subscribe_raw(pattern, id).await;
                receiver.map(|receiver| Receiver::OfAgent(receiver, id))
            }
            Bus::Client(client) => {
                let receiver = client.subscribe_raw(&[pattern]).await;
                receiver.map(|receiver| Receiver::OfClient(Box::new(receiver))).map_err(EventBusError::from)
            }
        };
        subscribed.map_err(|failed| error(&failed, &format!("{failed:?}")))
    }

    /// Reads until so many messages have come or are lost.
    async fn account(&mut self, name: &str, total: u64) -> Result<Value, Value> {
        let mut receiver = self.raw.remove(name).ok_or_else(not_made)?;
        let (mut received, mut losses) = (0, Losses::default());
        while received + losses.ring + losses.queue < total && receiver.recv().await.is_some() {
            received += 1;
            losses = match &receiver {
                Receiver::OfAgent(_, id) => self.agent().broker().losses(*id).unwrap_or_default(),
                Receiver::OfClient(receiver) => receiver.losses(),
            };
        }
        let lagged = match &receiver {
            Receiver::OfAgent(..) => Value::Null,
            Receiver::OfClient(receiver) => receiver.lagged().into(),
        };
        let lost = losses.ring + losses.queue;
        self.raw.insert(name.to_owned(), receiver);
        Ok(json!({ "received": received, "lost": lost, "lagged": lagged }))
    }

    /// The next opaque event of a subscription that nobody reads else.
    async fn read_opaque(&mut self, name: &str) -> Result<Value, Value> {
        let subscription = self.unread.get_mut(name).ok_or_else(not_made)?;
        loop {
            let Some(Ok(batch)) = subscription.recv().await else { return Err(not_made()) };
            if let Some(EventRef::Opaque(payload)) = batch.view().iter().next() {
                let correlation = batch.view().correlation().to_owned();
                return Ok(json!({
                    "payload": String::from_utf8_lossy(payload),
                    "publisher": batch.publisher().as_str(),
                    "correlation": in_order(&correlation),
                }));
            }
        }
    }
}

fn control_kind(failed: &EventBusError) -> &'static str {
    match failed {
        EventBusError::Control(ControlError::NotControl { .. }) => "NotControl",
        EventBusError::Control(ControlError::Publish(_)) => "Publish",
        EventBusError::Control(ControlError::NoSubscriber { .. }) => "NoSubscriber",
        EventBusError::Control(ControlError::Behind { .. }) => "Behind",
        _ => "another",
    }
}

/// One in which each field has a value of its own.
fn correlation() -> CorrelationMetadata {
    let correlation = CorrelationMetadata::with_parent("hash".into(), "scan".into(), "case".into());
    CorrelationMetadata {
        sequence_number: 7,
        created_at: UNIX_EPOCH - Duration::from_nanos(1),
        ..correlation.with_stage("analysis".into()).with_tag("severity".into(), "high".into())
    }
}

/// All of a correlation, to be compared as text.
pub(super) fn in_order(correlation: &CorrelationMetadata) -> Value {
    let mut tags: Vec<_> = correlation.correlation_tags.iter().collect();
    tags.sort();
    json!([
        correlation.correlation_id,
        correlation.parent_correlation_id,
        correlation.root_correlation_id,
        correlation.sequence_number,
        correlation.workflow_stage,
        tags,
        format!("{:?}", correlation.created_at.duration_since(UNIX_EPOCH)),
    ])
}

fn said(message: &Message) -> Value {
    let event = match CollectionEvent::from_bytes(&message.payload) {
        Ok(CollectionEvent::Process(event)) => json!([event.name, event.pid, event.metadata.len()]),
        _ => Value::Null,
    };
    json!({
        "id": message.id.to_string(),
        "topic": message.topic,
        "payload": String::from_utf8_lossy(&message.payload),
        "event": event,
        "sequence": message.sequence,
        "type": format!("{:?}", message.message_type),
        "correlation_id": message.correlation_metadata.correlation_id,
        "correlation": in_order(&message.correlation_metadata),
        "kept": Message::from_bytes(&message.to_bytes().expect("it is small")).as_ref() == Ok(message),
    })
}

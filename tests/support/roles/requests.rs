//! Requests, and who answers them.

use std::time::Duration;

use daemoneye_eventbus::{RequestError, Responder, Response};
use serde_json::{Value, json};

use super::{Bus, BusRole, error};

impl BusRole {
    /// Asks `count` times at once, and says what came of each, in order.
    pub(super) async fn request(&self, command: &Value) -> Value {
        let topic = command["topic"].as_str().expect("a topic").to_owned();
        let patience = command["patience_ms"].as_u64().map_or(Duration::MAX, Duration::from_millis);
        let asked = (0..command["count"].as_u64().unwrap_or(1)).map(|number| {
            let topic = &topic;
            async move { said(ask(&self.bus, topic, number.to_string().as_bytes(), patience).await) }
        });
        json!({ "answers": futures_util::future::join_all(asked).await })
    }

    /// Asks, and publishes on so many topics meanwhile.
    pub(super) async fn request_beside_topics(&mut self, command: &Value) -> Value {
        let Bus::Embedded(bus) = &self.bus else { panic!("only the agent does that") };
        let beside = async {
            for number in 0..command["topics"].as_u64().expect("a number") {
                let topic = format!("control.rpc.response.client-{number}");
                bus.broker().publish(&topic, "beside", Vec::new()).await.expect("the agent may");
            }
        };
        tokio::join!(self.request(command), beside).0
    }

    /// Begins a request and gives it up before it can be answered, so many times.
    pub(super) async fn give_up(&self, command: &Value) -> Value {
        let topic = command["topic"].as_str().expect("a topic");
        for number in 0..command["count"].as_u64().expect("a number") {
            let payload = number.to_string();
            let asking = ask(&self.bus, topic, payload.as_bytes(), Duration::from_secs(60));
            // It is polled, and so under way, before the other is.
            tokio::select! {
                biased;
                _ = asking => {}
                () = tokio::task::yield_now() => {}
            }
        }
        json!({})
    }

    /// Answers requests on a topic with what they ask, doubled; `silent`: hears them and does not.
    pub(super) async fn respond(&self, command: &Value) -> Result<Value, Value> {
        let topic = command["topic"].as_str().expect("a topic");
        let responder = match &self.bus {
            Bus::Embedded(bus) => bus.responder(&[topic]).await,
            Bus::Client(client) => client.responder(&[topic]).await,
        };
        let responder = responder.map_err(|e| error(&e, &format!("{e:?}")))?;
        tokio::spawn(answer(responder, command["silent"] == true));
        Ok(json!({}))
    }
}

fn said(answer: Result<Response, RequestError>) -> Value {
    match answer {
        Ok(Response { from, payload, .. }) => {
            json!({"from": from.as_str(), "payload": String::from_utf8_lossy(&payload)})
        }
        Err(failed) => {
            let kind = format!("{failed:?}");
            error(&failed, kind.split([' ', '(', '{']).next().unwrap_or_default())
        }
    }
}

async fn ask(bus: &Bus, topic: &str, payload: &[u8], patience: Duration) -> Result<Response, RequestError> {
    match bus {
        Bus::Embedded(bus) => bus.request(topic, payload, patience).await,
        Bus::Client(client) => client.request(topic, payload, patience).await,
    }
}

async fn answer(mut responder: Responder, silent: bool) {
    let mut unanswered = Vec::new();
    while let Some(call) = responder.next().await {
        match call {
            Ok(call) if silent => unanswered.push(call),
            Ok(call) => {
                let doubled = call.payload().repeat(2);
                // Who asked may have given up, and be gone.
                let _ = call.reply(&doubled).await;
            }
            Err(_) => {}
        }
    }
}

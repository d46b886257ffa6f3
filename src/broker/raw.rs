//! Bytes from and to the agent, without a handle but the broker: payloads published as the agent, and subscriptions by an id.

use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use super::{DaemoneyeBroker, StartError};
use crate::batch::Opaque;
use crate::client::{DeclareError, Disconnected, SubscribeError, weighed_messages};
use crate::correlation::CorrelationMetadata;
use crate::dataplane::Losses;
use crate::error::{NotSubscribed, Result};
use crate::message::Message;
use crate::wire::Refusal;

/// Why there is no agent in this process.
fn no_agent<E: From<Refusal> + From<Disconnected>>(error: StartError) -> E {
    match error {
        StartError::Refused(refusal) => refusal.into(),
        _ => Disconnected::BrokerGone.into(),
    }
}

impl DaemoneyeBroker {
    /// Publishes bytes as the agent, whatever they are, on any topic that it may publish on; whether somebody hears them or not. Events go
    /// over rings and control over the broker, as all else does, and order holds among all that is published so and by
    /// [`EventBus::publish`](crate::EventBus::publish); but for each 256th topic that was not published on before, or not for long, with
    /// which order begins anew. The broker need not be started. It waits for the broker's thread the first time that a topic is used,
    /// and never for a subscriber. Cancel-safe: given up midway, nothing is published.
    ///
    /// # Errors
    /// [`EventBusError::Publish`](crate::EventBusError::Publish): the topic can't be published on, the payload is too large, or the broker was shut down.
    ///
    /// ```
    /// use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker};
    /// use uuid::Uuid;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // It is not started: processes may yet be given a connection, and this one hears itself.
    /// let broker = DaemoneyeBroker::with_options(BrokerOptions::new("/nowhere/bus.sock"))?;
    /// broker.publish("control.collector.task", "scan-1", b"to nobody".to_vec()).await?;
    ///
    /// let id = Uuid::new_v4();
    /// let mut tasks = broker.subscribe_raw("control.collector.#", id).await?;
    /// broker.publish("control.collector.task", "scan-2", b"look".to_vec()).await?;
    /// let task = tasks.recv().await.expect("the broker is there");
    /// assert_eq!((&task.payload[..], &*task.correlation_metadata.correlation_id), (&b"look"[..], "scan-2"));
    ///
    /// broker.unsubscribe(id).await?;
    /// assert_eq!(tasks.recv().await, None);
    /// assert!(broker.publish("control.#", "scan-3", Vec::new()).await.is_err(), "that is a pattern");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, topic: &str, correlation_id: &str, payload: Vec<u8>) -> Result<()> {
        let correlation = CorrelationMetadata::new(correlation_id.to_owned());
        self.publish_with_correlation(topic, &correlation, payload).await
    }

    /// The same, with a whole correlation. Cancel-safe.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_with_correlation(
        &self,
        topic: &str,
        correlation: &CorrelationMetadata,
        payload: Vec<u8>,
    ) -> Result<()> {
        let agent = self.agent().await.map_err(no_agent::<DeclareError>)?;
        agent.publish(topic, &Opaque(&payload), correlation).await?;
        Ok(())
    }

    /// Subscribes the agent to all topics that match the pattern, as messages. `id` is the caller's, to
    /// [end](Self::unsubscribe) it by; to drop the receiver ends it, too. Once this returns, whatever is published is delivered or counted as
    /// lost. The broker need not be started. Cancel-safe. There is an example at [`publish`](Self::publish).
    ///
    /// The channel has no bound of its own, but what is behind it has: messages that were not dropped weigh at most
    /// [`BrokerOptions::queue_bytes`](crate::BrokerOptions::queue_bytes) together, as much waits before it, and what comes beyond that is lost and
    /// [counted](Self::losses). Who keeps messages for long keeps their payloads, or clones, which weigh nothing here.
    ///
    /// # Errors
    /// [`SubscribeError::IdTaken`] while another subscription has this id, [`SubscribeError::NoRuntime`] outside tokio; else as
    /// [`EventBusClient::subscription`](crate::EventBusClient::subscription).
    pub async fn subscribe_raw(&self, pattern: &str, id: Uuid) -> Result<UnboundedReceiver<Message>> {
        let reservation = self.raw.reserve(&id.to_string())?;
        let agent = self.agent().await.map_err(no_agent::<SubscribeError>)?;
        let receiver = agent.subscribe_raw(&[pattern], agent.queue_bytes()).await?;
        let (messages, part) = weighed_messages(receiver, agent.queue_bytes())?;
        reservation.take(vec![part]);
        Ok(messages)
    }

    /// What the subscription of this id has lost so far on the way to its receiver; `None` if there is none.
    #[must_use]
    pub fn losses(&self, id: Uuid) -> Option<Losses> {
        self.raw.losses(&id.to_string())
    }

    /// Ends a subscription that was made with this id. Its receiver may read what waits, and then comes to its end; what is published from now
    /// on does not come. The id is free again. Publishers hear of it a moment later. Cancel-safe: it waits for nothing.
    ///
    /// # Errors
    /// [`NotSubscribed`] if there is none; not any more, if its receiver was dropped.
    #[expect(clippy::unused_async, reason = "DaemonEye awaits it")]
    pub async fn unsubscribe(&self, id: Uuid) -> Result<()> {
        let subscriber_id = id.to_string();
        if !self.raw.end(&subscriber_id) {
            return Err(NotSubscribed { subscriber_id }.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::access::Component;
    use crate::broker::{BrokerOptions, TokenTerms};
    use crate::client::{ConnectOptions, ControlError, EventBusClient, PublishError};
    use crate::error::EventBusError;

    /// Long enough for a slow machine; what is waited for takes milliseconds.
    const LONG: Duration = Duration::from_secs(20);
    const TASK: &str = "control.collector.task.procmond";

    fn broker() -> DaemoneyeBroker {
        // It is not started: no path is needed.
        DaemoneyeBroker::with_options(BrokerOptions::new("/nowhere/bus.sock")).expect("a thread")
    }

    async fn next(receiver: &mut UnboundedReceiver<Message>) -> Option<Vec<u8>> {
        let message = tokio::time::timeout(LONG, receiver.recv()).await.expect("it does not wait for ever");
        message.map(|message| message.payload)
    }

    #[tokio::test]
    async fn a_broker_that_was_never_started_publishes_and_hears() {
        let broker = broker();
        broker.publish(TASK, "scan-1", b"to nobody".to_vec()).await.expect("it is no error");
        let procmond = Component::from_client_id("procmond").expect("a legal name");
        let end = broker.socket_pair(&procmond, None).await.expect("descriptors");
        let procmond = EventBusClient::connect(ConnectOptions::from_descriptor("procmond", end)).await;
        let procmond = procmond.expect("the broker is this process");
        let mut tasks = procmond.subscribe_raw(&[TASK]).await.expect("its own");
        let mut status = broker.subscribe_raw("control.health.#", Uuid::nil()).await.expect("the agent may");
        broker.publish(TASK, "scan-1", b"look".to_vec()).await.expect("the agent may");
        let task = tokio::time::timeout(LONG, tasks.recv()).await.expect("it does not wait for ever");
        assert_eq!(task.map(|task| task.payload).as_deref(), Some(&b"look"[..]));
        procmond.publish_control("control.health.status", b"well".to_vec()).await.expect("it is heard");
        assert_eq!(next(&mut status).await.as_deref(), Some(&b"well"[..]));
        broker.unsubscribe(Uuid::nil()).await.expect("it is there");
        let heard =
            async { while procmond.publish_control("control.health.status", Vec::new()).await.is_ok() {} };
        tokio::time::timeout(LONG, heard).await.expect("it hears that nobody is there any more");
        let nobody = procmond.publish_control("control.health.status", Vec::new()).await;
        assert!(
            matches!(nobody, Err(EventBusError::Control(ControlError::NoSubscriber { .. }))),
            "{nobody:?}"
        );
    }

    #[tokio::test]
    async fn a_broker_that_was_shut_down_says_so() {
        let (never, used) = (broker(), broker());
        let mut alerts = used.subscribe_raw("alerts.#", Uuid::nil()).await.expect("the agent may");
        for broker in [&never, &used] {
            broker.shutdown().await.expect("it has no errors");
            let published = broker.publish(TASK, "late", Vec::new()).await;
            assert!(
                matches!(
                    published,
                    Err(EventBusError::Publish(PublishError::Declare(DeclareError::Disconnected(_))))
                ),
                "{published:?}"
            );
            let subscribed = broker.subscribe_raw("alerts.#", Uuid::max()).await;
            let Err(EventBusError::Subscribe(SubscribeError::Disconnected(_))) = subscribed else {
                panic!("{subscribed:?}");
            };
        }
        assert_eq!(next(&mut alerts).await, None);
    }

    #[tokio::test]
    async fn a_broker_whose_agent_is_another_process_publishes_nothing_in_its_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("bus.sock");
        let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path)).expect("a thread");
        broker.start().await.expect("a free path");
        let terms = TokenTerms::new(Component::from_client_id("agent").expect("a legal name"));
        let token = broker.issue_token(terms).await.expect("descriptors");
        let options = ConnectOptions::new("agent").path(&path).token(token);
        let agent = EventBusClient::connect(options).await.expect("it has a token");
        let published = broker.publish("alerts.high", "forged", Vec::new()).await;
        let published = published.expect_err("it is another's name");
        let taken = Refusal::NameTaken { component: "agent".to_owned() };
        assert_eq!(published.refusal(), Some(&taken), "{published:?}");
        drop(agent);
        // The name is free once the broker has noticed.
        let free = async { while broker.publish("alerts.high", "own", Vec::new()).await.is_err() {} };
        tokio::time::timeout(LONG, free).await.expect("the broker's own process may be the agent then");
    }

    #[tokio::test]
    async fn an_id_is_kept_while_the_broker_is_asked_and_free_again_if_that_is_given_up() {
        let broker = broker();
        let id = Uuid::nil();
        let first = broker.raw.reserve(&id.to_string()).expect("it is free");
        let taken = broker.subscribe_raw("alerts.#", id).await;
        assert!(matches!(taken, Err(EventBusError::Subscribe(SubscribeError::IdTaken { .. }))), "{taken:?}");
        assert!(matches!(broker.unsubscribe(id).await, Err(EventBusError::NotSubscribed(_))));
        let taken = broker.subscribe_raw("alerts.#", id).await;
        assert!(
            matches!(taken, Err(EventBusError::Subscribe(SubscribeError::IdTaken { .. }))),
            "it is its asker's yet: {taken:?}"
        );
        drop(first);
        let refused = broker.subscribe_raw("no.rule", id).await;
        assert!(matches!(refused, Err(EventBusError::Subscribe(SubscribeError::Refused(_)))), "{refused:?}");
        let _alerts = broker.subscribe_raw("alerts.#", id).await.expect("it is free");
    }

    #[tokio::test]
    async fn ids_whose_receivers_are_gone_take_no_memory_for_long() {
        let broker = broker();
        for number in 0..100 {
            drop(broker.subscribe_raw("alerts.#", Uuid::from_u128(number)).await.expect("the agent may"));
        }
        assert_eq!(broker.raw.len(), 1);
    }
}

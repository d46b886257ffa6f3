//! Bytes from and to the agent, without a handle but the broker: payloads published as the agent, and subscriptions by an id.

use std::collections::HashMap;

use parking_lot::Mutex;
use uuid::Uuid;

use super::{DaemoneyeBroker, StartError};
use crate::batch::Opaque;
use crate::client::{DeclareError, Disconnected, Ending, MessageReceiver, PublishError, SubscribeError};
use crate::correlation::CorrelationMetadata;
use crate::wire::Refusal;

/// Why a subscription by an id was not made. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RawSubscribeError {
    /// The caller's: a subscription has this id already.
    #[error("{id} subscribes already")]
    IdTaken {
        /// The id.
        id: Uuid,
    },
    /// It can't be subscribed to.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
}

/// Why a subscription was not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsubscribeError {
    /// No subscription has this id; not any more, if its receiver was dropped.
    #[error("{id} does not subscribe")]
    Unknown {
        /// The id.
        id: Uuid,
    },
}

/// The subscriptions that were made by an id. Those whose receivers are gone are forgotten when the next comes.
#[derive(Debug, Default)]
pub(super) struct Receivers(Mutex<HashMap<Uuid, Place>>);

#[derive(Debug)]
enum Place {
    /// The broker is being asked.
    Reserved,
    Taken(Ending),
}

impl Place {
    fn is_free(&self) -> bool {
        matches!(self, Self::Taken(ending) if ending.is_over())
    }
}

/// An id that is somebody's until this is dropped, or the subscription is there.
struct Reservation<'a> {
    receivers: &'a Receivers,
    id: Uuid,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut places = self.receivers.0.lock();
        if let Some(Place::Reserved) = places.get(&self.id) {
            places.remove(&self.id);
        }
    }
}

impl Receivers {
    fn reserve(&self, id: Uuid) -> Result<Reservation<'_>, RawSubscribeError> {
        let mut places = self.0.lock();
        places.retain(|_, place| !place.is_free());
        if places.contains_key(&id) {
            return Err(RawSubscribeError::IdTaken { id });
        }
        places.insert(id, Place::Reserved);
        Ok(Reservation { receivers: self, id })
    }

    /// The subscription of this id, to be ended.
    fn remove(&self, id: Uuid) -> Result<Ending, UnsubscribeError> {
        let mut places = self.0.lock();
        match places.remove(&id) {
            Some(Place::Taken(ending)) if !ending.is_over() => Ok(ending),
            Some(Place::Reserved) => {
                places.insert(id, Place::Reserved);
                Err(UnsubscribeError::Unknown { id })
            }
            Some(Place::Taken(_)) | None => Err(UnsubscribeError::Unknown { id }),
        }
    }
}

impl Reservation<'_> {
    fn take(&self, ending: Ending) {
        self.receivers.0.lock().insert(self.id, Place::Taken(ending));
    }
}

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
    /// [`PublishError`]: the topic can't be published on, the payload is too large, or the broker was shut down.
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
    pub async fn publish(
        &self,
        topic: &str,
        correlation_id: &str,
        payload: Vec<u8>,
    ) -> Result<(), PublishError> {
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
    ) -> Result<(), PublishError> {
        let agent = self.agent().await.map_err(no_agent::<DeclareError>)?;
        agent.publish(topic, &Opaque(&payload), correlation).await?;
        Ok(())
    }

    /// Subscribes the agent to all topics that match the pattern, as messages. `id` is the caller's, to
    /// [end](Self::unsubscribe) it by; to drop the receiver ends it, too. Once this returns, whatever is published is delivered or counted as
    /// lost: see [`MessageReceiver`]. The broker need not be started. Cancel-safe. There is an example at [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`RawSubscribeError::IdTaken`] while another subscription has this id; else as
    /// [`EventBusClient::subscription`](crate::EventBusClient::subscription).
    pub async fn subscribe_raw(&self, pattern: &str, id: Uuid) -> Result<MessageReceiver, RawSubscribeError> {
        let reservation = self.raw.reserve(id)?;
        let agent = self.agent().await.map_err(no_agent::<SubscribeError>)?;
        let receiver = agent.subscribe_raw(&[pattern], agent.queue_bytes()).await?;
        reservation.take(receiver.ending());
        Ok(receiver)
    }

    /// Ends a subscription that was made with this id. Its receiver may read what waits, and then comes to its end; what is published from now
    /// on does not come. The id is free again. Publishers hear of it a moment later. Cancel-safe: it waits for nothing.
    ///
    /// # Errors
    /// [`UnsubscribeError::Unknown`] if there is none.
    #[expect(clippy::unused_async, reason = "DaemonEye awaits it")]
    pub async fn unsubscribe(&self, id: Uuid) -> Result<(), UnsubscribeError> {
        self.raw.remove(id)?.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::access::Component;
    use crate::broker::{BrokerOptions, TokenTerms};
    use crate::client::{ConnectOptions, ControlError, EventBusClient};

    /// Long enough for a slow machine; what is waited for takes milliseconds.
    const LONG: Duration = Duration::from_secs(20);
    const TASK: &str = "control.collector.task.procmond";

    fn broker() -> DaemoneyeBroker {
        // It is not started: no path is needed.
        DaemoneyeBroker::with_options(BrokerOptions::new("/nowhere/bus.sock")).expect("a thread")
    }

    async fn next(receiver: &mut MessageReceiver) -> Option<Vec<u8>> {
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
        assert_eq!(next(&mut tasks).await.as_deref(), Some(&b"look"[..]));
        procmond.publish_control("control.health.status", b"well".to_vec()).await.expect("it is heard");
        assert_eq!(next(&mut status).await.as_deref(), Some(&b"well"[..]));
        broker.unsubscribe(Uuid::nil()).await.expect("it is there");
        let heard =
            async { while procmond.publish_control("control.health.status", Vec::new()).await.is_ok() {} };
        tokio::time::timeout(LONG, heard).await.expect("it hears that nobody is there any more");
        let nobody = procmond.publish_control("control.health.status", Vec::new()).await;
        assert!(matches!(nobody, Err(ControlError::NoSubscriber { .. })), "{nobody:?}");
    }

    #[tokio::test]
    async fn a_broker_that_was_shut_down_says_so() {
        let (never, used) = (broker(), broker());
        let mut alerts = used.subscribe_raw("alerts.#", Uuid::nil()).await.expect("the agent may");
        for broker in [&never, &used] {
            broker.shutdown().await;
            let published = broker.publish(TASK, "late", Vec::new()).await;
            assert!(
                matches!(published, Err(PublishError::Declare(DeclareError::Disconnected(_)))),
                "{published:?}"
            );
            let subscribed = broker.subscribe_raw("alerts.#", Uuid::max()).await;
            let Err(RawSubscribeError::Subscribe(SubscribeError::Disconnected(_))) = subscribed else {
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
        let Err(PublishError::Declare(DeclareError::Refused(Refusal::NameTaken { component }))) = published
        else {
            panic!("{published:?}");
        };
        assert_eq!(component, "agent");
        drop(agent);
        // The name is free once the broker has noticed.
        let free = async { while broker.publish("alerts.high", "own", Vec::new()).await.is_err() {} };
        tokio::time::timeout(LONG, free).await.expect("the broker's own process may be the agent then");
    }

    #[tokio::test]
    async fn an_id_is_kept_while_the_broker_is_asked_and_free_again_if_that_is_given_up() {
        let broker = broker();
        let id = Uuid::nil();
        let first = broker.raw.reserve(id).expect("it is free");
        let taken = broker.subscribe_raw("alerts.#", id).await;
        assert!(matches!(taken, Err(RawSubscribeError::IdTaken { .. })), "{taken:?}");
        assert_eq!(broker.unsubscribe(id).await, Err(UnsubscribeError::Unknown { id }));
        let taken = broker.subscribe_raw("alerts.#", id).await;
        assert!(matches!(taken, Err(RawSubscribeError::IdTaken { .. })), "it is its asker's yet: {taken:?}");
        drop(first);
        let refused = broker.subscribe_raw("no.rule", id).await;
        assert!(matches!(refused, Err(RawSubscribeError::Subscribe(_))), "{refused:?}");
        let _alerts = broker.subscribe_raw("alerts.#", id).await.expect("it is free");
    }

    #[tokio::test]
    async fn ids_whose_receivers_are_gone_take_no_memory_for_long() {
        let broker = broker();
        for number in 0..100 {
            drop(broker.subscribe_raw("alerts.#", Uuid::from_u128(number)).await.expect("the agent may"));
        }
        assert_eq!(broker.raw.0.lock().len(), 1);
    }
}

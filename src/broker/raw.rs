//! Bytes from and to the agent, without a handle but the broker: payloads published as the agent, and subscriptions by an id.

use std::collections::HashMap;

use parking_lot::Mutex;
use uuid::Uuid;

use super::{DaemoneyeBroker, StartError};
use crate::batch::Opaque;
use crate::client::{DeclareError, Disconnected, Ending, MessageReceiver, PublishError, SubscribeError};
use crate::correlation::CorrelationMetadata;

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

/// What is over for a broker that was shut down. Nothing else keeps the agent from its own broker.
fn is_over(_: StartError) -> Disconnected {
    Disconnected::BrokerGone
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
        let agent = self.agent().await.map_err(|error| DeclareError::from(is_over(error)))?;
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
        let agent = self.agent().await.map_err(|error| SubscribeError::from(is_over(error)))?;
        let receiver = agent.subscribe_raw(&[pattern], agent.queue_bytes()).await?;
        reservation.take(receiver.ending());
        Ok(receiver)
    }

    /// Ends a subscription that was made with this id. Its receiver may read what waits, and then comes to its end; what is published from now
    /// on does not come. The id is free again. Cancel-safe: it waits for nothing.
    ///
    /// # Errors
    /// [`UnsubscribeError::Unknown`] if there is none.
    #[expect(clippy::unused_async, reason = "DaemonEye awaits it")]
    pub async fn unsubscribe(&self, id: Uuid) -> Result<(), UnsubscribeError> {
        self.raw.remove(id)?.end();
        Ok(())
    }
}

//! Messages: subscriptions as bytes, whatever they are, and control that somebody has to hear.

use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::events::Interruptions;
use super::subscription::Lease;
use super::{Core, DeclareError, Disconnected, EventBusClient, PublishError, SubscribeError, Subscription};
use crate::batch::Opaque;
use crate::correlation::CorrelationMetadata;
use crate::dataplane::{Losses, ReceivedBatch, RecvError};
use crate::message::Message;

/// Why a control message has reached nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The caller's: control goes over topics of `control.*`.
    #[error("`{topic}` is no control topic")]
    NotControl {
        /// What was asked for.
        topic: String,
    },
    /// It may not, or can't, be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Nobody subscribes to the topic. Nothing is wrong with the session.
    #[error("nobody subscribes to `{topic}`")]
    NoSubscriber {
        /// Where it was published.
        topic: String,
    },
    /// What was sent to those who subscribe to the topic and was not read is too much: the message is lost to all of them. They are told.
    #[error("the subscribers of `{topic}` are too far behind")]
    Behind {
        /// Where it was published.
        topic: String,
    },
}

/// Whether the topic is one of control; those are the broker's to carry.
pub(super) fn is_control(topic: &str) -> bool {
    topic.split('.').next() == Some("control")
}

impl Core {
    /// Publishes bytes on a control topic, and says so if nobody is there.
    pub(crate) async fn publish_control(&self, topic: &str, payload: &[u8]) -> Result<(), ControlError> {
        let named = || topic.to_owned();
        if !is_control(topic) {
            return Err(ControlError::NotControl { topic: named() });
        }
        let delivery = self.publish(topic, &Opaque(payload), &CorrelationMetadata::default()).await?;
        match (delivery.subscribers, delivery.reached) {
            (0, _) => match self.why_nobody() {
                Some(why) => Err(PublishError::from(DeclareError::from(why)).into()),
                None => Err(ControlError::NoSubscriber { topic: named() }),
            },
            (_, 0) => Err(ControlError::Behind { topic: named() }),
            _ => Ok(()),
        }
    }

    /// Why nobody heard what was published: there is no broker.
    pub(super) fn why_nobody(&self) -> Option<Disconnected> {
        self.ground.connection.borrow().why().cloned()
    }

    /// A subscription as messages.
    pub(crate) async fn subscribe_raw(
        &self,
        patterns: &[&str],
        queue_bytes: usize,
    ) -> Result<MessageReceiver, SubscribeError> {
        let options = super::SubscribeOptions::new().of_client(queue_bytes);
        Ok(self.subscription(patterns, options).await?.into_messages())
    }

    /// What may wait for a subscription that does not say so itself.
    pub(crate) fn queue_bytes(&self) -> usize {
        self.ground.queue_bytes
    }
}

impl EventBusClient {
    /// Subscribes to all topics that match one of the patterns, as [messages](Message). Once this returns, whatever is published on them is
    /// delivered or counted as lost. Cancel-safe. There is an example at [`MessageReceiver`].
    ///
    /// # Errors
    /// As [`subscription`](Self::subscription).
    pub async fn subscribe_raw(&self, patterns: &[&str]) -> Result<MessageReceiver, SubscribeError> {
        self.core.subscribe_raw(patterns, self.queue_bytes).await
    }
}

/// A subscription, message by message: opaque payloads as they were published, and typed events as
/// [`CollectionEvent::from_bytes`](crate::CollectionEvent::from_bytes) reads them.
///
/// It holds what the queue of a subscription may hold
/// ([`ConnectOptions::queue_bytes`](crate::ConnectOptions::queue_bytes), [`BrokerOptions::queue_bytes`](crate::BrokerOptions::queue_bytes)), and no more: who does
/// not read loses the newest, and is told how many by [`lagged`](Self::lagged). Dropped, it ends the subscription.
///
/// ```
/// use daemoneye_eventbus::{CollectionEvent, ConnectOptions, EventBusClient, MessageType};
///
/// # use daemoneye_eventbus::ProcessEvent;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
/// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
/// # let bus = DaemoneyeEventBus::from_broker(broker).await?;
/// # let process = |pid| ProcessEvent {
/// #     pid,
/// #     name: "sh".to_string(),
/// #     command_line: None,
/// #     executable_path: None,
/// #     ppid: Some(1),
/// #     start_time: None,
/// #     metadata: std::collections::HashMap::new(),
/// # };
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// let mut tasks = procmond.subscribe_raw(&["control.collector.task.procmond"]).await?;
/// bus.broker().publish("control.collector.task.procmond", "scan-1", b"look".to_vec()).await?;
/// let task = tasks.recv().await.expect("the bus is there");
/// assert_eq!((task.message_type, &task.payload[..]), (MessageType::Control, &b"look"[..]));
/// assert_eq!(task.correlation_metadata.correlation_id, "scan-1");
///
/// let mut events = procmond.subscribe_raw(&["events.process.#"]).await?;
/// procmond.publish("events.process.start", process(1234).into(), None).await?;
/// let event = events.recv().await.expect("the bus is there");
/// assert_eq!(CollectionEvent::from_bytes(&event.payload)?, process(1234).into());
/// assert_eq!((tasks.lagged(), events.lagged()), (0, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MessageReceiver {
    subscription: Subscription,
    /// A batch, and how many of its events were taken.
    batch: Option<(ReceivedBatch, usize)>,
    interruptions: Interruptions,
}

impl MessageReceiver {
    pub(super) fn new(subscription: Subscription) -> Self {
        Self { subscription, batch: None, interruptions: Interruptions::default() }
    }

    /// The next message; `None` at the end: the session is over, or the subscription was
    /// [ended](crate::DaemoneyeBroker::unsubscribe). What was lost before it is added to [`lagged`](Self::lagged). Cancel-safe.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            match std::future::poll_fn(|context| self.poll_recv(context)).await {
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) => {}
                None => return None,
            }
        }
    }

    /// Messages that matched and were lost on their way here, of those between what was read so far; [`losses`](Self::losses) knows of
    /// what is yet to be told, too.
    #[must_use]
    pub const fn lagged(&self) -> u64 {
        self.interruptions.lagged
    }

    /// What was lost so far on the way here, told or yet to be told.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.subscription.losses()
    }

    /// The last publisher that broke its ring, if any has: nothing more comes from it.
    #[must_use]
    pub const fn poisoned(&self) -> Option<&RecvError> {
        self.interruptions.poisoned.as_ref()
    }

    /// How often this process, or a publisher, was away from the bus for a while in which messages did not come here: see
    /// [`RecvError::Away`] and [`RecvError::CutOff`].
    #[must_use]
    pub const fn away(&self) -> u64 {
        self.interruptions.away
    }

    /// What ends it from elsewhere.
    pub(crate) fn ending(&self) -> Ending {
        Ending::of(&self.subscription)
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, RecvError>>> {
        loop {
            if let Some((batch, taken)) = &mut self.batch {
                if let Some(message) = batch.message(*taken) {
                    *taken += 1;
                    return Poll::Ready(Some(Ok(message)));
                }
                self.batch = None;
            }
            match std::task::ready!(self.subscription.poll_recv(context)) {
                Some(Ok(batch)) => self.batch = Some((batch, 0)),
                Some(Err(interruption)) => {
                    self.interruptions.note(&interruption);
                    return Poll::Ready(Some(Err(interruption)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for MessageReceiver {
    type Item = Result<Message, RecvError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(context)
    }
}

/// Ends a subscription that somebody else reads.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    lease: Weak<Lease>,
}

impl Ending {
    pub(super) fn of(subscription: &Subscription) -> Self {
        Self { lease: subscription.lease() }
    }

    /// Whether nobody has the subscription any more.
    pub(crate) fn is_over(&self) -> bool {
        self.lease.strong_count() == 0
    }

    /// What was lost so far; `None` if nobody has it any more.
    pub(super) fn losses(&self) -> Option<Losses> {
        self.lease.upgrade().map(|lease| lease.losses())
    }

    /// Ends it: what waits is read yet, and then comes the end.
    pub(crate) fn end(&self) {
        if let Some(lease) = self.lease.upgrade() {
            lease.end();
        }
    }
}

//! A request on a control topic, and its answer.
//!
//! A request is an opaque event that says of itself that it is one. Its answer goes to `control.rpc.response.` and the name of who asked: the
//! name that the broker knows, not one that stands in the request, so that nobody can have others publish where it may not itself. It
//! is known again by the correlation id, which nobody can guess who has not heard the request.
//!
//! All requests of a session share one subscription to the answers. Of those that wait one reads it for all.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::publisher::deadline_of;
use super::raw::is_control;
use super::session::Command;
use super::{
    Core, Disconnected, EventBusClient, PublishError, SubscribeError, SubscribeOptions, Subscription,
};
use crate::access::Component;
use crate::batch::{EventRef, Opaque};
use crate::config::RESPONDER_CHECK;
use crate::correlation::CorrelationMetadata;
use crate::dataplane::{ReceivedBatch, RecvError};
use crate::hidden::Hidden;
use crate::topic::Topic;

/// The tag of a correlation that makes an event a request.
const REQUEST: &str = "daemoneye.request";

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The caller's: requests are made on topics of `control.*`.
    #[error("`{topic}` is no control topic")]
    NotControl {
        /// What was asked for.
        topic: String,
    },
    /// The request could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The answers can't be subscribed to: this component may not ask.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// Nobody subscribes to the topic.
    #[error("nobody subscribes to `{topic}`")]
    NoSubscriber {
        /// Where it was published.
        topic: String,
    },
    /// What was sent to those who subscribe to the topic and was not read is too much: the request is lost.
    #[error("the subscribers of `{topic}` are too far behind")]
    Behind {
        /// Where it was published.
        topic: String,
    },
    /// Who subscribed to the topic when the request was published does so no longer.
    #[error("who subscribed to `{topic}` is gone, and has not answered")]
    ResponderGone {
        /// Where it was published.
        topic: String,
    },
    /// The answers are not this component's to hear any more: its broker, or another policy, does not grant them. Whether it has asked, and
    /// was answered, is not known.
    #[error("the answers to requests are not granted any more")]
    Withdrawn,
    /// There was no answer in time. It may come yet, and then nobody hears it.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The session is over.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

/// Why an answer could not be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// Who asked is gone, or no longer waits for answers.
    #[error("{component} does not wait for an answer any more")]
    Gone {
        /// Who asked.
        component: Component,
    },
    /// It may not, or can't, be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// The answer to a request. There is an example at [`EventBusClient::request`](crate::EventBusClient::request).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// Who has answered, as the broker knows it.
    pub from: Component,
    /// What it has answered.
    pub payload: Vec<u8>,
}

impl fmt::Debug for Response {
    /// All but the payload, of which it says how long it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = format_args!("{} bytes", self.payload.len());
        f.debug_struct("Response").field("from", &self.from).field("payload", &payload).finish()
    }
}

/// Requests that wait, and what brings their answers.
#[derive(Debug)]
pub(super) struct Answers {
    subscription: tokio::sync::Mutex<Subscription>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Response>>>,
}

/// A request that waits; no longer, when it is dropped.
struct Waiting<'a> {
    answers: &'a Answers,
    id: String,
    answer: oneshot::Receiver<Response>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.answers.waiting.lock().remove(&self.id);
    }
}

impl Answers {
    fn expect(&self) -> Waiting<'_> {
        let (id, (found, answer)) = (uuid::Uuid::new_v4().to_string(), oneshot::channel());
        self.waiting.lock().insert(id.clone(), found);
        Waiting { answers: self, id, answer }
    }

    /// Reads answers, whosesoever they are, until there will be no more. Cancel-safe.
    async fn read(&self) {
        let mut subscription = self.subscription.lock().await;
        while let Some(batch) = subscription.recv().await {
            // What is lost here its request does not hear of in time.
            let Ok(batch) = batch else { continue };
            for (position, event) in batch.view().iter().enumerate() {
                let EventRef::Opaque(payload) = event else { continue };
                let id = batch.view().correlation_of(position).correlation_id().to_owned();
                if let Some(found) = self.waiting.lock().remove(&id) {
                    let response = Response { from: batch.publisher().clone(), payload: payload.to_vec() };
                    // Who has stopped waiting needs no answer.
                    let _ = found.send(response);
                }
            }
        }
    }
}

impl Core {
    /// What brings the answers, as long as it does.
    async fn answers(&self) -> Result<Arc<Answers>, SubscribeError> {
        let mut answers = self.answers.lock().await;
        if let Some(answers) = &*answers {
            return Ok(Arc::clone(answers));
        }
        let topic = response_topic(self.component());
        let options = SubscribeOptions::new().of_client(self.ground.queue_bytes);
        let subscription = self.subscription(&[&topic], options).await?;
        let fresh = Arc::new(Answers { subscription: subscription.into(), waiting: Mutex::default() });
        Ok(Arc::clone(answers.insert(fresh)))
    }

    /// There will be no more of these answers: who asks next begins anew.
    async fn give_up(&self, answers: &Arc<Answers>) -> RequestError {
        let mut current = self.answers.lock().await;
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, answers)) {
            *current = None;
        }
        self.why_nobody().map_or(RequestError::Withdrawn, RequestError::from)
    }

    pub(crate) async fn request(
        &self,
        topic: &str,
        payload: &[u8],
        patience: Duration,
    ) -> Result<Response, RequestError> {
        if !is_control(topic) {
            return Err(RequestError::NotControl { topic: topic.to_owned() });
        }
        tokio::select! {
            biased;
            answer = self.ask(topic, payload) => answer,
            late = self.sleep_until(deadline_of(patience)) => {
                late?;
                Err(RequestError::Timeout(patience))
            }
        }
    }

    /// Asks, and waits for as long as somebody may answer.
    async fn ask(&self, topic: &str, payload: &[u8]) -> Result<Response, RequestError> {
        let named = || topic.to_owned();
        let answers = self.answers().await.map_err(|error| match error {
            SubscribeError::Disconnected(why) => why.into(),
            other => RequestError::Subscribe(other),
        })?;
        let mut waiting = answers.expect();
        let correlation =
            CorrelationMetadata::new(waiting.id.clone()).with_tag(REQUEST.into(), String::new());
        let delivery = self.publish(topic, &Opaque(payload), &correlation).await?;
        if delivery.subscribers == 0 {
            return Err(match self.why_nobody() {
                Some(why) => why.into(),
                None => RequestError::NoSubscriber { topic: named() },
            });
        }
        if delivery.reached == 0 {
            return Err(RequestError::Behind { topic: named() });
        }
        let mut was_nobody = false;
        loop {
            tokio::select! {
                biased;
                answer = &mut waiting.answer => return answer.map_err(|_| Disconnected::BrokerGone.into()),
                () = answers.read() => return Err(self.give_up(&answers).await),
                slept = self.sleep(RESPONDER_CHECK) => slept?,
            }
            let nobody = self.subscribers(topic).await.map_err(PublishError::from)? == 0;
            // Answers come over the broker.
            if let Some(why) = self.why_nobody() {
                return Err(why.into());
            }
            // A broker that is lost has its subscribers forgotten a moment before that is known.
            if nobody && was_nobody {
                return Err(RequestError::ResponderGone { topic: named() });
            }
            was_nobody = nobody;
        }
    }

    async fn sleep_until(&self, deadline: Instant) -> Result<(), Disconnected> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.sleep(left).await?;
        }
    }

    /// Sleeps on the control thread's clock: the application's runtime may have none.
    async fn sleep(&self, longest: Duration) -> Result<(), Disconnected> {
        let (reply, over) = oneshot::channel();
        self.tell(Command::Sleep { longest, reply });
        over.await.unwrap_or(Err(Disconnected::BrokerGone))
    }

    pub(crate) async fn responder(self: &Arc<Self>, patterns: &[&str]) -> Result<Responder, SubscribeError> {
        let options = SubscribeOptions::new().of_client(self.ground.queue_bytes);
        let subscription = self.subscription(patterns, options).await?;
        Ok(Responder { core: Arc::clone(self), subscription, calls: VecDeque::new() })
    }
}

impl EventBusClient {
    /// Asks whoever subscribes to a control topic, and waits for the first answer, for so long at most. Many can be under way at a time.
    /// Cancel-safe: given up, nobody waits for the answer any more; the request may have been published.
    ///
    /// # Errors
    /// [`RequestError`]: nobody is there, or nobody has answered, or this component may not ask.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use daemoneye_eventbus::{ConnectOptions, EventBusClient, RequestError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.sock");
    /// # use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus};
    /// # let broker = DaemoneyeBroker::with_options(BrokerOptions::new(&path))?;
    /// # let agent = DaemoneyeEventBus::from_broker(broker).await?;
    /// let patience = Duration::from_secs(5);
    /// let nobody = agent.request("control.collector.task.procmond", b"scan", patience).await;
    /// assert!(matches!(nobody, Err(RequestError::NoSubscriber { .. })));
    ///
    /// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
    /// let mut requests = procmond.responder(&["control.collector.task.procmond"]).await?;
    /// let answering = async {
    ///     let call = requests.next().await.expect("the bus is there")?;
    ///     assert_eq!((call.from().as_str(), call.payload()), ("agent", &b"scan"[..]));
    ///     Ok::<(), Box<dyn std::error::Error>>(call.reply(b"done").await?)
    /// };
    /// let asking = agent.request("control.collector.task.procmond", b"scan", patience);
    /// let (answered, response) = tokio::join!(answering, asking);
    /// answered?;
    /// assert_eq!(response?.payload, b"done");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn request(
        &self,
        topic: &str,
        payload: &[u8],
        patience: Duration,
    ) -> Result<Response, RequestError> {
        self.core.request(topic, payload, patience).await
    }

    /// Hears the requests on all topics that match one of the patterns. Cancel-safe.
    ///
    /// # Errors
    /// As [`subscription`](Self::subscription).
    pub async fn responder(&self, patterns: &[&str]) -> Result<Responder, SubscribeError> {
        self.core.responder(patterns).await
    }
}

fn response_topic(component: &Component) -> String {
    format!("control.rpc.response.{component}")
}

/// Hears requests, and answers them. There is an example at [`EventBusClient::request`](crate::EventBusClient::request).
///
/// What comes on its topics and is no request it leaves out: that is for a [`Subscription`].
#[derive(Debug)]
pub struct Responder {
    core: Arc<Core>,
    subscription: Subscription,
    calls: VecDeque<Call>,
}

impl Responder {
    /// The next request, or an error between two of them, after which there may be others. `None`: the session is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Call, RecvError>> {
        while self.calls.is_empty() {
            match self.subscription.recv().await? {
                Ok(batch) => self.take(&batch),
                Err(error) => return Some(Err(error)),
            }
        }
        self.calls.pop_front().map(Ok)
    }

    fn take(&mut self, batch: &ReceivedBatch) {
        for (position, event) in batch.view().iter().enumerate() {
            let correlation = batch.view().correlation_of(position);
            let is_request = correlation.correlation_tags().any(|(tag, _)| tag == REQUEST);
            if let (EventRef::Opaque(payload), true) = (event, is_request) {
                self.calls.push_back(Call {
                    core: Arc::clone(&self.core),
                    topic: batch.topic().clone(),
                    from: batch.publisher().clone(),
                    id: correlation.correlation_id().to_owned(),
                    payload: Hidden(payload.to_vec()),
                });
            }
        }
    }
}

/// A request that waits for its answer. Dropped, it is not answered, and who asked waits for its deadline.
#[derive(Debug)]
pub struct Call {
    core: Arc<Core>,
    topic: Topic,
    from: Component,
    id: String,
    payload: Hidden<Vec<u8>>,
}

impl Call {
    /// Where it was published.
    #[must_use]
    pub const fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Who asks, as the broker knows it.
    #[must_use]
    pub const fn from(&self) -> &Component {
        &self.from
    }

    /// What is asked.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Answers. It waits for the broker at the first answer to a component, and never for who asked. Cancel-safe: given up midway, there is
    /// no answer.
    ///
    /// # Errors
    /// [`ReplyError::Gone`] if nobody waits for answers there any more, and [`ReplyError::Publish`] if this component may not answer.
    pub async fn reply(self, payload: &[u8]) -> Result<(), ReplyError> {
        let correlation = CorrelationMetadata::new(self.id);
        let delivery = self.core.publish(&response_topic(&self.from), &Opaque(payload), &correlation).await?;
        match delivery.subscribers {
            0 => Err(ReplyError::Gone { component: self.from }),
            _ => Ok(()),
        }
    }
}

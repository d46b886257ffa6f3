//! Subscribing, event by event: filters, and what came between the events.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::{Ending, Subscription};
use crate::dataplane::{Item, ReceivedBatch, RecvError};
use crate::event::BusEvent;
use crate::filter::Filter;
use crate::topic::TopicPattern;

/// A subscription, event by event: owned events, made once for all subscriptions of this process. Opaque payloads are left out.
///
/// ```
/// use daemoneye_eventbus::{CollectionEvent, Opaque};
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
/// let mut events = bus.subscription(&["events.process.#"]).await?.into_events();
/// let mut publisher = bus.publisher("events.process.batch").await?;
/// publisher.publish(&Opaque(b"only a batch shows it"))?;
/// publisher.publish(&process(1234))?;
///
/// let received = events.recv().await.expect("the bus is there");
/// assert_eq!(received.event, CollectionEvent::Process(process(1234)));
/// assert_eq!((events.left_out(), events.lagged()), (1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventReceiver {
    subscription: Subscription,
    current: Option<Current>,
    left_out: u64,
    filter: Option<Box<Filter>>,
    /// The caller's name for it.
    subscriber_id: Option<String>,
    interruptions: Interruptions,
}

/// A batch that is being read.
#[derive(Debug)]
struct Current {
    batch: ReceivedBatch,
    /// How many of its events were taken.
    taken: usize,
    /// Whether the filter takes what is correlated as the batch is: judged once, for all events without a correlation of their own.
    admits_correlation: bool,
}

/// Events that one poll looks at and may reject, or leave out: two batches. Then others of the runtime have their turn.
const LOOKS_PER_POLL: usize = 1024;

/// What has come between the events of a subscription so far.
#[derive(Debug, Default)]
pub(super) struct Interruptions {
    pub(super) lagged: u64,
    pub(super) poisoned: Option<RecvError>,
    pub(super) away: u64,
}

impl Interruptions {
    pub(super) fn note(&mut self, interruption: &RecvError) {
        match interruption {
            RecvError::Lagged(events) => self.lagged = self.lagged.saturating_add(*events),
            RecvError::Poisoned { .. } => self.poisoned = Some(interruption.clone()),
            RecvError::Away { .. } | RecvError::CutOff { .. } => self.away += 1,
        }
    }
}

impl EventReceiver {
    pub(super) fn of(subscription: Subscription) -> Self {
        let interruptions = Interruptions::default();
        Self { subscription, current: None, left_out: 0, filter: None, subscriber_id: None, interruptions }
    }

    /// The next event; `None` at the end of the stream. What was lost before it is added to [`lagged`](Self::lagged), a
    /// publisher that broke its ring is in [`poisoned`](Self::poisoned).
    /// Cancel-safe.
    pub async fn recv(&mut self) -> Option<Arc<BusEvent>> {
        loop {
            match std::future::poll_fn(|context| self.poll_recv(context)).await {
                Some(Ok(event)) => return Some(event),
                Some(Err(_)) => {}
                None => return None,
            }
        }
    }

    /// The next event, for a thread that has nothing else to do meanwhile; see [`Subscription::blocking_recv`].
    pub fn blocking_recv(&mut self) -> Option<Arc<BusEvent>> {
        loop {
            if let Some(event) = self.next_of_batch(&mut { usize::MAX }) {
                return Some(event);
            }
            let item = self.subscription.blocking_recv()?;
            // It is noted, and can be asked for.
            let _ = self.take_in(item);
        }
    }

    /// Events that matched and were lost on their way here, so far.
    #[must_use]
    pub fn lagged(&self) -> u64 {
        self.interruptions.lagged
    }

    /// Opaque events that were left out, so far: they are read from the batches of a [`Subscription`].
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Events that came here and that the filters of an [`EventSubscription`](crate::EventSubscription) have rejected, so far.
    #[must_use]
    pub fn filtered(&self) -> u64 {
        self.subscription.queue().filtered()
    }

    /// What ends it from elsewhere.
    pub(crate) fn ending(&self) -> Ending {
        Ending::of(&self.subscription)
    }

    pub(super) fn filtered_by(mut self, filter: Filter, subscriber_id: &str) -> Self {
        self.filter = Some(Box::new(filter));
        self.subscriber_id = Some(subscriber_id.to_owned());
        self
    }

    /// The name that an [`EventSubscription`](crate::EventSubscription) gave it; `None` if it was made of a [`Subscription`].
    #[must_use]
    pub fn subscriber_id(&self) -> Option<&str> {
        self.subscriber_id.as_deref()
    }

    /// The first of the patterns that were asked for which the topic of the last event matches; `None` before the first event, and
    /// once the next one is waited for. Where no pattern was named, or it is of control and events alike, it is that of the domain.
    #[must_use]
    pub fn matched_pattern(&self) -> Option<&TopicPattern> {
        let topic = self.current.as_ref()?.batch.topic();
        self.subscription.patterns.iter().find(|pattern| pattern.matches(topic))
    }

    /// The last publisher that broke its ring, if any has: nothing more comes from it.
    #[must_use]
    pub fn poisoned(&self) -> Option<&RecvError> {
        self.interruptions.poisoned.as_ref()
    }

    /// How often this process, or a publisher, was away from the bus for a while in which events did not come here: see [`RecvError::Away`]
    /// and [`RecvError::CutOff`].
    #[must_use]
    pub fn away(&self) -> u64 {
        self.interruptions.away
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Arc<BusEvent>, RecvError>>> {
        let mut looks = LOOKS_PER_POLL;
        loop {
            if let Some(event) = self.next_of_batch(&mut looks) {
                return Poll::Ready(Some(Ok(event)));
            }
            if looks == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match std::task::ready!(self.subscription.poll_recv(context)) {
                Some(item) => {
                    if let Err(error) = self.take_in(item) {
                        return Poll::Ready(Some(Err(error)));
                    }
                    looks -= 1;
                }
                None => return Poll::Ready(None),
            }
        }
    }

    /// The next event of the batch that is here, if it is found by so many looks.
    fn next_of_batch(&mut self, looks: &mut usize) -> Option<Arc<BusEvent>> {
        while let Some(current) = &mut self.current {
            let Current { batch, taken, admits_correlation } = current;
            let position = *taken;
            if position == batch.len() {
                self.current = None;
                break;
            }
            if *looks == 0 {
                break;
            }
            *looks -= 1;
            *taken += 1;
            if let Some(filter) = &self.filter {
                let view = batch.view();
                let own = view.own_correlation_of(position);
                let admits_correlation =
                    own.map_or(*admits_correlation, |own| filter.admits_correlation(&own));
                if !(admits_correlation && filter.admits_event(&view.event(position))) {
                    self.subscription.queue().reject(1);
                    continue;
                }
            }
            match batch.event(position) {
                Some(event) => return Some(event),
                None => self.left_out += 1,
            }
        }
        None
    }

    /// Takes what has come: a batch, or an interruption, which it notes.
    fn take_in(&mut self, item: Item) -> Result<(), RecvError> {
        let batch = item.inspect_err(|error| self.interruptions.note(error))?;
        let (mut admits, mut admits_correlation) = (true, true);
        if let Some(filter) = &self.filter {
            let view = batch.view();
            admits_correlation = filter.admits_correlation(&view.correlation());
            admits = filter.admits_batch(batch.topic(), batch.publisher())
                && (admits_correlation || view.has_own_correlations());
        }
        if admits {
            self.current = Some(Current { batch, taken: 0, admits_correlation });
        } else {
            self.subscription.queue().reject(batch.len() as u64);
        }
        Ok(())
    }
}

impl Stream for EventReceiver {
    type Item = Result<Arc<BusEvent>, RecvError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::batch::Opaque;
    use crate::{
        BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBus, EventFilter, EventSubscription,
    };

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn who_rejects_all_lets_others_have_their_turn() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let broker = DaemoneyeBroker::with_options(BrokerOptions::new(folder.path().join("bus.sock")));
        let mut bus = DaemoneyeEventBus::from_broker(broker.expect("a thread")).await.expect("a free path");
        let wanted = EventSubscription {
            event_filter: Some(EventFilter {
                event_types: vec!["network".to_owned()],
                ..EventFilter::default()
            }),
            topic_patterns: Some(vec!["events.process.batch".to_owned()]),
            ..EventSubscription::default()
        };
        let mut rejecting = bus.subscribe(wanted).await.expect("it is granted");
        let mut all = bus.subscription(&["events.process.batch"]).await.expect("it is granted").into_events();
        let mut publisher = bus.publisher("events.process.batch").await.expect("it is granted");
        let events = 3 * LOOKS_PER_POLL;
        let mut batch = publisher.batch();
        for _ in 0..events {
            batch.push(&Opaque(b"x")).expect("it is small");
        }
        batch.publish();

        for receiver in [&mut rejecting, &mut all] {
            let woken = Arc::new(Woken(AtomicUsize::new(0)));
            let waker = Arc::clone(&woken).into();
            let mut context = Context::from_waker(&waker);
            let seen = |receiver: &EventReceiver| receiver.filtered() + receiver.left_out();
            let mut polls = 0;
            while seen(receiver) < events as u64 {
                assert!(receiver.poll_recv(&mut context).is_pending(), "there is nothing for it");
                polls += 1;
                let looked_at = (polls * LOOKS_PER_POLL) as u64;
                assert!(seen(receiver) <= looked_at, "{} of {looked_at}", seen(receiver));
                assert!(woken.0.load(Ordering::Relaxed) >= polls.min(2), "it goes on by itself");
            }
            assert!(polls >= 3, "{polls}");
        }
    }
}

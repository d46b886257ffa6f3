//! Subscriptions that are read through channels of tokio, and subscriptions that have a name.
//!
//! A task takes what a subscription has and puts it into the channel. It never takes more than the channel may hold, so what is not read stays in the
//! subscription's queue, which loses the newest and counts it when it is full. A channel that has no bound of its own is given one by what it holds:
//! each message in it has its weight of one budget until it is dropped.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::{Ending, EventReceiver, MessageReceiver, SubscribeError};
use crate::config::FEED_LENGTH;
use crate::dataplane::{Losses, RecvError};
use crate::event::BusEvent;
use crate::message::Message;

/// Where the tasks of channels run: on the caller's runtime.
fn runtime() -> Result<Handle, SubscribeError> {
    Handle::try_current().map_err(|_| SubscribeError::NoRuntime)
}

/// What a subscription has, in a channel. `beside` is dropped at its end.
fn channel<S, T, U>(
    from: S,
    owned: fn(T) -> U,
    beside: impl Send + 'static,
) -> Result<(mpsc::Receiver<U>, IsRead), SubscribeError>
where
    S: Stream<Item = Result<T, RecvError>> + Unpin + Send + 'static,
    T: Send + 'static,
    U: Send + 'static,
{
    let (to, receiver) = mpsc::channel(FEED_LENGTH);
    let weak = to.downgrade();
    runtime()?.spawn(async move {
        let _beside = beside;
        let mut from = from;
        // A place first: what is not taken off the subscription is counted there if it is lost.
        while let Ok(place) = to.reserve().await {
            let next = std::future::poll_fn(|context| Pin::new(&mut from).poll_next(context));
            tokio::select! {
                () = to.closed() => break,
                item = next => match item {
                    Some(Ok(item)) => place.send(owned(item)),
                    // It is counted.
                    Some(Err(_)) => {}
                    None => break,
                },
            }
        }
    });
    Ok((receiver, Box::new(move || weak.upgrade().is_some_and(|to| !to.is_closed()))))
}

/// The events of a subscription, in a channel.
pub(crate) fn events(from: EventReceiver) -> Result<(mpsc::Receiver<BusEvent>, Part), SubscribeError> {
    let ending = from.ending();
    let (receiver, is_read) = channel(from, Arc::unwrap_or_clone, ())?;
    Ok((receiver, Part { ending, is_read: Some(is_read) }))
}

/// The messages of a subscription, in a channel, at whose end `beside` is dropped.
pub(crate) fn messages(
    from: MessageReceiver,
    beside: impl Send + 'static,
) -> Result<(mpsc::Receiver<Message>, Part), SubscribeError> {
    let ending = from.ending();
    let (receiver, is_read) = channel(from, |message| message, beside)?;
    Ok((receiver, Part { ending, is_read: Some(is_read) }))
}

/// The messages of a subscription, in a channel without a bound of its own: they are `bytes` together at most, or one.
pub(crate) fn weighed_messages(
    from: MessageReceiver,
    bytes: usize,
) -> Result<(mpsc::UnboundedReceiver<Message>, Part), SubscribeError> {
    let ending = from.ending();
    let (to, receiver) = mpsc::unbounded_channel();
    let weak = to.downgrade();
    let whole = u32::try_from(bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let budget = Arc::new(Semaphore::new(whole as usize));
    runtime()?.spawn(async move {
        let mut from = from;
        loop {
            let message = tokio::select! {
                () = to.closed() => break,
                message = from.recv() => message,
            };
            let Some(message) = message else { break };
            let weight = u32::try_from(message.weight()).unwrap_or(u32::MAX).min(whole);
            let part = tokio::select! {
                () = to.closed() => break,
                part = Arc::clone(&budget).acquire_many_owned(weight) => part,
            };
            let part = part.expect("nobody closes the budget");
            if to.send(message.weighing(part)).is_err() {
                break;
            }
        }
    });
    let is_read: IsRead = Box::new(move || weak.upgrade().is_some_and(|to| !to.is_closed()));
    Ok((receiver, Part { ending, is_read: Some(is_read) }))
}

/// Whether somebody has the other end of a channel yet, and something may come through it.
type IsRead = Box<dyn Fn() -> bool + Send + Sync>;

/// A subscription, or one of several that have a name together.
pub(crate) struct Part {
    ending: Ending,
    is_read: Option<IsRead>,
}

impl Part {
    /// Of one that is read by no channel.
    pub(crate) fn of(ending: Ending) -> Self {
        Self { ending, is_read: None }
    }

    fn is_over(&self) -> bool {
        self.ending.is_over() || self.is_read.as_ref().is_some_and(|is_read| !is_read())
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("ending", &self.ending).finish_non_exhaustive()
    }
}

/// Subscriptions by the names that their owner gave them. Those whose receivers are gone are forgotten when the next comes.
#[derive(Debug, Default)]
pub(crate) struct Named(Mutex<HashMap<String, Place>>);

#[derive(Debug)]
enum Place {
    /// The broker is being asked.
    Reserved,
    Taken(Vec<Part>),
}

impl Place {
    /// What is there yet of the subscription.
    fn endings(&self) -> impl Iterator<Item = &Ending> {
        let parts = match self {
            Self::Taken(parts) => &parts[..],
            Self::Reserved => &[],
        };
        parts.iter().filter(|part| !part.is_over()).map(|part| &part.ending)
    }

    fn is_free(&self) -> bool {
        matches!(self, Self::Taken(_)) && self.endings().next().is_none()
    }
}

impl Named {
    /// Keeps a name for a subscription that is about to be made.
    pub(crate) fn reserve(&self, name: &str) -> Result<Reservation<'_>, SubscribeError> {
        let mut places = self.0.lock();
        places.retain(|_, place| !place.is_free());
        if places.contains_key(name) {
            return Err(SubscribeError::IdTaken { subscriber_id: name.to_owned() });
        }
        places.insert(name.to_owned(), Place::Reserved);
        Ok(Reservation { named: self, name: name.to_owned() })
    }

    /// Ends the subscription of this name; whether there was one.
    pub(crate) fn end(&self, name: &str) -> bool {
        let mut places = self.0.lock();
        let Some(place) = places.get(name) else { return false };
        let endings: Vec<Ending> = place.endings().cloned().collect();
        if endings.is_empty() {
            return false;
        }
        places.remove(name);
        drop(places);
        endings.iter().for_each(Ending::end);
        true
    }

    /// Ends all that are there.
    pub(crate) fn end_all(&self) {
        let places = std::mem::take(&mut *self.0.lock());
        places.values().flat_map(Place::endings).for_each(Ending::end);
    }

    /// What the subscription of this name has lost.
    pub(crate) fn losses(&self, name: &str) -> Option<Losses> {
        let places = self.0.lock();
        let losses = places.get(name)?.endings().filter_map(Ending::losses);
        losses.reduce(|one, other| Losses { ring: one.ring + other.ring, queue: one.queue + other.queue })
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// A name that is somebody's until this is dropped, or the subscription is there.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    named: &'a Named,
    name: String,
}

impl Reservation<'_> {
    /// The subscription is there.
    pub(crate) fn take(&self, parts: Vec<Part>) {
        self.named.0.lock().insert(self.name.clone(), Place::Taken(parts));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut places = self.named.0.lock();
        if let Some(Place::Reserved) = places.get(&self.name) {
            places.remove(&self.name);
        }
    }
}

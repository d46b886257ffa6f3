//! The subscriptions of this process, and which of them a topic is for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Queue, RecvError};
use crate::routing::Trie;
use crate::topic::{Topic, TopicPattern};
use crate::wire::SubscriptionClaim;

/// The queues that one topic is for. A snapshot: see [`Hub::generation`].
pub(crate) type Queues = Arc<[Arc<Queue>]>;

#[derive(Debug)]
pub(crate) struct Hub {
    generation: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    subscriptions: BTreeMap<u32, Subscription>,
    interests: Trie<u32>,
    /// Nothing more will come: a new subscription ends at once.
    ended: bool,
    /// Events that came to subscriptions that are no more, and that their filters had not rejected.
    delivered_before: u64,
}

#[derive(Debug)]
struct Subscription {
    patterns: Vec<TopicPattern>,
    queue: Arc<Queue>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        let state = State {
            subscriptions: BTreeMap::new(),
            interests: Trie::default(),
            ended: false,
            delivered_before: 0,
        };
        Self { generation: AtomicU64::new(1), state: Mutex::new(state) }
    }

    /// Changes with each change of the subscriptions. Who keeps [`targets`](Self::targets) compares it first.
    pub(crate) fn generation(&self) -> u64 {
        // Pairs with the store in `changed`.
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn add(&self, number: u32, patterns: Vec<TopicPattern>, queue: Arc<Queue>) {
        let mut state = self.state.lock();
        if state.ended {
            return queue.end();
        }
        for pattern in &patterns {
            state.interests.insert(pattern, number);
        }
        state.subscriptions.insert(number, Subscription { patterns, queue });
        self.changed();
    }

    /// The routes to a subscription are there: it begins. Yields its queue.
    pub(crate) fn begin(&self, number: u32) -> Option<Arc<Queue>> {
        let queue = self.state.lock().subscriptions.get(&number).map(|known| Arc::clone(&known.queue))?;
        queue.begin();
        Some(queue)
    }

    pub(crate) fn remove(&self, number: u32) {
        let mut state = self.state.lock();
        let Some(subscription) = state.subscriptions.remove(&number) else {
            return;
        };
        state.delivered_before += subscription.queue.delivered();
        for pattern in &subscription.patterns {
            state.interests.remove(pattern, &number);
        }
        self.changed();
        // What waits in the queue is dropped outside the lock: that may run code of others.
        drop(state);
    }

    /// Ends one subscription: nothing more will come to it.
    pub(crate) fn end_one(&self, number: u32) {
        let queue = self.state.lock().subscriptions.get(&number).map(|known| Arc::clone(&known.queue));
        self.remove(number);
        if let Some(queue) = queue {
            queue.end();
        }
    }

    /// Tells all subscriptions of something that came between.
    pub(crate) fn interrupt(&self, error: &RecvError) {
        let state = self.state.lock();
        let queues: Vec<_> = state.subscriptions.values().map(|known| Arc::clone(&known.queue)).collect();
        drop(state);
        for queue in queues {
            queue.interrupt(error.clone());
        }
    }

    /// Whether this subscription is the only one.
    pub(crate) fn is_alone(&self, number: u32) -> bool {
        let state = self.state.lock();
        state.subscriptions.len() == 1 && state.subscriptions.contains_key(&number)
    }

    /// The queues that match `topic` now.
    pub(crate) fn targets(&self, topic: &Topic) -> Queues {
        let state = self.state.lock();
        let numbers = state.interests.matching(topic);
        numbers.iter().map(|number| Arc::clone(&state.subscriptions[number].queue)).collect()
    }

    /// What came of the first so many subscriptions, by number.
    pub(crate) fn claims(&self, max: usize) -> Vec<(u32, SubscriptionClaim)> {
        let state = self.state.lock();
        let subscriptions = state.subscriptions.iter().take(max);
        subscriptions.map(|(number, subscription)| (*number, subscription.queue.claim())).collect()
    }

    /// Events that came to all subscriptions that there are and were, and that their filters have not rejected.
    pub(crate) fn delivered(&self) -> u64 {
        let state = self.state.lock();
        let queues = state.subscriptions.values().map(|subscription| subscription.queue.delivered());
        state.delivered_before + queues.sum::<u64>()
    }

    /// Ends all subscriptions: nothing more will come.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        let ended = std::mem::take(&mut state.subscriptions);
        state.delivered_before += ended.values().map(|known| known.queue.delivered()).sum::<u64>();
        state.interests = Trie::default();
        self.changed();
        drop(state);
        // Outside the lock: a reader that is woken may come back here.
        for subscription in ended.into_values() {
            subscription.queue.end();
        }
    }

    /// To be called with the lock held, after the change.
    fn changed(&self) {
        // Pairs with the load in `generation`.
        self.generation.fetch_add(1, Ordering::Release);
    }
}

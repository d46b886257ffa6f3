//! A client's subscriptions as its session knows them.

use super::super::{Disconnected, SubscribeError, Subscribed};
use super::command::Reply;
use super::{Asked, Session, answer};
use crate::topic::TopicPattern;
use crate::wire::{BEGUN_SINCE, Refusal, Request};

/// One subscription, which is in the hub already.
#[derive(Debug)]
pub(super) struct SubscriptionState {
    patterns: Vec<TopicPattern>,
    ring_bytes: Option<u64>,
    /// The data thread counts it in: had the broker been asked first, an event could come before its queue is known.
    joined: bool,
    /// The broker of this session is asked for it.
    asked: bool,
    /// Who waits for it to begin.
    reply: Option<Reply<Subscribed, SubscribeError>>,
}

impl SubscriptionState {
    /// Whether it was there before, and is not again.
    fn is_missing(&self) -> bool {
        self.reply.is_none()
    }
}

impl Session {
    pub(super) fn begin_subscription(
        &mut self,
        subscription: u32,
        patterns: Vec<TopicPattern>,
        ring_bytes: Option<u64>,
        reply: Reply<Subscribed, SubscribeError>,
    ) {
        let reply = Some(self.in_time(reply, SubscribeError::Timeout));
        let state = SubscriptionState { patterns, ring_bytes, joined: false, asked: false, reply };
        self.subscriptions.insert(subscription, state);
        match &self.inbox {
            Some(inbox) => inbox.join(subscription),
            None => self.joined(subscription),
        }
    }

    pub(super) fn end_subscription(&mut self, subscription: u32) {
        self.refresh();
        if let Some(state) = self.subscriptions.remove(&subscription)
            && state.asked
        {
            self.ask(Request::Unsubscribe { subscription });
        }
        self.came_back(subscription);
    }

    /// The data thread counts the subscription in.
    pub(super) fn joined(&mut self, subscription: u32) {
        if let Some(state) = self.subscriptions.get_mut(&subscription) {
            state.joined = true;
        }
        self.ask_for_subscription(subscription);
    }

    /// Asks the broker, if there is one. What was there before goes first.
    fn ask_for_subscription(&mut self, subscription: u32) {
        let may_ask =
            self.is_connected() && (self.missing.is_empty() || self.missing.contains(&subscription));
        let Some(state) = self.subscriptions.get_mut(&subscription).filter(|state| state.joined) else {
            return;
        };
        if !may_ask || std::mem::replace(&mut state.asked, true) {
            return;
        }
        let patterns = state.patterns.iter().map(TopicPattern::to_string).collect();
        let ring_bytes = state.ring_bytes;
        let request = self.next_request(Asked::Subscribe { subscription });
        self.ask(Request::Subscribe { request, subscription, patterns, ring_bytes });
    }

    pub(super) fn subscribed(&mut self, subscription: u32, result: Result<Subscribed, Refusal>) {
        self.begins |= result.is_ok();
        self.begin_answered(subscription, result);
        let waits = self.asked.values().any(|asked| matches!(asked, Asked::Subscribe { .. }));
        if !waits && self.welcome.version >= BEGUN_SINCE && std::mem::take(&mut self.begins) {
            self.ask(Request::Begun);
        }
    }

    fn begin_answered(&mut self, subscription: u32, result: Result<Subscribed, Refusal>) {
        let Some(state) = self.subscriptions.get_mut(&subscription) else {
            return;
        };
        match (state.reply.take(), result) {
            (Some(reply), Ok(subscribed)) => {
                let queue = self.ground.hub.begin(subscription);
                if let (Some(inbox), Some(queue)) = (&self.inbox, queue) {
                    inbox.begin(queue);
                }
                answer(reply, Ok(subscribed));
            }
            (None, Ok(_)) => {}
            (reply, Err(refusal)) => {
                self.subscriptions.remove(&subscription);
                match reply {
                    Some(reply) => answer(reply, Err(refusal.into())),
                    None => {
                        tracing::warn!(name: "subscription_lost", target: "daemoneye_eventbus::client", %refusal, "a subscription can't be had again: it ends");
                        self.ground.hub.end_one(subscription);
                        self.refresh();
                    }
                }
            }
        }
        self.came_back(subscription);
    }

    /// The broker is gone: the next is to be asked for all of them.
    pub(super) fn lose_subscriptions(&mut self) {
        for state in self.subscriptions.values_mut() {
            state.asked = false;
        }
        self.begins = false;
        let missing = self.subscriptions.iter().filter(|(_, state)| state.is_missing());
        self.missing = missing.map(|(number, _)| *number).collect();
    }

    /// There is another broker.
    pub(super) fn ask_for_subscriptions(&mut self) {
        if self.missing.is_empty() {
            self.ask(Request::Returned);
        }
        self.ask_for_what_may_be();
    }

    fn ask_for_what_may_be(&mut self) {
        let mut all: Vec<u32> = self.subscriptions.keys().copied().collect();
        all.sort_unstable();
        for subscription in all {
            self.ask_for_subscription(subscription);
        }
    }

    /// One that was there before is there again, or not wanted any more. Those that are new had to wait for the last of them.
    fn came_back(&mut self, subscription: u32) {
        if self.missing.remove(&subscription) && self.missing.is_empty() && self.is_connected() {
            self.ask(Request::Returned);
            self.ask_for_what_may_be();
            self.release_rings();
        }
    }

    /// There will be no other broker.
    pub(super) fn end_subscriptions(&mut self, why: &Disconnected) {
        for (_, state) in self.subscriptions.drain() {
            if let Some(reply) = state.reply {
                answer(reply, Err(why.clone().into()));
            }
        }
    }
}

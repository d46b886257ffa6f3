//! Another policy, while the broker runs: what no longer holds is revoked, and what newly holds is granted to those who have asked for
//! it before.
//!
//! A topic that may no longer be published stays declared, since topics have numbers without gaps; it leads nowhere until it may be
//! published again. A subscription keeps what it asked for, and so has more under a policy that gives it more.
//!
//! A reload is over when each route that does not hold is gone, whoever took it back, and each that was asked for by then is active.
//! Publishers have their usual deadline for that, and who does not meet it loses its session.

use std::collections::{BTreeMap, BTreeSet};

use super::routes::{Phase, RouteKey, Wish};
use super::{Action, Machine, Origin, Report, Right, SessionId};
use crate::access::AccessPolicy;
use crate::topic::Topic;
use crate::wire::{GoodbyeReason, PublisherId};

/// A reload that is under way.
#[derive(Debug)]
pub(super) struct Reload {
    change: PolicyChange,
    pub(super) awaiting: BTreeSet<RouteKey>,
}

/// What another policy changed, in routes: each leads one topic of one publisher to one subscribing process.
///
/// There is an example at [`DaemoneyeBroker::reload_policy`](crate::DaemoneyeBroker::reload_policy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PolicyChange {
    /// Routes that no longer hold, and are gone.
    pub revoked: u64,
    /// Routes that newly hold, and are there.
    pub granted: u64,
}

impl<F> Machine<F> {
    /// Puts another policy in force. [`Action::Reloaded`] says with this number when that is done.
    pub(super) fn reload(&mut self, number: u64, policy: AccessPolicy) {
        let before = std::mem::replace(&mut self.settings.policy, policy);
        self.report_declared(&before);
        let entitled = self.entitled();
        let is_wanted = |key: &RouteKey| self.routes.get(key).is_some_and(|route| route.wanted);
        let revoked: Vec<RouteKey> =
            self.routes.keys().filter(|key| is_wanted(key) && !entitled.contains_key(key)).copied().collect();
        let granted: Vec<(RouteKey, u64)> =
            entitled.into_iter().filter(|(key, _)| !is_wanted(key) && !self.is_parted(*key)).collect();
        let mut change = PolicyChange { revoked: revoked.len() as u64, granted: 0 };
        self.report_received(self.lost(&revoked, &before), false);
        for key in revoked {
            self.unwant(key);
        }
        // Also what nobody asks for any more, and what the reload before this one began: publishers may still use it.
        let mut awaiting: BTreeSet<RouteKey> = self.routes.keys().copied().collect();
        let mut gained = BTreeSet::new();
        for (key, ring_bytes) in granted {
            if self.grant_anew(key, ring_bytes) {
                change.granted += 1;
                awaiting.insert(key);
                gained.insert((key.subscriber, self.topic_of(key).to_string()));
            }
        }
        self.report_received(gained, true);
        self.reloads.insert(number, Reload { change, awaiting });
    }

    /// Answers for the reloads that are over. Of the routes that each waits for one is looked at, so that a reload of many does not make
    /// every input take longer.
    pub(super) fn settle_reloads(&mut self) {
        for reload in self.reloads.values_mut() {
            while let Some(first) = reload.awaiting.first() {
                let route = self.routes.get(first);
                if route.is_some_and(|route| route.phase != Phase::Active || !route.wanted) {
                    break;
                }
                reload.awaiting.pop_first();
            }
        }
        let over = self.reloads.extract_if(.., |_, reload| reload.awaiting.is_empty());
        self.actions.extend(over.map(|(number, reload)| Action::Reloaded { number, change: reload.change }));
    }

    /// Whether what this publisher has declared may still be published.
    pub(super) fn may_send(&self, publisher: PublisherId, topic: &Topic) -> bool {
        let component = self.component(self.publishers[&publisher].session);
        self.settings.policy.may_publish(&component, topic).is_ok()
    }

    /// The routes that there should be, and how large a ring each asks for.
    fn entitled(&self) -> BTreeMap<RouteKey, u64> {
        let mut entitled = BTreeMap::new();
        for (id, publisher) in &self.publishers {
            for (topic_number, topic) in (0..).zip(&publisher.topics) {
                if !self.may_send(*id, topic) {
                    continue;
                }
                for (subscriber, ring_bytes) in self.who_asks(topic) {
                    if self.may_receive(subscriber, topic) {
                        let key = RouteKey { publisher: *id, subscriber, topic_number };
                        entitled.insert(key, ring_bytes);
                    }
                }
            }
        }
        entitled
    }

    /// Asks for a route that newly holds; `false` if one of its ends had to go. Who can't have a ring would miss events, and nobody waits
    /// for an answer that could say so. The agent's session can't end: the publisher's does in its place.
    fn grant_anew(&mut self, key: RouteKey, asked_bytes: u64) -> bool {
        let Some(publisher) = self.publishers.get(&key.publisher).map(|publisher| publisher.session) else {
            return false;
        };
        if !self.sessions.contains_key(&key.subscriber) {
            return false;
        }
        let own = self.settings.ring_bytes;
        let wish = |ring_bytes| Wish { key, ring_bytes };
        let afforded = self.afford_subscribe(key.subscriber, &[wish(asked_bytes)]).map(|()| asked_bytes);
        let ring_bytes = afforded.or_else(|refusal| match own < asked_bytes {
            true => self.afford_subscribe(key.subscriber, &[wish(own)]).map(|()| own),
            false => Err(refusal),
        });
        match ring_bytes {
            Ok(ring_bytes) => {
                if ring_bytes < asked_bytes {
                    let cause = "its subscriber's share does not hold more".into();
                    self.report_smaller_ring(publisher, key.subscriber, asked_bytes, cause);
                }
                self.want(wish(ring_bytes));
                true
            }
            Err(refusal) => {
                let embedded = self.sessions[&key.subscriber].origin == Origin::Embedded;
                let gone = if embedded { publisher } else { key.subscriber };
                self.dismiss_unheard(gone, GoodbyeReason::Refused { refusal });
                false
            }
        }
    }

    /// What components may publish no longer, or again, of what they have declared.
    fn report_declared(&mut self, before: &AccessPolicy) {
        let mut changed = BTreeMap::new();
        for (id, publisher) in &self.publishers {
            let component = self.component(publisher.session);
            for topic in &publisher.topics {
                let (was, is) = (before.may_publish(&component, topic).is_ok(), self.may_send(*id, topic));
                if was != is {
                    changed.insert((publisher.session, topic.to_string()), is);
                }
            }
        }
        for ((session, topic), is) in changed {
            self.report_right(session, Right::Publish, topic, is);
        }
    }

    /// The topics that components may no longer receive of these routes.
    fn lost(&self, revoked: &[RouteKey], before: &AccessPolicy) -> BTreeSet<(SessionId, String)> {
        let of_subscriber = |key: &&RouteKey| {
            let topic = self.topic_of(**key);
            let could = before.may_subscribe(&self.component(key.subscriber), topic).is_ok();
            could && !self.may_receive(key.subscriber, topic)
        };
        let lost = revoked.iter().filter(of_subscriber);
        lost.map(|key| (key.subscriber, self.topic_of(*key).to_string())).collect()
    }

    fn report_received(&mut self, topics: BTreeSet<(SessionId, String)>, granted: bool) {
        for (session, topic) in topics {
            if self.sessions.contains_key(&session) {
                self.report_right(session, Right::Subscribe, topic, granted);
            }
        }
    }

    fn report_right(&mut self, session: SessionId, right: Right, what: String, granted: bool) {
        let component = self.component(session);
        self.report(match granted {
            true => Report::Granted { session, component, right, what, withheld: 0 },
            false => Report::Revoked { session, component, right, what },
        });
    }
}

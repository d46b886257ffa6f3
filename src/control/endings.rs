//! How sessions and publishers end, and all that hangs on them.

use super::quota::Account;
use super::sessions::Publisher;
use super::{Action, Machine, Report, SessionId};
use crate::wire::{GoodbyeReason, Notice, PublisherId, Resource, RingId};

impl<F> Machine<F> {
    pub(super) fn fault(&mut self, session: SessionId, what: &str) {
        self.dismiss(session, GoodbyeReason::Protocol { what: what.into() });
    }

    /// Ends a session from our side, and says why.
    pub(super) fn dismiss(&mut self, session: SessionId, reason: GoodbyeReason) {
        self.send(session, Notice::Goodbye { reason: reason.clone() });
        if let Some(state) = self.sessions.get(&session) {
            self.turned_away += u64::from(state.component.is_none());
            self.actions.push(Action::Disconnect { session });
        }
        self.end_session(session, Some(reason));
    }

    pub(super) fn dismiss_all(&mut self) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for ring in self.rings.keys().copied().collect::<Vec<_>>() {
            self.tell_last_losses(ring);
        }
        // All of them first: what they have between them goes on without a broker, so nobody hears that it ends.
        for &session in &sessions {
            self.send(session, Notice::Goodbye { reason: GoodbyeReason::Shutdown });
            self.actions.push(Action::Disconnect { session });
        }
        let said = self.actions.len();
        for session in sessions {
            self.end_session(session, Some(GoodbyeReason::Shutdown));
        }
        let rest = self.actions.split_off(said);
        self.actions.extend(rest.into_iter().filter(|action| !matches!(action, Action::Send { .. })));
    }

    /// Takes a session, and all that hangs on it, out of the books: each route of it has a ring or a publisher of its own, and
    /// each of its waits such a route.
    pub(super) fn end_session(&mut self, session: SessionId, reason: Option<GoodbyeReason>) {
        let Some(state) = self.sessions.remove(&session) else {
            return;
        };
        let account = state.account;
        self.inquiries.forget(session);
        if state.component.is_some() {
            self.inquiries.departed.add(state.totals, state.has_left);
        }
        self.finishing.remove(&session);
        self.charges.release(account, Resource::Connections, 1);
        self.charges.release(account, Resource::RelayedBytes, state.relayed);
        if let Some(component) = state.component {
            self.names.remove(&component);
            self.report(Report::Left { component, reason });
        } else {
            self.half_open.remove(&(state.hello_deadline, session));
            self.charges.release(account, Resource::Handshakes, 1);
        }
        for (subscription, subscribed) in state.subscriptions {
            self.forget(account, subscription, &subscribed);
        }
        let heard = self.heard_by(session);
        let rings = heard.map(|(publisher, lane)| self.pairs[&(publisher, session, lane)]);
        for ring in rings.collect::<Vec<RingId>>() {
            self.close_ring(ring);
        }
        for publisher in state.publishers.into_values() {
            self.close_publisher(publisher, account);
        }
    }

    pub(super) fn close_publisher_of(&mut self, session: SessionId, number: u32) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        let account = state.account;
        if let Some(publisher) = state.publishers.remove(&number) {
            self.close_publisher(publisher, account);
        }
    }

    fn close_publisher(&mut self, publisher: PublisherId, account: Account) {
        let rings: Vec<RingId> = self.rings_from(publisher).collect();
        for ring in rings {
            self.close_ring(ring);
        }
        let routes = self.routes_from(publisher);
        self.drop_routes(&routes);
        let Some(Publisher { topics, .. }) = self.publishers.remove(&publisher) else {
            return;
        };
        self.charges.release(account, Resource::Topics, topics.len() as u64);
        self.charges.release(account, Resource::Publishers, 1);
        for (number, topic) in (0..).zip(&topics) {
            if let Some(declared) = self.topics.get_mut(topic.as_str()) {
                declared.remove(&(publisher, number));
                if declared.is_empty() {
                    self.topics.remove(topic.as_str());
                }
            }
        }
    }
}

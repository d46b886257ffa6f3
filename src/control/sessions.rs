//! Sessions: hello, names, and what goes with a session when it ends.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Action, Machine, Origin, Report, Right, SessionId};
use crate::access::Component;
use crate::config::{NAME_BYTES_MAX, SESSIONS_MAX};
use crate::topic::{Topic, TopicPattern};
use crate::wire::{GoodbyeReason, Hello, Notice, PublisherId, Refusal, RingId, Versions, Welcome};

/// The component that only the process with the broker in it can be.
pub(crate) const AGENT: &str = "agent";

#[derive(Debug)]
pub(super) struct Session {
    pub(super) origin: Origin,
    /// The name it is known by; `None` until it has said hello.
    pub(super) component: Option<Component>,
    hello_deadline: Instant,
    pub(super) subscriptions: BTreeMap<u32, Subscribed>,
    /// By the numbers that the client gives them.
    pub(super) publishers: BTreeMap<u32, PublisherId>,
}

impl Session {
    /// When it has to have said hello.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.component.is_none().then_some(self.hello_deadline)
    }
}

/// What a subscription asks for.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) patterns: Vec<TopicPattern>,
    /// Of rings that come to be for it.
    pub(super) ring_bytes: u64,
}

/// One subscription, as the trie knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interest {
    pub(super) session: SessionId,
    pub(super) subscription: u32,
}

#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) session: SessionId,
    /// The client's number for it.
    pub(super) number: u32,
    /// By the client's numbers for them.
    pub(super) topics: Vec<Topic>,
}

impl Publisher {
    /// One topic twice would be two routes and two slots for the same events.
    pub(super) fn has(&self, topic: &str) -> bool {
        self.topics.iter().any(|known| known.as_str() == topic)
    }
}

impl<F> Machine<F> {
    pub(super) fn connected(&mut self, session: SessionId, origin: Origin) {
        if self.is_full()
            && let Some(oldest) = self.oldest_without_hello()
        {
            self.dismiss(oldest, GoodbyeReason::HelloDeadline);
        }
        // The limit is there for other processes: our own is never kept out by them.
        let full = self.is_full() && origin != Origin::Embedded;
        let state = Session {
            origin,
            component: None,
            hello_deadline: self.now + self.settings.hello_deadline,
            subscriptions: BTreeMap::new(),
            publishers: BTreeMap::new(),
        };
        self.sessions.insert(session, state);
        if full {
            let limit = u32::try_from(SESSIONS_MAX).expect("a small constant");
            let refusal = Refusal::TooMany { what: "sessions".into(), limit };
            self.send(session, Notice::Refused { request: 0, refusal });
            self.actions.push(Action::Disconnect { session });
            self.sessions.remove(&session);
        }
    }

    fn is_full(&self) -> bool {
        self.sessions.len() >= SESSIONS_MAX
    }

    /// Who connects and stays mute must not keep others out.
    fn oldest_without_hello(&self) -> Option<SessionId> {
        self.sessions.iter().find(|(_, session)| session.component.is_none()).map(|(id, _)| *id)
    }

    pub(super) fn hello(&mut self, session: SessionId, hello: Hello) {
        match self.admit(session, &hello) {
            Ok((version, component)) => {
                let welcome = Welcome {
                    version,
                    epoch: self.settings.epoch,
                    component: component.to_string(),
                    ring_bytes: self.settings.ring_bytes,
                    backing: self.settings.backing,
                };
                self.send(session, Notice::Welcome(welcome));
                self.report(Report::Joined { component });
            }
            Err(refusal) => {
                let (right, what) = (Right::Connect, cut(&hello.client_id, NAME_BYTES_MAX));
                let refused = refusal.clone();
                self.report(Report::Refused { session, component: None, right, what, refusal: refused });
                self.send(session, Notice::Refused { request: 0, refusal });
                self.actions.push(Action::Disconnect { session });
                self.end_session(session, None);
            }
        }
    }

    fn admit(&mut self, session: SessionId, hello: &Hello) -> Result<(u16, Component), Refusal> {
        let version = Versions::OURS
            .common(hello.versions)
            .ok_or(Refusal::Version { broker: Versions::OURS, client: hello.versions })?;
        let component = Component::from_client_id(&hello.client_id)
            .map_err(|_| Refusal::BadName { client_id: cut(&hello.client_id, NAME_BYTES_MAX) })?;
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        let reserved = component.as_str() == AGENT && state.origin != Origin::Embedded;
        if reserved || self.names.contains_key(&component) {
            return Err(Refusal::NameTaken { component: component.to_string() });
        }
        state.component = Some(component.clone());
        self.names.insert(component.clone(), session);
        Ok((version, component))
    }

    /// The name of a session that has said hello.
    pub(super) fn component(&self, session: SessionId) -> Component {
        let state = self.sessions.get(&session).expect("the caller found the session");
        state.component.clone().expect("requests are taken only after the hello")
    }

    pub(super) fn fault(&mut self, session: SessionId, what: &str) {
        self.dismiss(session, GoodbyeReason::Protocol { what: what.into() });
    }

    /// Ends a session from our side, and says why.
    pub(super) fn dismiss(&mut self, session: SessionId, reason: GoodbyeReason) {
        self.send(session, Notice::Goodbye { reason: reason.clone() });
        if self.sessions.contains_key(&session) {
            self.actions.push(Action::Disconnect { session });
        }
        self.end_session(session, Some(reason));
    }

    pub(super) fn dismiss_all(&mut self) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.dismiss(session, GoodbyeReason::Shutdown);
        }
    }

    /// Takes a session, and all that hangs on it, out of the books: each route of it has a ring or a publisher of its own, and
    /// each of its waits such a route.
    pub(super) fn end_session(&mut self, session: SessionId, reason: Option<GoodbyeReason>) {
        let Some(state) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(component) = state.component {
            self.names.remove(&component);
            self.report(Report::Left { component, reason });
        }
        for (subscription, subscribed) in &state.subscriptions {
            for pattern in &subscribed.patterns {
                self.interests.remove(pattern, &Interest { session, subscription: *subscription });
            }
        }
        let rings: Vec<RingId> =
            self.rings.values().filter(|ring| ring.subscriber == session).map(|ring| ring.id).collect();
        for ring in rings {
            self.close_ring(ring);
        }
        for publisher in state.publishers.into_values() {
            self.close_publisher(publisher);
        }
    }

    pub(super) fn close_publisher_of(&mut self, session: SessionId, number: u32) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        if let Some(publisher) = state.publishers.remove(&number) {
            self.close_publisher(publisher);
        }
    }

    fn close_publisher(&mut self, publisher: PublisherId) {
        let rings: Vec<RingId> =
            self.rings.values().filter(|ring| ring.publisher == publisher).map(|ring| ring.id).collect();
        for ring in rings {
            self.close_ring(ring);
        }
        self.drop_routes(|key| key.publisher == publisher);
        self.publishers.remove(&publisher);
    }
}

/// The start of a peer's text, as much of it as a log line or an answer takes, and on one line.
pub(super) fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].replace(char::is_control, " ")
}

//! Sessions: hello, names, and what goes with a session when it ends.

use std::collections::BTreeMap;
use std::time::Instant;

use super::pace::{Asked, Pace};
use super::{Action, Machine, Origin, Payer, Report, Right, SessionId};
use crate::access::Component;
use crate::config::{HELLO_GRACE, NAME_BYTES_MAX};
use crate::topic::{Topic, TopicPattern};
use crate::wire::{
    GoodbyeReason, Hello, Notice, PublisherId, Refusal, Request, Resource, RingId, Versions, Welcome,
};

/// The component that only the process with the broker in it can be.
pub(crate) const AGENT: &str = "agent";

#[derive(Debug)]
pub(super) struct Session {
    pub(super) origin: Origin,
    /// The name it is known by; `None` until it has said hello.
    pub(super) component: Option<Component>,
    hello_deadline: Instant,
    asked: Asked,
    pub(super) subscriptions: BTreeMap<u32, Subscribed>,
    /// By the numbers that the client gives them.
    pub(super) publishers: BTreeMap<u32, PublisherId>,
}

impl Session {
    /// Takes what a request costs. Until when nothing more is to be read, if the session asks too fast.
    pub(super) fn ask(&mut self, now: Instant, pace: Pace, request: &Request) -> Option<Instant> {
        let requests = match request {
            Request::Subscribe { patterns, .. } => u32::try_from(patterns.len()).unwrap_or(u32::MAX).max(1),
            Request::Done { .. }
            | Request::ProducerSegment { .. }
            | Request::ConsumerSegment { .. }
            | Request::NoRing { .. }
                if self.asked.answer() =>
            {
                return None;
            }
            _ => 1,
        };
        // The process with the broker in it has no socket to wait in.
        if self.origin == Origin::Embedded { None } else { self.asked.ask(now, pace, requests) }
    }

    /// Notes whether a notice asks for an answer.
    pub(super) fn told(&mut self, notice: &Notice) {
        match notice {
            Notice::Grant { .. }
            | Notice::Route { .. }
            | Notice::Unroute { .. }
            | Notice::MakeProducerSegment { .. }
            | Notice::MakeConsumerSegment { .. } => self.asked.owe(),
            _ => {}
        }
    }

    pub(super) fn payer(&self) -> Payer {
        match self.origin {
            Origin::Remote { uid } => Payer::Uid(uid),
            Origin::Embedded => Payer::Agent,
        }
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
    /// Lets a connection in: what is too much for its user, or for all, is made up for by those who have not said hello, the oldest
    /// first, or else it is turned away.
    pub(super) fn connected(&mut self, session: SessionId, origin: Origin) {
        let hello_deadline = self.now + self.settings.hello_deadline;
        let state = Session {
            origin,
            component: None,
            hello_deadline,
            asked: Asked::new(self.now),
            subscriptions: BTreeMap::new(),
            publishers: BTreeMap::new(),
        };
        let payer = state.payer();
        let too_much = [Resource::Handshakes, Resource::Connections].into_iter().find_map(|resource| {
            loop {
                // The agent's process is never kept out by others.
                let exceeded = self.charges.afford(payer, resource, 1).err()?;
                if payer == Payer::Agent {
                    return None;
                }
                match self.oldest_without_hello(exceeded.uid) {
                    Some(oldest) => self.dismiss(oldest, GoodbyeReason::HelloDeadline),
                    None => return Some(exceeded),
                }
            }
        });
        self.sessions.insert(session, state);
        self.half_open.insert((hello_deadline, session));
        for resource in [Resource::Handshakes, Resource::Connections] {
            self.charges.charge(payer, resource, 1);
        }
        if let Some(exceeded) = too_much {
            let refusal = exceeded.into();
            self.send(session, Notice::Refused { request: 0, refusal });
            self.actions.push(Action::Disconnect { session });
            self.end_session(session, None);
        }
    }

    /// There are no descriptors for newcomers: those who have not said hello hold some, the oldest for the longest.
    pub(super) fn make_room(&mut self) {
        let Some(oldest) = self.oldest_without_hello(None) else {
            return;
        };
        let left = self.sessions[&oldest].hello_deadline.saturating_duration_since(self.now);
        if left + HELLO_GRACE <= self.settings.hello_deadline {
            self.dismiss(oldest, GoodbyeReason::HelloDeadline);
        }
    }

    /// Who connects and stays mute must not keep others out: of this user, or of any.
    fn oldest_without_hello(&self, uid: Option<u32>) -> Option<SessionId> {
        let of_it = |session: &SessionId| match self.sessions[session].origin {
            Origin::Remote { uid: own } => uid.is_none_or(|uid| uid == own),
            Origin::Embedded => false,
        };
        self.half_open.iter().map(|(_, session)| *session).find(of_it)
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
        let (payer, due) = (state.payer(), state.hello_deadline);
        self.half_open.remove(&(due, session));
        self.charges.release(payer, Resource::Handshakes, 1);
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
        let payer = state.payer();
        self.charges.release(payer, Resource::Connections, 1);
        if let Some(component) = state.component {
            self.names.remove(&component);
            self.report(Report::Left { component, reason });
        } else {
            self.half_open.remove(&(state.hello_deadline, session));
            self.charges.release(payer, Resource::Handshakes, 1);
        }
        for (subscription, subscribed) in state.subscriptions {
            self.forget(session, payer, subscription, &subscribed.patterns);
        }
        let rings = self.publishers_heard_by(session).map(|publisher| self.pairs[&(publisher, session)]);
        for ring in rings.collect::<Vec<RingId>>() {
            self.close_ring(ring);
        }
        for publisher in state.publishers.into_values() {
            self.close_publisher(publisher, payer);
        }
    }

    pub(super) fn close_publisher_of(&mut self, session: SessionId, number: u32) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        let payer = state.payer();
        if let Some(publisher) = state.publishers.remove(&number) {
            self.close_publisher(publisher, payer);
        }
    }

    fn close_publisher(&mut self, publisher: PublisherId, payer: Payer) {
        let all = (publisher, SessionId(0))..=(publisher, SessionId(u64::MAX));
        let rings: Vec<RingId> = self.pairs.range(all).map(|(_, ring)| *ring).collect();
        for ring in rings {
            self.close_ring(ring);
        }
        let routes = self.routes_from(publisher);
        self.drop_routes(&routes);
        let Some(Publisher { topics, .. }) = self.publishers.remove(&publisher) else {
            return;
        };
        self.charges.release(payer, Resource::Topics, topics.len() as u64);
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

/// The start of a peer's text, as much of it as a log line or an answer takes, and on one line.
pub(super) fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].replace(char::is_control, " ")
}

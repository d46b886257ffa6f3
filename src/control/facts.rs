//! What the machine knows, told as facts: as many as there is room for, and of each session as many as the others leave it.

use std::collections::BTreeMap;

use super::routes::{Phase, Ring, RouteKey, Stage};
use super::sessions::Session;
use super::{Machine, SessionId};
use crate::config::{STATISTICS_BYTES_MAX, STATISTICS_LISTED_MAX};
use crate::topic::TopicPattern;
use crate::wire::codec::encode;
use crate::wire::{Answer, Claims, Fact, Payer, PublisherId, Resource, RingId, RingState};

/// Facts, and room for more.
#[derive(Debug)]
pub(crate) struct Facts {
    facts: Vec<Fact>,
    bytes_left: usize,
    omitted: u64,
}

impl Facts {
    pub(crate) fn new() -> Self {
        Self { facts: Vec::new(), bytes_left: STATISTICS_BYTES_MAX, omitted: 0 }
    }

    /// Adds a fact, if there is room.
    pub(crate) fn add(&mut self, fact: Fact) {
        let mut left = self.bytes_left;
        self.add_within(&mut left, fact);
    }

    /// The same, where a part of the room is for it; whether there was room.
    fn add_within(&mut self, part: &mut usize, fact: Fact) -> bool {
        let bytes = encode(&fact).len();
        if bytes > (*part).min(self.bytes_left) {
            self.omitted += 1;
            return false;
        }
        self.bytes_left -= bytes;
        *part -= bytes;
        self.facts.push(fact);
        true
    }

    pub(crate) fn omit(&mut self, facts: u64) {
        self.omitted = self.omitted.saturating_add(facts);
    }

    /// All of them, and how many there was no room for.
    pub(crate) fn finish(mut self) -> Vec<Fact> {
        if self.omitted > 0 {
            self.facts.push(Fact::Omitted { facts: self.omitted });
        }
        self.facts
    }
}

impl<F> Machine<F> {
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away
    }

    pub(crate) fn connections(&self) -> u64 {
        self.sessions.len() as u64
    }

    /// Tells of sessions and shares. What clients say of themselves is in `claims`; whose process a session is `process` says.
    pub(crate) fn tell_facts(
        &self,
        facts: &mut Facts,
        claims: &BTreeMap<SessionId, Claims>,
        process: impl Fn(SessionId) -> (u32, Option<u32>),
    ) {
        self.tell_shares(facts);
        facts.add(self.inquiries.departed.tell());
        let in_it = self.sessions.iter().filter(|(_, state)| state.component.is_some());
        let mut left = 0_usize;
        for (session, state) in in_it.clone() {
            facts.add(self.session_fact(*session, state, claims.get(session), process(*session)));
            left += 1;
        }
        for (session, state) in in_it {
            let mut part = facts.bytes_left / left.max(1);
            left -= 1;
            self.tell_details(facts, &mut part, *session, state, claims);
        }
    }

    fn session_fact(
        &self,
        session: SessionId,
        state: &Session,
        claims: Option<&Claims>,
        (uid, pid): (u32, Option<u32>),
    ) -> Fact {
        let answer = match claims {
            Some(_) => Answer::Told,
            None if state.can_tell() => Answer::NotAnswering,
            None => Answer::Unable,
        };
        Fact::Session {
            session: session.0,
            component: self.component(session).to_string(),
            uid,
            pid,
            identity: state.identity(),
            connected_ms: millis(self.now.saturating_duration_since(state.since)),
            answer,
            totals: state.totals,
            received: claims.map(|claims| claims.received),
        }
    }

    /// What a session has: its rings out, its topics, and its subscriptions with their patterns. Once there is no room for more they are
    /// counted, and not looked at one by one.
    fn tell_details(
        &self,
        facts: &mut Facts,
        part: &mut usize,
        session: SessionId,
        state: &Session,
        claims_of: &BTreeMap<SessionId, Claims>,
    ) {
        let none = Claims::default();
        let claims = claims_of.get(&session).unwrap_or(&none);
        for (number, publisher) in &state.publishers {
            self.tell_rings(facts, part, session, *publisher, claims_of);
            let topics = &self.publishers[publisher].topics;
            for (topic_number, topic) in topics.iter().enumerate() {
                if *part < FACT_BYTES {
                    facts.omit((topics.len() - topic_number) as u64);
                    break;
                }
                let key = |(publisher, topic_number, _): &(u32, u32, _)| (*publisher, *topic_number as usize);
                let about = claims.topics.binary_search_by_key(&(*number, topic_number), key).ok();
                let claim = about.map(|about| claims.topics[about].2);
                let (publisher, topic) = (publisher.0, topic.clone());
                facts.add_within(part, Fact::Topic { session: session.0, publisher, topic, claim });
            }
        }
        let subscriptions = state.subscriptions.len();
        for (told, (subscription, asked)) in state.subscriptions.iter().enumerate() {
            if *part < FACT_BYTES {
                return facts.omit((subscriptions - told) as u64);
            }
            let about = claims.subscriptions.binary_search_by_key(subscription, |(number, _)| *number).ok();
            let (session_number, claim) = (session.0, about.map(|about| claims.subscriptions[about].1));
            let (subscription, ring_bytes) = (*subscription, asked.ring_bytes);
            let fact = Fact::Subscription { session: session_number, subscription, ring_bytes, claim };
            facts.add_within(part, fact);
            self.tell_patterns(facts, part, session, subscription, &asked.patterns);
        }
    }

    fn tell_rings(
        &self,
        facts: &mut Facts,
        part: &mut usize,
        session: SessionId,
        publisher: PublisherId,
        claims_of: &BTreeMap<SessionId, Claims>,
    ) {
        let none = Claims::default();
        let claims = claims_of.get(&session).unwrap_or(&none);
        for id in self.rings_from(publisher) {
            if *part < FACT_BYTES {
                facts.omit(1);
                continue;
            }
            let about = claims.rings.binary_search_by_key(&id.0, |(ring, _)| *ring).ok();
            let ring = &self.rings[&id];
            let routes = self.routes_between(publisher, ring.subscriber, ring.lane);
            let fact = Fact::Ring {
                publisher: publisher.0,
                from: session.0,
                to: ring.subscriber.0,
                bytes: ring.bytes,
                state: state_of(ring),
                path: ring.path.clone(),
                withheld: ring.relay.as_ref().map_or(0, |relay| relay.withheld_events),
                routes: u32::try_from(routes.len()).unwrap_or(u32::MAX),
                claim: about.map(|about| claims.rings[about].1),
            };
            let subscriber = claims_of.get(&ring.subscriber);
            if facts.add_within(part, fact) {
                self.tell_routes(facts, part, id, &routes, subscriber);
            } else {
                facts.omit(routes.len() as u64);
            }
        }
    }

    /// The topics of a ring; what came of them its subscriber says.
    fn tell_routes(
        &self,
        facts: &mut Facts,
        part: &mut usize,
        ring: RingId,
        routes: &[RouteKey],
        subscriber: Option<&Claims>,
    ) {
        for (told, key) in routes.iter().enumerate() {
            if *part < FACT_BYTES {
                return facts.omit((routes.len() - told) as u64);
            }
            let route = &self.routes[key];
            let claim = route.target.and_then(|target| {
                let claims = &subscriber?.routes;
                let place = (ring.0, target.slot);
                let about = claims.binary_search_by_key(&place, |(ring, slot, _)| (*ring, *slot)).ok()?;
                Some(claims[about].2)
            });
            let (topic, active) = (self.topic_of(*key).clone(), route.phase == Phase::Active);
            facts.add_within(part, Fact::Route { topic, active, claim });
        }
    }

    fn tell_patterns(
        &self,
        facts: &mut Facts,
        part: &mut usize,
        session: SessionId,
        subscription: u32,
        patterns: &[TopicPattern],
    ) {
        let component = self.component(session);
        for pattern in patterns {
            if *part < FACT_BYTES {
                facts.omit(1);
                continue;
            }
            let narrowed = self.settings.policy.narrow(&component, pattern);
            let granted = narrowed.granted.into_iter().map(|pattern| (pattern, false));
            let withheld = narrowed.withheld.into_iter().map(|part| (part.pattern, true));
            for (pattern, withheld) in granted.chain(withheld) {
                let session = session.0;
                facts.add_within(part, Fact::Pattern { session, subscription, pattern, withheld });
            }
        }
    }

    /// What is in use, and of how much: of all together, and of payers, as many as are listed.
    fn tell_shares(&self, facts: &mut Facts) {
        for resource in Resource::ALL {
            let (in_use, limit) = (self.charges.total(resource), self.charges.limit(None, resource));
            facts.add(Fact::Share { payer: None, resource, in_use, limit });
        }
        let payers: Vec<Payer> = self.charges.payers().map(|(payer, _)| *payer).collect();
        facts.omit(payers.len().saturating_sub(STATISTICS_LISTED_MAX) as u64);
        for payer in payers.into_iter().take(STATISTICS_LISTED_MAX) {
            for resource in Resource::ALL {
                let (in_use, limit) =
                    (self.charges.of(payer, resource), self.charges.limit(Some(payer), resource));
                if in_use > 0 {
                    facts.add(Fact::Share { payer: Some(payer), resource, in_use, limit });
                }
            }
        }
    }
}

/// Room for most facts: below it, what is left of a session's is not looked for any more.
const FACT_BYTES: usize = 64;

pub(crate) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn state_of<F>(ring: &Ring<F>) -> RingState {
    match ring.stage {
        Stage::NeedsDoorbell | Stage::NeedsSegments { .. } => RingState::Forming,
        Stage::Ready => RingState::Ready,
        Stage::Poisoned => RingState::Poisoned,
    }
}

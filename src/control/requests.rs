//! Subscribe and declare: checked, turned into routes, and answered when the routes are active.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::budget::Terms;
use super::quota::Account;
use super::routes::{RouteKey, Wish};
use super::sessions::{Interest, Publisher, Subscribed, cut};
use super::{Machine, Report, Right, SessionId};
use crate::access::{Denial, Withheld};
use crate::config::{
    ANSWER_LIST_BYTES, PATTERN_SEGMENT_BYTES, PATTERNS_MAX, PUBLISHERS_MAX, SUBSCRIPTIONS_MAX, TOPICS_MAX,
    is_ring_size,
};
use crate::topic::{Topic, TopicPattern};
use crate::wire::{GoodbyeReason, Notice, PublisherId, Refusal, Resource};

/// A request whose answer waits for routes.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) session: SessionId,
    answer: Notice,
    pub(super) awaiting: BTreeSet<RouteKey>,
}

/// A subscription that is let in: all its patterns, and what of them is granted and withheld.
struct Admitted {
    subscribed: Subscribed,
    granted: Vec<TopicPattern>,
    withheld: Vec<Withheld>,
    wishes: Vec<Wish>,
}

impl<F> Machine<F> {
    pub(super) fn subscribe(
        &mut self,
        session: SessionId,
        request: u32,
        subscription: u32,
        patterns: &[String],
        ring_bytes: Option<u64>,
    ) {
        if self.sessions[&session].subscriptions.contains_key(&subscription) {
            return self.fault(session, "a subscription number that is in use");
        }
        match self.check_subscribe(session, patterns, ring_bytes) {
            Ok(Admitted { subscribed, granted, withheld, wishes }) => {
                let (component, right) = (self.component(session), Right::Subscribe);
                let what = said(granted.iter().map(TopicPattern::as_str));
                self.report(Report::Granted { session, component, right, what, withheld: withheld.len() });
                let answer = Notice::Subscribed { request, granted, withheld, missed: Vec::new() };
                for pattern in &subscribed.patterns {
                    let ring_bytes = subscribed.ring_bytes;
                    self.interests.insert(pattern, Interest { session, ring_bytes, subscription });
                }
                let account = self.account(session);
                self.charges.charge(account, Resource::Subscriptions, 1);
                self.charges.charge(account, Resource::PatternBytes, bytes_of_patterns(&subscribed.patterns));
                let state = self.sessions.get_mut(&session).expect("the caller found the session");
                state.subscriptions.insert(subscription, subscribed);
                state.begins = state.says_that_it_begins();
                self.wait_for(session, wishes, answer);
            }
            Err(refusal) => {
                let what = said(patterns.iter().map(String::as_str));
                self.refuse(session, request, Right::Subscribe, &what, refusal);
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, session: SessionId, subscription: u32) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        let Some(subscribed) = state.subscriptions.remove(&subscription) else {
            return;
        };
        self.forget(self.account(session), subscription, &subscribed);
        let unwanted = |key: &RouteKey| {
            let topic = self.topic_of(*key);
            subscribed.patterns.iter().any(|pattern| pattern.matches(topic)) && !self.asks(session, topic)
        };
        let unwanted: Vec<RouteKey> = self.routes_to(session).into_iter().filter(unwanted).collect();
        for key in unwanted {
            self.unwant(key);
        }
    }

    /// Takes a subscription that its session no longer has out of the trie, and what it was charged with.
    pub(super) fn forget(
        &mut self,
        account: Account,
        subscription: u32,
        Subscribed { patterns, ring_bytes }: &Subscribed,
    ) {
        let session = account.session;
        for pattern in patterns {
            let ring_bytes = *ring_bytes;
            self.interests.remove(pattern, &Interest { session, ring_bytes, subscription });
        }
        self.charges.release(account, Resource::Subscriptions, 1);
        self.charges.release(account, Resource::PatternBytes, bytes_of_patterns(patterns));
    }

    pub(super) fn declare(
        &mut self,
        session: SessionId,
        request: u32,
        number: u32,
        topic_number: u32,
        topic: &str,
    ) {
        let known = self.sessions[&session].publishers.get(&number).copied();
        let next = known.map_or(0, |publisher| self.publishers[&publisher].topics.len());
        if topic_number as usize != next {
            return self.fault(session, "a topic number out of turn");
        }
        if known.is_some_and(|publisher| self.publishers[&publisher].has(topic)) {
            return self.fault(session, "a topic that is declared already");
        }
        match self.check_declare(session, known, next, topic) {
            Ok((topic, subscribers)) => {
                let subscribers = self.without_those_over_their_share(session, subscribers);
                let publisher = known.unwrap_or_else(|| self.open_publisher(session, number));
                let (component, right, what) = (self.component(session), Right::Publish, topic.to_string());
                self.report(Report::Granted { session, component, right, what, withheld: 0 });
                let state = self.publishers.get_mut(&publisher).expect("it was just opened or found");
                let number = (publisher, topic_number);
                self.topics.entry(topic.as_str().into()).or_default().insert(number);
                state.topics.push(topic);
                self.charges.charge(self.account(session), Resource::Topics, 1);
                let mut wishes = Vec::new();
                for (subscriber, asked_bytes, ring_bytes) in subscribers {
                    if ring_bytes < asked_bytes {
                        let cause = "its subscriber's share does not hold more".into();
                        self.report_smaller_ring(session, subscriber, asked_bytes, cause);
                    }
                    let key = RouteKey { publisher, subscriber, topic_number };
                    wishes.push(Wish { key, ring_bytes });
                }
                self.wait_for(session, wishes, Notice::Declared { request, publisher });
            }
            Err(refusal) => self.refuse(session, request, Right::Publish, topic, refusal),
        }
    }

    /// Takes a route off what these requests wait for, and answers those that wait for nothing more.
    pub(super) fn settle(&mut self, key: RouteKey, waits: Vec<u64>) {
        for id in waits {
            let Some(wait) = self.waits.get_mut(&id) else { continue };
            wait.awaiting.remove(&key);
            if !wait.awaiting.is_empty() {
                continue;
            }
            let mut wait = self.waits.remove(&id).expect("it was just there");
            if let Notice::Subscribed { missed, .. } = &mut wait.answer {
                *missed = within_budget(std::mem::take(missed), String::len);
            }
            self.send(wait.session, wait.answer);
        }
    }

    /// Names a publisher in the answers of those who wait for these routes in vain.
    pub(super) fn name_in_answers(&mut self, publisher: SessionId, keys: &[RouteKey]) {
        let name = self.component(publisher).to_string();
        let routes = keys.iter().filter_map(|key| self.routes.get(key));
        let waits: BTreeSet<u64> = routes.flat_map(|route| &route.waits).copied().collect();
        for wait in waits {
            let answer = self.waits.get_mut(&wait).map(|wait| &mut wait.answer);
            if let Some(Notice::Subscribed { missed, .. }) = answer {
                missed.push(name.clone());
            }
        }
    }

    /// Sends somebody away, and tells those who wait for routes from there that they won't hear it.
    pub(super) fn dismiss_unheard(&mut self, session: SessionId, reason: GoodbyeReason) {
        let own = self.sessions[&session].publishers.values();
        let routes: Vec<RouteKey> = own.flat_map(|publisher| self.routes_from(*publisher)).collect();
        self.name_in_answers(session, &routes);
        self.dismiss(session, reason);
    }

    fn refuse(&mut self, session: SessionId, request: u32, right: Right, what: &str, refusal: Refusal) {
        let (component, what) = (Some(self.component(session)), cut(what, SAID_MAX));
        self.report(Report::Refused { session, component, right, what, refusal: refusal.clone() });
        self.send(session, Notice::Refused { request, refusal });
    }

    /// Well-formed patterns, what of them is granted and withheld, and the routes that they ask for.
    fn check_subscribe(
        &self,
        session: SessionId,
        patterns: &[String],
        ring_bytes: Option<u64>,
    ) -> Result<Admitted, Refusal> {
        let ring_bytes = ring_bytes.unwrap_or(self.settings.ring_bytes);
        if !is_ring_size(ring_bytes) {
            return Err(Refusal::RingBytes { bytes: ring_bytes });
        }
        // The one beyond the limit is the one too many.
        limit("patterns in this subscription", patterns.len().saturating_sub(1), PATTERNS_MAX)?;
        let subscriptions = self.sessions[&session].subscriptions.len();
        limit("subscriptions of this session", subscriptions, SUBSCRIPTIONS_MAX)?;
        self.charges.afford(self.account(session), Resource::Subscriptions, 1)?;
        let component = self.component(session);
        let mut parsed = Vec::with_capacity(patterns.len());
        let mut granted = BTreeSet::new();
        let mut withheld: Vec<Withheld> = Vec::new();
        for text in patterns {
            let pattern = TopicPattern::new(text).map_err(|_| Refusal::Malformed { text: cut(text, 300) })?;
            let narrowed = self.settings.policy.narrow(&component, &pattern);
            granted.extend(narrowed.granted);
            withheld.extend(narrowed.withheld);
            parsed.push(pattern);
        }
        if granted.is_empty()
            && let Some(first) = withheld.first()
        {
            return Err(Denial::nothing_left(&component, first.clone()).into());
        }
        self.charges.afford(self.account(session), Resource::PatternBytes, bytes_of_patterns(&parsed))?;
        let granted = within_budget(granted, |pattern| pattern.as_str().len());
        let withheld = within_budget(withheld, |part| part.pattern.as_str().len() + part.needed.len());
        let wishes = self.wishes(session, &parsed, ring_bytes);
        self.afford_subscribe(session, &wishes)?;
        let subscribed = Subscribed { patterns: parsed, ring_bytes };
        Ok(Admitted { subscribed, granted, withheld, wishes })
    }

    /// The routes that a subscription asks for.
    fn wishes(&self, session: SessionId, patterns: &[TopicPattern], ring_bytes: u64) -> Vec<Wish> {
        let mut keys = BTreeSet::new();
        for pattern in patterns {
            let literal = pattern.as_str().split(['+', '#']).next().unwrap_or_default().trim_end_matches('.');
            let alike = self.topics.range::<str, _>((Bound::Included(literal), Bound::Unbounded));
            for (_, declared) in alike.take_while(|(topic, _)| topic.starts_with(literal)) {
                let (publisher, number) = declared.first().expect("a topic that somebody has declared");
                let topic = &self.publishers[publisher].topics[*number as usize];
                if pattern.matches(topic) && self.may_receive(session, topic) {
                    let key = |&(publisher, topic_number): &(PublisherId, u32)| RouteKey {
                        publisher,
                        subscriber: session,
                        topic_number,
                    };
                    let sent = declared.iter().filter(|(publisher, _)| self.may_send(*publisher, topic));
                    keys.extend(sent.map(key));
                }
            }
        }
        keys.into_iter().map(|key| Wish { key, ring_bytes }).collect()
    }

    /// A topic that may be published on, and who receives it, with the ring that comes to be for it.
    fn check_declare(
        &mut self,
        session: SessionId,
        known: Option<PublisherId>,
        topics: usize,
        topic: &str,
    ) -> Result<(Topic, BTreeMap<SessionId, Terms>), Refusal> {
        if known.is_none() {
            limit("publishers of this session", self.sessions[&session].publishers.len(), PUBLISHERS_MAX)?;
            self.charges.afford(self.account(session), Resource::Publishers, 1)?;
        }
        limit("topics of this publisher", topics, TOPICS_MAX)?;
        self.charges.afford(self.account(session), Resource::Topics, 1)?;
        let topic = Topic::new(topic).map_err(|_| Refusal::Malformed { text: cut(topic, 300) })?;
        self.settings.policy.may_publish(&self.component(session), &topic)?;
        let mut asked = self.who_asks(&topic);
        asked.retain(|subscriber, _| self.may_receive(*subscriber, &topic));
        let terms = self.afford_declare(session, known, &topic, &asked)?;
        Ok((topic, terms))
    }

    /// Sends those away whose shares do not hold the rings that they need. The others, and what they asked for and get.
    fn without_those_over_their_share(
        &mut self,
        session: SessionId,
        subscribers: BTreeMap<SessionId, Terms>,
    ) -> Vec<(SessionId, u64, u64)> {
        let mut others = Vec::new();
        for (subscriber, Terms { asked_bytes, ring_bytes }) in subscribers {
            match ring_bytes {
                Ok(ring_bytes) => others.push((subscriber, asked_bytes, ring_bytes)),
                Err(refusal) => {
                    debug_assert_ne!(subscriber, session, "within a session there is no ring");
                    self.dismiss_unheard(subscriber, GoodbyeReason::Refused { refusal });
                }
            }
        }
        others
    }

    fn open_publisher(&mut self, session: SessionId, number: u32) -> PublisherId {
        let id = PublisherId(self.fresh());
        self.publishers.insert(id, Publisher { session, number, topics: Vec::new() });
        self.charges.charge(self.account(session), Resource::Publishers, 1);
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        state.publishers.insert(number, id);
        id
    }

    /// Whether a subscription of the session matches the topic.
    fn asks(&self, session: SessionId, topic: &Topic) -> bool {
        let (below, above) = Interest::bounds(session);
        let sets = self.interests.sets_matching(topic);
        sets.into_iter().any(|interests| interests.range(below..=above).next().is_some())
    }

    /// The sessions whose subscriptions match the topic, and how large a ring each of them asks for. However many subscriptions a session
    /// has, it is looked at once for each pattern that matches.
    pub(super) fn who_asks(&self, topic: &Topic) -> BTreeMap<SessionId, u64> {
        let mut asked = BTreeMap::new();
        for interests in self.interests.sets_matching(topic) {
            let mut next = interests.first();
            while let Some(Interest { session, .. }) = next {
                let (below, above) = Interest::bounds(*session);
                let largest = interests.range(below..=above).next_back();
                let bytes = largest.map_or(0, |interest| interest.ring_bytes);
                let known = asked.entry(*session).or_insert(bytes);
                *known = bytes.max(*known);
                next = interests.range((Bound::Excluded(above), Bound::Unbounded)).next();
            }
        }
        asked
    }

    pub(super) fn may_receive(&self, session: SessionId, topic: &Topic) -> bool {
        self.settings.policy.may_subscribe(&self.component(session), topic).is_ok()
    }

    /// Asks for routes, and answers once all of them are active.
    fn wait_for(&mut self, session: SessionId, wishes: Vec<Wish>, mut answer: Notice) {
        if let Notice::Subscribed { missed, .. } = &mut answer {
            let parted = wishes.iter().map(|wish| wish.key).filter(|key| self.is_parted(*key));
            let names = parted.map(|key| self.component(self.publishers[&key.publisher].session).to_string());
            missed.extend(names.collect::<BTreeSet<_>>());
            *missed = within_budget(std::mem::take(missed), String::len);
        }
        let joins = matches!(answer, Notice::Subscribed { .. });
        let is_awaited = |wish: &Wish| !self.want(*wish) | (joins && self.join_relayed(wish.key));
        let awaiting = wishes.into_iter().filter(is_awaited).map(|wish| wish.key);
        let awaiting: BTreeSet<RouteKey> = awaiting.collect();
        if awaiting.is_empty() {
            return self.send(session, answer);
        }
        let id = self.fresh();
        for key in &awaiting {
            self.routes.get_mut(key).expect("it is awaited").waits.push(id);
        }
        self.waits.insert(id, Wait { session, answer, awaiting });
    }
}

/// Bytes of what was asked for, in a report.
const SAID_MAX: usize = 512;

/// Patterns in a report, the first of them if they are many.
fn said<'a>(patterns: impl Iterator<Item = &'a str>) -> String {
    let mut said = String::new();
    for pattern in patterns {
        if said.len() + pattern.len() > SAID_MAX {
            said.push_str(" …");
            break;
        }
        said.extend((!said.is_empty()).then_some(' '));
        said.push_str(pattern);
    }
    said
}

/// What patterns take in the trie, at most.
fn bytes_of_patterns(patterns: &[TopicPattern]) -> u64 {
    patterns.iter().map(|pattern| pattern.segments().count() as u64 * PATTERN_SEGMENT_BYTES).sum()
}

fn limit(what: &str, count: usize, limit: usize) -> Result<(), Refusal> {
    if count < limit {
        return Ok(());
    }
    let limit = u32::try_from(limit).expect("limits are small");
    Err(Refusal::TooMany { what: what.into(), limit })
}

/// As many items as the answer has room for.
fn within_budget<T>(items: impl IntoIterator<Item = T>, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let mut left = ANSWER_LIST_BYTES;
    items
        .into_iter()
        .take_while(|item| {
            // 32 covers what encodes a length, a level and an option.
            let cost = bytes(item) + 32;
            let fits = cost <= left;
            left = left.saturating_sub(cost);
            fits
        })
        .collect()
}

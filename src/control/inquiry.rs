//! An inquiry: all clients are asked what they have counted, for whoever wants to know.
//!
//! Events do not pass the broker, so how many there were its clients alone can say. Whoever asks while an inquiry is under way shares it;
//! it is over when all have answered, or at its deadline. So one that is mute delays nobody beyond that, and it is
//! asked again only when it has answered: what waits for it does not grow, and the next inquiry does not wait for it at all.
//! What a client says is kept while the inquiry lasts, and only what is about things of its own, which it is charged with anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Action, Machine, Origin, Report, Right, SessionId};
use crate::config::{TELL_DEADLINE, TELL_PAUSE};
use crate::wire::{Claims, Fact, Notice, Refusal, RingId, TotalClaim};

/// Who wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The broker's own process, by a number of its own.
    Own(u64),
    Session {
        session: SessionId,
        request: u32,
    },
}

/// What came of an inquiry.
#[derive(Debug)]
pub(crate) struct Inquired {
    pub(crate) askers: Vec<Asker>,
    /// By session: those that have answered.
    pub(crate) claims: BTreeMap<SessionId, Claims>,
}

/// The one that is under way, and who came too soon for the next.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    pub(super) current: Option<Inquiry>,
    pub(super) waiting: Vec<Asker>,
    /// The next may begin then.
    from: Option<Instant>,
    pub(super) departed: Departed,
}

/// Sessions that are over, and what they have said of themselves: sums, so that they take no room.
#[derive(Debug, Default)]
pub(super) struct Departed {
    sessions: u64,
    /// Of these, those that have not said a last word: something of theirs is missing.
    without_word: u64,
    totals: TotalClaim,
}

impl Departed {
    pub(super) fn add(&mut self, totals: Option<TotalClaim>, has_left: bool) {
        let TotalClaim { published, delivered } = totals.unwrap_or_default();
        self.sessions += 1;
        self.without_word += u64::from(!has_left);
        // These are a client's word, which may be any number.
        self.totals.published = self.totals.published.saturating_add(published);
        self.totals.delivered = self.totals.delivered.saturating_add(delivered);
    }

    pub(super) fn tell(&self) -> Fact {
        let Self { sessions, without_word, totals } = *self;
        Fact::Departed { sessions, without_word, totals }
    }
}

#[derive(Debug)]
pub(super) struct Inquiry {
    due: Instant,
    pub(super) askers: Vec<Asker>,
    /// Who was told to answer for this one, and has not.
    pub(super) awaited: BTreeSet<SessionId>,
    pub(super) claims: BTreeMap<SessionId, Claims>,
}

impl Inquiries {
    /// When something is to be done, if nobody says anything before.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match &self.current {
            Some(inquiry) => Some(inquiry.due),
            None if self.waiting.is_empty() => None,
            None => self.from,
        }
    }

    pub(super) fn forget(&mut self, gone: SessionId) {
        let stays = |asker: &Asker| !matches!(asker, Asker::Session { session, .. } if *session == gone);
        self.waiting.retain(stays);
        if let Some(inquiry) = &mut self.current {
            inquiry.askers.retain(stays);
            inquiry.awaited.remove(&gone);
            inquiry.claims.remove(&gone);
        }
    }
}

impl<F> Machine<F> {
    /// A session wants to know: one of the broker's own user may, or of root.
    pub(super) fn statistics(&mut self, session: SessionId, request: u32) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        if !state.can_tell() {
            return self.fault(session, "a request of a later version");
        }
        let refusal = match state.origin {
            Origin::Remote { uid } | Origin::Invited { uid } if !self.settings.operators.contains(&uid) => {
                Refusal::NotAnOperator { uid }
            }
            _ if state.inquires => Refusal::TooMany { what: "inquiries of this session".into(), limit: 1 },
            _ => {
                state.inquires = true;
                return self.inquire(Asker::Session { session, request });
            }
        };
        let (component, what) = (Some(self.component(session)), "statistics".to_owned());
        let right = Right::Observe;
        self.report(Report::Refused { session, component, right, what, refusal: refusal.clone() });
        self.send(session, Notice::Refused { request, refusal });
    }

    pub(super) fn inquire(&mut self, asker: Asker) {
        match &mut self.inquiries.current {
            Some(inquiry) => inquiry.askers.push(asker),
            None => self.inquiries.waiting.push(asker),
        }
    }

    /// A client says what it has counted.
    pub(super) fn told(&mut self, session: SessionId, claims: Claims) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        if !std::mem::take(&mut state.is_to_tell) {
            return self.fault(session, "an answer that nobody has asked for");
        }
        if !claims.is_within_limits() {
            return self.fault(session, "more claims than a client may make");
        }
        state.totals = Some(claims.totals);
        if self.inquiries.current.is_some() {
            let claims = self.about_its_own(session, claims);
            if let Some(inquiry) = &mut self.inquiries.current {
                inquiry.awaited.remove(&session);
                inquiry.claims.insert(session, claims);
            }
        }
    }

    /// A client says its last word.
    pub(super) fn leaving(&mut self, session: SessionId, totals: TotalClaim) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        if !state.can_tell() {
            return self.fault(session, "a request of a later version");
        }
        (state.totals, state.has_left) = (Some(totals), true);
    }

    /// Of claims those that are about what the session has, one about each.
    fn about_its_own(&self, session: SessionId, mut claims: Claims) -> Claims {
        let state = &self.sessions[&session];
        let topics = |number: u32| {
            state.publishers.get(&number).map_or(0, |publisher| self.publishers[publisher].topics.len())
        };
        claims.topics.retain(|(publisher, topic_number, _)| (*topic_number as usize) < topics(*publisher));
        claims.topics.sort_unstable_by_key(|(publisher, topic_number, _)| (*publisher, *topic_number));
        claims.topics.dedup_by_key(|(publisher, topic_number, _)| (*publisher, *topic_number));
        let is_its_own = |ring: u64| {
            let ring = self.rings.get(&RingId(ring));
            let publisher = ring.and_then(|ring| self.publishers.get(&ring.publisher));
            publisher.is_some_and(|publisher| publisher.session == session)
        };
        claims.rings.retain(|(ring, _)| is_its_own(*ring));
        claims.rings.sort_unstable_by_key(|(ring, _)| *ring);
        claims.rings.dedup_by_key(|(ring, _)| *ring);
        let is_heard = |ring: u64, slot: u16| {
            let ring = self.rings.get(&RingId(ring)).filter(|ring| ring.subscriber == session);
            ring.is_some_and(|ring| usize::from(slot) < ring.slots.len())
        };
        claims.routes.retain(|(ring, slot, _)| is_heard(*ring, *slot));
        claims.routes.sort_unstable_by_key(|(ring, slot, _)| (*ring, *slot));
        claims.routes.dedup_by_key(|(ring, slot, _)| (*ring, *slot));
        claims.routes.shrink_to_fit();
        claims.subscriptions.retain(|(subscription, _)| state.subscriptions.contains_key(subscription));
        claims.subscriptions.sort_unstable_by_key(|(subscription, _)| *subscription);
        claims.subscriptions.dedup_by_key(|(subscription, _)| *subscription);
        claims.topics.shrink_to_fit();
        claims.rings.shrink_to_fit();
        claims.subscriptions.shrink_to_fit();
        claims
    }

    /// Begins the inquiry that somebody waits for, and ends the one that is over.
    pub(super) fn settle_inquiries(&mut self) {
        let may_begin = self.inquiries.from.is_none_or(|from| from <= self.now);
        if self.inquiries.current.is_none() && !self.inquiries.waiting.is_empty() && may_begin {
            let askers = std::mem::take(&mut self.inquiries.waiting);
            let awaited = self.tell_all();
            let due = self.now + TELL_DEADLINE;
            self.inquiries.current = Some(Inquiry { due, askers, awaited, claims: BTreeMap::new() });
        }
        let now = self.now;
        let over = |inquiry: &mut Inquiry| inquiry.awaited.is_empty() || inquiry.due <= now;
        if let Some(Inquiry { askers, claims, .. }) = self.inquiries.current.take_if(over) {
            self.inquiries.from = Some(now + TELL_PAUSE);
            self.actions.push(Action::Inquired(Inquired { askers, claims }));
        }
    }

    /// Asks all that can answer and owe no answer.
    fn tell_all(&mut self) -> BTreeSet<SessionId> {
        let can = self.sessions.iter_mut().filter(|(_, state)| state.can_tell() && !state.is_to_tell);
        let asked: BTreeSet<SessionId> = can
            .map(|(session, state)| {
                state.is_to_tell = true;
                *session
            })
            .collect();
        for session in &asked {
            self.send(*session, Notice::Tell);
        }
        asked
    }

    /// Asks one that is let in while an inquiry is under way, and would be shown as one that does not answer.
    pub(super) fn tell_newcomer(&mut self, session: SessionId) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        if let Some(inquiry) = self.inquiries.current.as_mut().filter(|_| state.can_tell()) {
            state.is_to_tell = true;
            inquiry.awaited.insert(session);
            self.send(session, Notice::Tell);
        }
    }

    /// Answers those who wanted to know and are there still.
    pub(super) fn answer_inquiry(&mut self, askers: &[(SessionId, u32)], parts: &[Vec<Fact>]) {
        for &(session, request) in askers {
            let Some(state) = self.sessions.get_mut(&session) else { continue };
            state.inquires = false;
            for (number, facts) in (1..).zip(parts) {
                let (facts, more) = (facts.clone(), number < parts.len());
                self.send(session, Notice::Statistics { request, facts, more });
            }
        }
    }
}

//! How fast a session, and all sessions of a stranger together, may ask for things.
//!
//! Each request takes a moment of the broker's one loop. Who asks faster than its pace is not sent away, it is not read for a while: its
//! requests wait in its own socket, and then it waits itself. An honest client in a hurry so only takes longer, where a dismissal would
//! cost it its events; and a hostile one gains nothing by it that its pace would not give it anyway.
//!
//! What the broker has asked for costs nothing: who has many routes must be able to answer them all within their deadline.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::{FRAMES_PER_REQUEST, STRANGERS_SESSIONS};

/// How fast a session may ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// What one request takes, in the long run.
    pub(crate) each: Duration,
    /// How far a session may be ahead of that.
    pub(crate) ahead: Duration,
    /// For how long it is not read at a time: what it answers waits behind what it asks.
    pub(crate) pause: Duration,
}

impl Pace {
    /// That of all sessions of one stranger together. Of a user with components each session has its own, so that one of them can't keep the
    /// others waiting.
    fn of_stranger(self) -> Self {
        Self { each: self.each / STRANGERS_SESSIONS, ..self }
    }
}

/// What strangers have asked for.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<u32, Asked>);

impl Strangers {
    /// As [`Asked::ask`], for the sum of a user's sessions: also of those that have ended, since another costs nothing.
    pub(super) fn ask(&mut self, uid: u32, now: Instant, pace: Pace, requests: u32) -> Option<Instant> {
        if !self.0.contains_key(&uid) {
            self.0.retain(|_, asked| asked.done_by > now);
        }
        self.0.entry(uid).or_insert_with(|| Asked::new(now)).ask(now, pace.of_stranger(), requests)
    }
}

/// What a session has asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// When all of it would be done at the pace.
    done_by: Instant,
    /// Answers that are due to the broker.
    owed: u32,
    /// Frames of records that it was sent, and has not said of that they were read.
    relayed: u32,
    /// Frames of records that it has sent, since they last cost something.
    frames: u32,
}

impl Asked {
    pub(super) fn new(now: Instant) -> Self {
        Self { done_by: now, owed: 0, relayed: 0, frames: 0 }
    }

    /// The broker asks for an answer.
    pub(super) fn owe(&mut self) {
        self.owed = self.owed.saturating_add(1);
    }

    /// Whether this may be an answer that is due; it is not, then.
    pub(super) fn answer(&mut self) -> bool {
        let is_due = self.owed > 0;
        self.owed = self.owed.saturating_sub(1);
        is_due
    }

    /// It sends a frame of records. What that costs, in requests.
    pub(super) fn frame(&mut self) -> u32 {
        self.frames = (self.frames + 1) % FRAMES_PER_REQUEST;
        u32::from(self.frames == 0)
    }

    /// It is sent a frame of records.
    pub(super) fn relay(&mut self) {
        self.relayed = self.relayed.saturating_add(1);
    }

    /// Whether it may say that it has read a frame.
    pub(super) fn take(&mut self) -> bool {
        let may = self.relayed > 0;
        self.relayed = self.relayed.saturating_sub(1);
        may
    }

    /// Takes what so many requests cost. Until when nothing more is to be read, if that was too much.
    pub(super) fn ask(&mut self, now: Instant, pace: Pace, requests: u32) -> Option<Instant> {
        self.done_by = self.done_by.max(now) + pace.each.saturating_mul(requests);
        let early = (self.done_by - now).saturating_sub(pace.ahead);
        (early > Duration::ZERO).then(|| now + early.min(pace.pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        each: Duration::from_millis(1),
        ahead: Duration::from_millis(10),
        pause: Duration::from_millis(50),
    };

    #[test]
    fn who_asks_too_fast_waits_as_long_as_it_was_too_fast_and_no_longer() {
        let now = Instant::now();
        let mut asked = Asked::new(now);
        let early: Vec<_> = (0..12).map(|_| asked.ask(now, PACE, 1).map(|until| until - now)).collect();
        assert_eq!(early[..10], [None; 10]);
        assert_eq!(early[10..], [Some(PACE.each), Some(2 * PACE.each)]);
        let later = now + Duration::from_millis(3);
        assert_eq!(asked.ask(later, PACE, 1), None, "it has waited");
        assert_eq!(asked.ask(later, PACE, 1000), Some(later + PACE.pause), "a while at a time");
        assert_eq!(asked.ask(now + Duration::from_secs(9), PACE, 10), None, "it is forgiven");
    }

    #[test]
    fn the_sessions_of_a_stranger_share_a_pace_that_outlives_them() {
        let now = Instant::now();
        let mut strangers = Strangers::default();
        let most = 10 * STRANGERS_SESSIONS;
        assert!((0..most).all(|_| strangers.ask(7, now, PACE, 1).is_none()));
        assert_eq!(strangers.ask(7, now, PACE, 1), Some(now + PACE.each / STRANGERS_SESSIONS));
        assert_eq!(strangers.ask(8, now, PACE, 1), None, "another's is its own");
        assert!(strangers.ask(7, now, PACE, 1).is_some(), "who comes beside it has forgotten nothing");
        let later = now + Duration::from_secs(9);
        assert_eq!(strangers.ask(9, later, PACE, 1), None);
        assert_eq!(strangers.0.len(), 1, "what is over is not kept");
    }

    #[test]
    fn frames_of_records_cost_a_part_of_a_request_each() {
        let mut asked = Asked::new(Instant::now());
        let cost: u32 = (0..10 * FRAMES_PER_REQUEST).map(|_| asked.frame()).sum();
        assert_eq!(cost, 10);
    }

    #[test]
    fn only_so_many_answers_are_free_as_were_asked_for() {
        let mut asked = Asked::new(Instant::now());
        assert!(!asked.answer());
        asked.owe();
        assert!(asked.answer() && !asked.answer());
    }
}

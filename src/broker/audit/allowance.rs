//! How many records somebody may cause. Without a limit a client that asks for what it may not have, as fast as it can, fills the disk,
//! and hides what others do.

use std::collections::HashMap;
use std::mem::Discriminant;
use std::time::Instant;

use super::Process;
use crate::access::Component;
use crate::config::{
    AUDIT_WINDOW, BREACHES_PER_USER_MAX, CAUSES_MAX, RECORDS_PER_USER_MAX, REFUSALS_PER_USER_MAX, USERS_MAX,
};
use crate::control::Right;
use crate::wire::{Payer, Refusal};

/// What a refusal is about: the same again within one window is only counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) right: Right,
    pub(super) kind: Discriminant<Refusal>,
    pub(super) what: String,
}

/// What a record is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Refusal(Cause),
    /// What is done to others, or taken away.
    Breach,
    /// What was asked for, and granted.
    Grant,
}

/// Whom records are counted for: components while they are connected, and users, of whom no more is known.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Bearer {
    Component(Component),
    User(Payer),
}

#[derive(Debug)]
struct Account {
    since: Instant,
    process: Process,
    causes: Vec<Cause>,
    untold: u64,
}

/// What all components of a user have caused.
#[derive(Debug)]
struct User {
    since: Instant,
    refusals: u32,
    breaches: u32,
    grants: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    users: HashMap<Payer, User>,
    accounts: HashMap<Bearer, Account>,
}

impl Allowance {
    /// Whether a record may be written. If so, how many were left out before it.
    pub(super) fn takes(
        &mut self,
        now: Instant,
        process: Process,
        component: Option<&Component>,
        subject: Subject,
    ) -> Option<u64> {
        self.make_room(process.payer);
        let user = User::within(&mut self.users, process.payer, now);
        let bearer = component.cloned().map_or(Bearer::User(process.payer), Bearer::Component);
        let fresh = Account { since: now, process, causes: Vec::new(), untold: 0 };
        let account = self.accounts.entry(bearer).or_insert(fresh);
        if now.saturating_duration_since(account.since) >= AUDIT_WINDOW {
            (account.since, account.causes) = (now, Vec::new());
        }
        let (count, limit, cause) = match subject {
            Subject::Refusal(cause) => (&mut user.refusals, REFUSALS_PER_USER_MAX, Some(cause)),
            Subject::Breach => (&mut user.breaches, BREACHES_PER_USER_MAX, None),
            Subject::Grant => (&mut user.grants, RECORDS_PER_USER_MAX, None),
        };
        let known = |cause: &Cause| account.causes.len() == CAUSES_MAX || account.causes.contains(cause);
        if *count == limit || cause.as_ref().is_some_and(known) {
            account.untold += 1;
            return None;
        }
        *count += 1;
        account.causes.extend(cause);
        Some(std::mem::take(&mut account.untold))
    }

    /// A component has gone: how many of its records were left out, if that may be told. Else its user's account has them.
    pub(super) fn leave(&mut self, now: Instant, component: &Component) -> Option<(Process, u64)> {
        let account = self.accounts.remove(&Bearer::Component(component.clone()))?;
        let Account { process, untold, .. } = account;
        if untold == 0 {
            return None;
        }
        let user = User::within(&mut self.users, process.payer, now);
        if user.refusals < REFUSALS_PER_USER_MAX {
            user.refusals += 1;
            return Some((process, untold));
        }
        let fresh = Account { since: now, process, causes: Vec::new(), untold: 0 };
        self.accounts.entry(Bearer::User(process.payer)).or_insert(fresh).untold += untold;
        None
    }

    /// All that was left out and is not told yet.
    pub(super) fn end(&mut self) -> Vec<(Option<Component>, Process, u64)> {
        let untold = self.accounts.drain().filter(|(_, account)| account.untold > 0);
        let untold = untold.map(|(bearer, account)| {
            let component = match bearer {
                Bearer::Component(component) => Some(component),
                Bearer::User(_) => None,
            };
            (component, account.process, account.untold)
        });
        untold.collect()
    }

    /// Forgets the user whose window began first, if there are as many as there may be. Components are as many as sessions.
    fn make_room(&mut self, payer: Payer) {
        if self.users.len() < USERS_MAX || self.users.contains_key(&payer) {
            return;
        }
        let oldest = self.users.iter().min_by_key(|(_, user)| user.since).map(|(payer, _)| *payer);
        if let Some(oldest) = oldest {
            self.users.remove(&oldest);
            self.accounts.remove(&Bearer::User(oldest));
        }
    }
}

impl User {
    /// The user's account of the present window.
    fn within(users: &mut HashMap<Payer, Self>, payer: Payer, now: Instant) -> &mut Self {
        let fresh = || Self { since: now, refusals: 0, breaches: 0, grants: 0 };
        let user = users.entry(payer).or_insert_with(fresh);
        if now.saturating_duration_since(user.since) >= AUDIT_WINDOW {
            *user = fresh();
        }
        user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(uid: u32) -> Process {
        Process { payer: Payer::Uid(uid), uid, pid: Some(1) }
    }

    fn component(name: &str) -> Component {
        Component::from_client_id(name).expect("a legal id")
    }

    fn cause(what: usize) -> Subject {
        let kind = std::mem::discriminant(&Refusal::RingBytes { bytes: 0 });
        Subject::Refusal(Cause { right: Right::Publish, kind, what: what.to_string() })
    }

    #[test]
    fn a_cause_is_told_once_in_a_window_and_then_with_the_count_of_the_rest() {
        let (mut allowance, now, tool) = (Allowance::default(), Instant::now(), component("tool"));
        let mut told = |now, what| allowance.takes(now, process(1), Some(&tool), cause(what));
        assert_eq!(told(now, 0), Some(0));
        assert_eq!((told(now, 0), told(now, 0)), (None, None));
        assert_eq!(told(now, 1), Some(2), "another cause, and two that were not told");
        assert_eq!(told(now, 0), None);
        assert_eq!(told(now + AUDIT_WINDOW, 0), Some(1), "another window");
    }

    #[test]
    fn however_many_causes_components_and_names_there_are_a_user_has_so_many_lines_and_others_have_theirs() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        let mut lines = 0;
        let mut counted = 0;
        for name in 0..200 {
            let name = component(&format!("tool{name}"));
            for what in 0..100 {
                if let Some(untold) = allowance.takes(now, process(1), Some(&name), cause(what)) {
                    (lines, counted) = (lines + 1, counted + untold + 1);
                }
            }
            if let Some((_, untold)) = allowance.leave(now, &name) {
                (lines, counted) = (lines + 1, counted + untold);
            }
        }
        assert_eq!(lines, REFUSALS_PER_USER_MAX);
        assert_eq!(allowance.takes(now, process(2), Some(&component("other")), cause(0)), Some(0));
        counted += allowance.end().iter().map(|(_, _, untold)| untold).sum::<u64>();
        assert_eq!(counted, 200 * 100, "each is told or counted");
    }

    #[test]
    fn what_is_granted_has_an_account_of_its_own_and_users_are_so_many_at_most() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        let tool = component("tool");
        for what in 0..10_000 {
            allowance.takes(now, process(1), Some(&tool), cause(what));
        }
        for _ in 0..RECORDS_PER_USER_MAX {
            assert!(allowance.takes(now, process(1), Some(&tool), Subject::Grant).is_some());
        }
        assert_eq!(allowance.takes(now, process(1), Some(&tool), Subject::Grant), None);
        let breach = allowance.takes(now, process(1), Some(&tool), Subject::Breach);
        assert!(breach.is_some(), "who asks for as much as he can hides no breach");
        for _ in 1..BREACHES_PER_USER_MAX {
            assert_eq!(allowance.takes(now, process(1), Some(&tool), Subject::Breach), Some(0));
        }
        assert_eq!(allowance.takes(now, process(1), Some(&tool), Subject::Breach), None);
        for uid in 0..10_000 {
            allowance.takes(now, process(uid), None, cause(0));
        }
        assert_eq!(allowance.users.len(), USERS_MAX);
        assert!(allowance.accounts.len() <= USERS_MAX + 1);
    }
}

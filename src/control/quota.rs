//! What each user may have of what the broker keeps for its clients.
//!
//! Whatever a client can make the broker, or a publisher, keep is charged to the client's user from the moment that it is asked
//! for until it is gone: a user is what the kernel vouches for, and a session, or a name, costs nothing to have another of. Four
//! limits hold for each [`Resource`]:
//!
//! - **All of it**, for everybody together. It bounds the broker's memory.
//! - **What a user may have**, however little the others want: no user can use up the whole.
//! - **What strangers may have together**; the rest is kept for *components*, the agent's own process and the users that the
//!   operator names as theirs. Of that a stranger has as much as it leaves to the others: half of it for the first, half of
//!   the rest for the second. So however many users somebody has, there is something left for one more, as in dbus-broker, where a user
//!   has 1/n of what is left.
//! - **What a session may have of what its user may**, be that a stranger or not: as much as it leaves to the others of its user. So a
//!   collector that goes wrong does not keep those beside it from subscribing, who have its user.
//!
//! The agent's process has no share, it is limited by the whole alone; its connections are not limited at all, since other
//! clients must not be able to keep it out.

use std::collections::{BTreeMap, BTreeSet};

use super::SessionId;
use crate::wire::{Payer, Refusal, Resource, Sharer};

/// How much of one resource there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// For everybody together.
    pub(crate) total: u64,
    /// For one user.
    pub(crate) per_uid: u64,
    /// For all users together that are no components'.
    pub(crate) strangers: u64,
}

/// How much of each resource there is, and for whom a part of it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// By [`Resource`].
    pub(crate) shares: [Share; Resource::COUNT],
    /// Users of components.
    pub(crate) component_uids: BTreeSet<u32>,
}

/// Who something is charged to: a session, and who answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) session: SessionId,
    pub(super) payer: Payer,
}

type Amounts = [u64; Resource::COUNT];

/// What is in use.
#[derive(Debug)]
pub(super) struct Charges {
    limits: Limits,
    by_payer: BTreeMap<Payer, Amounts>,
    by_session: BTreeMap<SessionId, Amounts>,
    total: Amounts,
    strangers: Amounts,
}

/// Why something can't be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    resource: Resource,
    pub(super) whose: Sharer,
    needed: u64,
    in_use: u64,
    limit: u64,
}

impl From<Exceeded> for Refusal {
    fn from(Exceeded { resource, whose, needed, in_use, limit }: Exceeded) -> Self {
        match resource {
            Resource::RingBytes => Self::RingBudget { whose, needed, in_use, limit },
            _ => Self::Share { resource, whose, needed, in_use, limit },
        }
    }
}

impl Charges {
    pub(super) fn new(limits: Limits) -> Self {
        let none = [0; Resource::COUNT];
        Self { limits, by_payer: BTreeMap::new(), by_session: BTreeMap::new(), total: none, strangers: none }
    }

    /// What a payer has.
    pub(super) fn of(&self, payer: Payer, resource: Resource) -> u64 {
        self.by_payer.get(&payer).map_or(0, |amounts| amounts[resource as usize])
    }

    pub(super) fn total(&self, resource: Resource) -> u64 {
        self.total[resource as usize]
    }

    /// How much a payer, or all together, may have of something, as things are now; `None`: as much as there is.
    pub(super) fn limit(&self, payer: Option<Payer>, resource: Resource) -> Option<u64> {
        let (index, own) = (resource as usize, payer.map_or(0, |payer| self.of(payer, resource)));
        let share = self.limits.shares[index];
        match payer {
            None => Some(share.total),
            Some(Payer::Agent) => None,
            Some(stranger) if self.is_stranger(stranger) => {
                let left = share.strangers.saturating_sub(self.strangers[index]);
                Some(share.per_uid.min(half_with(own, left)))
            }
            Some(Payer::Uid(_)) => Some(share.per_uid),
        }
    }

    /// Who has something, and how much of each.
    pub(super) fn payers(&self) -> impl Iterator<Item = (&Payer, &Amounts)> {
        self.by_payer.iter()
    }

    /// What each session has.
    #[cfg(any(test, fuzzing))]
    pub(super) fn by_session(&self) -> &BTreeMap<SessionId, Amounts> {
        &self.by_session
    }

    pub(super) fn is_stranger(&self, payer: Payer) -> bool {
        matches!(payer, Payer::Uid(uid) if !self.limits.component_uids.contains(&uid))
    }

    /// Whether a session may have so much more.
    pub(super) fn afford(&self, account: Account, resource: Resource, needed: u64) -> Result<(), Exceeded> {
        let (Account { session, payer }, index) = (account, resource as usize);
        let share = self.limits.shares[index];
        let within = |whose, in_use: u64, limit| {
            let fits = needed == 0 || in_use.checked_add(needed).is_some_and(|sum| sum <= limit);
            fits.then_some(()).ok_or(Exceeded { resource, whose, needed, in_use, limit })
        };
        if let Payer::Uid(uid) = payer {
            let own = self.of(payer, resource);
            let left = share.strangers.saturating_sub(self.strangers[index]);
            let limit = match self.is_stranger(payer) {
                true => share.per_uid.min(half_with(own, left)),
                false => share.per_uid,
            };
            within(Sharer::User { uid }, own, limit)?;
            if resource.is_many_for_a_session() {
                let of_session = self.by_session.get(&session).map_or(0, |amounts| amounts[index]);
                let left = limit.saturating_sub(own);
                within(Sharer::Session, of_session, half_with(of_session, left))?;
            }
        }
        within(Sharer::Everybody, self.total(resource), share.total)
    }

    /// Charges a session, whether it may have so much or not.
    pub(super) fn charge(&mut self, account: Account, resource: Resource, amount: u64) {
        self.each(account, resource, |sum| sum.saturating_add(amount));
    }

    /// Takes back a charge.
    pub(super) fn release(&mut self, account: Account, resource: Resource, amount: u64) {
        self.each(account, resource, |sum| sum.saturating_sub(amount));
        let is_used_up = |amounts: &Amounts| *amounts == [0; Resource::COUNT];
        if self.by_payer.get(&account.payer).is_some_and(is_used_up) {
            self.by_payer.remove(&account.payer);
        }
        if self.by_session.get(&account.session).is_some_and(is_used_up) {
            self.by_session.remove(&account.session);
        }
    }

    /// Charges a session, if it may have so much.
    pub(super) fn take(&mut self, account: Account, resource: Resource, needed: u64) -> Result<(), Exceeded> {
        self.afford(account, resource, needed)?;
        self.charge(account, resource, needed);
        Ok(())
    }

    fn each(&mut self, Account { session, payer }: Account, resource: Resource, change: impl Fn(u64) -> u64) {
        let (index, none) = (resource as usize, [0; Resource::COUNT]);
        let is_stranger = self.is_stranger(payer);
        let of_payer = &mut self.by_payer.entry(payer).or_insert(none)[index];
        let of_session = &mut self.by_session.entry(session).or_insert(none)[index];
        for sum in [of_payer, of_session, &mut self.total[index]] {
            *sum = change(*sum);
        }
        if is_stranger {
            self.strangers[index] = change(self.strangers[index]);
        }
    }
}

/// The most that somebody with so much may have where so much is left: as much as is left then.
fn half_with(own: u64, left: u64) -> u64 {
    own.saturating_add(left) / 2
}

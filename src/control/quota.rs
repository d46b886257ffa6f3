//! What each user may have of what the broker keeps for its clients.
//!
//! Whatever a client can make the broker, or a publisher, keep is charged to the client's user from the moment that it is asked
//! for until it is gone: a user is what the kernel vouches for, and a session, or a name, costs nothing to have another of. Three
//! limits hold for each [`Resource`]:
//!
//! - **All of it**, for everybody together. It bounds the broker's memory.
//! - **What a user may have**, however little the others want: no user can use up the whole.
//! - **What strangers may have together**; the rest is kept for *components*, the agent's own process and the users that the
//!   operator names as theirs. Of that a stranger has as much as it leaves to the others: half of it for the first, half of
//!   the rest for the second. So however many users somebody has, there is something left for one more, as in dbus-broker, where a user
//!   has 1/n of what is left.
//!
//! The agent's process has no share, it is limited by the whole alone; its connections are not limited at all, since other
//! clients must not be able to keep it out.

use std::collections::{BTreeMap, BTreeSet};

use super::Payer;
use crate::wire::{Refusal, Resource};

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

type Amounts = [u64; Resource::COUNT];

/// What is in use.
#[derive(Debug, Clone)]
pub(super) struct Charges {
    limits: Limits,
    by_payer: BTreeMap<Payer, Amounts>,
    total: Amounts,
    strangers: Amounts,
}

/// Why something can't be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    resource: Resource,
    /// Whose share is used up; `None`: what there is for all.
    pub(super) uid: Option<u32>,
    needed: u64,
    in_use: u64,
    limit: u64,
}

impl From<Exceeded> for Refusal {
    fn from(Exceeded { resource, uid, needed, in_use, limit }: Exceeded) -> Self {
        match resource {
            Resource::RingBytes => Self::RingBudget { uid, needed, in_use, limit },
            _ => Self::Share { resource, uid, needed, in_use, limit },
        }
    }
}

impl Charges {
    pub(super) fn new(limits: Limits) -> Self {
        let (by_payer, none) = (BTreeMap::new(), [0; Resource::COUNT]);
        Self { limits, by_payer, total: none, strangers: none }
    }

    /// What a payer has.
    pub(super) fn of(&self, payer: Payer, resource: Resource) -> u64 {
        self.by_payer.get(&payer).map_or(0, |amounts| amounts[resource as usize])
    }

    pub(super) fn total(&self, resource: Resource) -> u64 {
        self.total[resource as usize]
    }

    /// Who has something, and how much of each.
    #[cfg(any(test, fuzzing))]
    pub(super) fn payers(&self) -> impl Iterator<Item = (&Payer, &Amounts)> {
        self.by_payer.iter()
    }

    pub(super) fn is_stranger(&self, payer: Payer) -> bool {
        matches!(payer, Payer::Uid(uid) if !self.limits.component_uids.contains(&uid))
    }

    /// Whether a payer may have so much more.
    pub(super) fn afford(&self, payer: Payer, resource: Resource, needed: u64) -> Result<(), Exceeded> {
        let share = self.limits.shares[resource as usize];
        let within = |uid, in_use: u64, limit| {
            let fits = needed == 0 || in_use.checked_add(needed).is_some_and(|sum| sum <= limit);
            fits.then_some(()).ok_or(Exceeded { resource, uid, needed, in_use, limit })
        };
        if let Payer::Uid(uid) = payer {
            let own = self.of(payer, resource);
            within(Some(uid), own, share.per_uid)?;
            if self.is_stranger(payer) {
                let left = share.strangers.saturating_sub(self.strangers[resource as usize]);
                within(Some(uid), own, own.saturating_add(left) / 2)?;
            }
        }
        within(None, self.total(resource), share.total)
    }

    /// Charges a payer, whether it may have so much or not.
    pub(super) fn charge(&mut self, payer: Payer, resource: Resource, amount: u64) {
        self.each(payer, resource, |sum| sum.saturating_add(amount));
    }

    /// Takes back a charge.
    pub(super) fn release(&mut self, payer: Payer, resource: Resource, amount: u64) {
        self.each(payer, resource, |sum| sum.saturating_sub(amount));
        if self.by_payer.get(&payer).is_some_and(|amounts| *amounts == [0; Resource::COUNT]) {
            self.by_payer.remove(&payer);
        }
    }

    /// Charges a payer, if it may have so much.
    pub(super) fn take(&mut self, payer: Payer, resource: Resource, needed: u64) -> Result<(), Exceeded> {
        self.afford(payer, resource, needed)?;
        self.charge(payer, resource, needed);
        Ok(())
    }

    fn each(&mut self, payer: Payer, resource: Resource, change: impl Fn(u64) -> u64) {
        let index = resource as usize;
        let own = &mut self.by_payer.entry(payer).or_insert([0; Resource::COUNT])[index];
        *own = change(*own);
        self.total[index] = change(self.total[index]);
        if self.is_stranger(payer) {
            self.strangers[index] = change(self.strangers[index]);
        }
    }
}

//! What a broker keeps for its clients, as its options say.

use std::collections::BTreeSet;

use crate::config;
use crate::control::{Limits, Pace, Share};
use crate::sys;
use crate::wire::Resource;

/// Of each resource, by [`Resource`]: all of it, and the part of one user.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    totals: [u64; Resource::COUNT],
    per_uid: [u64; Resource::COUNT],
    component_uids: BTreeSet<u32>,
}

impl Default for Shares {
    fn default() -> Self {
        let (mut totals, mut per_uid) = ([0; Resource::COUNT], [0; Resource::COUNT]);
        let mut share = |resource: Resource, total: u64, own: u64| {
            totals[resource as usize] = total;
            per_uid[resource as usize] = own;
        };
        share(Resource::Connections, config::SESSIONS_MAX as u64, config::SESSIONS_PER_UID as u64);
        share(Resource::Handshakes, config::HANDSHAKES_MAX as u64, config::HANDSHAKES_PER_UID as u64);
        let half = |total: u64| (total, total / 2);
        for (resource, (total, own)) in [
            (Resource::Subscriptions, half(config::SUBSCRIPTIONS_OF_ALL as u64)),
            (Resource::PatternBytes, half(config::PATTERN_BYTES_OF_ALL)),
            (Resource::Topics, half(config::TOPICS_OF_ALL as u64)),
            (Resource::Publishers, half(config::PUBLISHERS_OF_ALL as u64)),
            (Resource::RelayedBytes, half(config::RELAYED_BYTES_OF_ALL)),
            (Resource::RingBytes, (config::RING_BUDGET_BYTES, config::RING_BUDGET_PER_UID)),
        ] {
            share(resource, total, own);
        }
        Self { totals, per_uid, component_uids: BTreeSet::new() }
    }
}

impl Shares {
    pub(super) fn total(&mut self, resource: Resource, amount: u64) {
        self.totals[resource as usize] = amount;
    }

    pub(super) fn per_uid(&mut self, resource: Resource, amount: u64) {
        self.per_uid[resource as usize] = amount;
    }

    pub(super) fn component_uids(&mut self, uids: impl IntoIterator<Item = u32>) {
        self.component_uids.extend(uids);
    }

    /// A quarter of everything, and nearly all publishers, are kept for components: the agent's own user, and those that were named.
    pub(super) fn limits(&self) -> Limits {
        let share = |index: usize| {
            let total = self.totals[index];
            let strangers = match index == Resource::Publishers as usize {
                true => config::PUBLISHERS_OF_STRANGERS as u64,
                false => total - total / config::COMPONENTS_PART,
            };
            Share { total, per_uid: self.per_uid[index], strangers }
        };
        let mut component_uids = self.component_uids.clone();
        component_uids.insert(sys::own_uid());
        Limits { shares: std::array::from_fn(share), component_uids }
    }
}

/// How fast a session may ask.
pub(super) fn pace() -> Pace {
    let each = std::time::Duration::from_secs(1) / config::REQUESTS_PER_SECOND;
    Pace { each, ahead: each.saturating_mul(config::REQUESTS_AHEAD), pause: config::REQUESTS_PAUSE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_of_strangers_take_half_of_what_a_session_has_for_rings() {
        let shares = Shares::default().limits().shares;
        let rings = shares[Resource::Publishers as usize].strangers * config::RING_BYTES as u64;
        assert_eq!(rings, shares[Resource::RingBytes as usize].per_uid / 4);
    }
}

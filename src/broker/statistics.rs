//! What the loop adds to what its machine and its clients tell.

use super::poisonings::Poisoning;
use crate::config::STATISTICS_LISTED_MAX;
use crate::control::Facts;
use crate::wire::{Fact, Refusal};

/// Refusals, by cause: there are as many as [`Refusal`] has variants.
#[derive(Debug, Default)]
pub(super) struct Causes(Vec<(u64, Refusal)>);

impl Causes {
    pub(super) fn count(&mut self, refusal: &Refusal) {
        let kind = std::mem::discriminant(refusal);
        match self.0.iter_mut().find(|(_, last)| std::mem::discriminant(last) == kind) {
            Some((count, last)) => {
                *count += 1;
                last.clone_from(refusal);
            }
            None => self.0.push((1, refusal.clone())),
        }
    }

    pub(super) fn tell(&self, facts: &mut Facts) {
        for (count, last) in &self.0 {
            facts.add(Fact::Refusals { count: *count, last: last.clone() });
        }
    }
}

/// The latest breaches of rings.
pub(super) fn tell_poisonings(all: Vec<Poisoning>, facts: &mut Facts) {
    let first = all.len().saturating_sub(STATISTICS_LISTED_MAX);
    facts.omit(first as u64);
    for Poisoning { component, by, count, last_violation } in all.into_iter().skip(first) {
        let (component, by) = (component.to_string(), by.to_string());
        facts.add(Fact::Poisonings { component, by, count, last_violation });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_cause_with_the_last_of_each() {
        let mut causes = Causes::default();
        for bytes in 0..3 {
            causes.count(&Refusal::RingBytes { bytes });
            causes.count(&Refusal::NotAnOperator { uid: 7 });
        }
        let mut facts = Facts::new();
        causes.tell(&mut facts);
        let told = facts.finish();
        let last = Refusal::RingBytes { bytes: 2 };
        let other = Refusal::NotAnOperator { uid: 7 };
        assert_eq!(told, [Fact::Refusals { count: 3, last }, Fact::Refusals { count: 3, last: other }]);
    }
}

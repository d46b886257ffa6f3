//! How often each component has joined and left, and why it has left last: one that crashes again and again is seen so, whoever watches.

use std::time::SystemTime;

use crate::access::Component;
use crate::config::STATISTICS_LISTED_MAX;
use crate::control::{Facts, millis};
use crate::wire::{Fact, GoodbyeReason};

/// One component's.
#[derive(Debug)]
struct Row {
    component: Component,
    joined: u64,
    left: u64,
    last: Option<(SystemTime, Option<GoodbyeReason>)>,
}

/// As many components as are told of; where there are more, those that have joined least go first, and of these the first that came.
#[derive(Debug, Default)]
pub(super) struct Turnover(Vec<Row>);

impl Turnover {
    pub(super) fn join(&mut self, component: &Component) {
        if let Some(row) = self.0.iter_mut().find(|row| row.component == *component) {
            row.joined += 1;
            return;
        }
        if self.0.len() == STATISTICS_LISTED_MAX {
            let least = self.0.iter().enumerate().min_by_key(|(_, row)| row.joined);
            least.map(|(place, _)| place).map(|place| self.0.remove(place));
        }
        self.0.push(Row { component: component.clone(), joined: 1, left: 0, last: None });
    }

    pub(super) fn leave(&mut self, component: &Component, reason: Option<GoodbyeReason>, at: SystemTime) {
        if let Some(row) = self.0.iter_mut().find(|row| row.component == *component) {
            row.left += 1;
            row.last = Some((at, reason));
        }
    }

    pub(super) fn tell(&self, now: SystemTime, facts: &mut Facts) {
        for Row { component, joined, left, last } in &self.0 {
            let ago = |at: SystemTime| millis(now.duration_since(at).unwrap_or_default());
            facts.add(Fact::Turnover {
                component: component.to_string(),
                joined: *joined,
                left: *left,
                last_left_ms: last.as_ref().map(|(at, _)| ago(*at)),
                reason: last.as_ref().and_then(|(_, reason)| reason.clone()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joins_again_and_again_stays_listed_however_many_come_once() {
        let component = |name: &str| Component::from_client_id(name).expect("a legal id");
        let mut turnover = Turnover::default();
        let loops = component("loops");
        for _ in 0..3 {
            turnover.join(&loops);
            turnover.leave(&loops, Some(GoodbyeReason::RouteDeadline), SystemTime::UNIX_EPOCH);
        }
        for number in 0..2 * STATISTICS_LISTED_MAX {
            turnover.join(&component(&format!("c{number}")));
        }
        let mut facts = Facts::new();
        turnover.tell(SystemTime::UNIX_EPOCH, &mut facts);
        let told = facts.finish();
        assert_eq!(told.len(), STATISTICS_LISTED_MAX);
        let expected = Fact::Turnover {
            component: "loops".into(),
            joined: 3,
            left: 3,
            last_left_ms: Some(0),
            reason: Some(GoodbyeReason::RouteDeadline),
        };
        assert_eq!(told[0], expected);
    }
}

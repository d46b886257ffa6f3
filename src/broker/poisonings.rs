//! The account of broken rings, for who watches over the bus.

use std::collections::VecDeque;

use crate::access::Component;
use crate::config::POISONINGS_MAX;

/// One component's breaches of its rings, as one other reported them. A breach ends that ring; what it was is the word of `by`,
/// which the broker can't check.
///
/// ```
/// use daemoneye_eventbus::DaemoneyeBroker;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// let broker = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
/// for poisoning in broker.poisonings().await {
///     println!("{} broke {} rings, says {}", poisoning.component, poisoning.count, poisoning.by);
/// }
/// assert!(broker.poisonings().await.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Poisoning {
    /// Who is said to have broken rings.
    pub component: Component,
    /// Who says so.
    pub by: Component,
    /// Rings broken, since the broker was made. It starts again for a pair that had to give way to others: of 1024 pairs the one
    /// whose last breach is the oldest.
    pub count: u64,
    /// What the last breach was.
    pub last_violation: String,
}

/// All of them, the last to be reported at the end.
#[derive(Debug, Default)]
pub(super) struct Ledger(VecDeque<Poisoning>);

impl Ledger {
    pub(super) fn count(&mut self, component: Component, by: Component, last_violation: String) {
        let known = self.0.iter().position(|entry| entry.component == component && entry.by == by);
        let count = known.and_then(|at| self.0.remove(at)).map_or(0, |entry| entry.count) + 1;
        if self.0.len() == POISONINGS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Poisoning { component, by, count, last_violation });
    }

    pub(super) fn list(&self) -> Vec<Poisoning> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(number: usize) -> Component {
        Component::from_client_id(&format!("c{number}")).expect("a legal id")
    }

    #[test]
    fn what_is_reported_longest_ago_gives_way_and_nothing_grows() {
        let mut ledger = Ledger::default();
        for number in 0..POISONINGS_MAX {
            ledger.count(component(number), component(0), "first".into());
        }
        ledger.count(component(0), component(0), "second".into());
        ledger.count(component(POISONINGS_MAX), component(0), "first".into());
        let list = ledger.list();
        assert_eq!(list.len(), POISONINGS_MAX);
        let of = |number| list.iter().find(|entry| entry.component == component(number));
        assert_eq!(of(0).map(|entry| (entry.count, entry.last_violation.as_str())), Some((2, "second")));
        assert_eq!(of(1), None, "the oldest");
        assert!(of(POISONINGS_MAX).is_some());
    }
}

//! Who is there, for who watches over the components: a stream of joins and leaves, so that one that crashes again and again is seen to.
//!
//! The loop never waits for a reader: each has the newest changes, and a count of those that it was too slow for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender, WeakSender};

use super::turnover::Turnover;
use crate::access::Component;
use crate::config::MEMBERSHIP_CHANGES_MAX;
use crate::control::Member;
use crate::wire::GoodbyeReason;

/// A component has joined, or left.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MembershipChange {
    /// Who, and how that is known.
    pub member: Member,
    /// Whether it has joined or left.
    pub presence: Presence,
    /// When the broker noticed.
    pub at: SystemTime,
}

/// What a [`MembershipChange`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// It was let in.
    Joined,
    /// It has gone.
    Left(Departure),
}

/// How a component has left.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// Its connection or its process has ended, however it did. Which of the two was first says nothing: the kernel closes the connections of
    /// a process that is killed before it is dead.
    Ended,
    /// The broker has ended its session, and said why.
    Dismissed(GoodbyeReason),
}

/// So many of the oldest changes were lost to who reads too slowly. The stream goes on with the oldest that is there: what has come
/// of the others [`members`](crate::DaemoneyeBroker::members) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} changes of the membership were missed")]
pub struct Missed(pub u64);

/// Who joins a bus and who leaves it, in order, from the call of [`membership`](crate::DaemoneyeBroker::membership) on. The newest 1024 changes wait
/// for each reader; nobody waits for a reader.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, DaemoneyeBroker, Departure, EventBusClient, Presence};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// let broker = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
/// broker.start().await?;
/// let mut membership = broker.membership();
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// drop(procmond);
///
/// let joined = membership.recv().await.expect("the broker is there")?;
/// assert_eq!((joined.member.component.as_str(), joined.presence), ("procmond", Presence::Joined));
/// let left = membership.recv().await.expect("the broker is there")?;
/// assert_eq!((left.member.pid, left.presence), (Some(std::process::id()), Presence::Left(Departure::Ended)));
/// broker.shutdown().await?;
/// assert!(membership.recv().await.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Membership {
    /// `None`: the broker was down already.
    changes: Option<Receiver<Arc<MembershipChange>>>,
}

impl Membership {
    pub(super) fn of(changes: &WeakSender<Arc<MembershipChange>>) -> Self {
        Self { changes: changes.upgrade().map(|changes| changes.subscribe()) }
    }

    /// The next change; `None` once the broker was shut down, and all is told. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Result<MembershipChange, Missed>> {
        match self.changes.as_mut()?.recv().await {
            Ok(change) => Some(Ok(MembershipChange::clone(&change))),
            Err(RecvError::Lagged(missed)) => Some(Err(Missed(missed))),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Who is there, and whom that is told.
#[derive(Debug)]
pub(super) struct Roll {
    present: HashMap<Component, Member>,
    changes: Sender<Arc<MembershipChange>>,
    pub(super) turnover: Turnover,
}

impl Roll {
    /// An empty one, and where its changes can be subscribed to for as long as it is there.
    pub(super) fn new() -> (Self, WeakSender<Arc<MembershipChange>>) {
        let changes = broadcast::channel(MEMBERSHIP_CHANGES_MAX).0;
        let weak = changes.downgrade();
        (Self { present: HashMap::new(), changes, turnover: Turnover::default() }, weak)
    }

    pub(super) fn join(&mut self, member: Member, at: SystemTime) {
        self.turnover.join(&member.component);
        self.tell(member.clone(), Presence::Joined, at);
        self.present.insert(member.component.clone(), member);
    }

    pub(super) fn leave(&mut self, component: &Component, reason: Option<GoodbyeReason>, at: SystemTime) {
        if let Some(member) = self.present.remove(component) {
            self.turnover.leave(component, reason.clone(), at);
            let departure = reason.map_or(Departure::Ended, Departure::Dismissed);
            self.tell(member, Presence::Left(departure), at);
        }
    }

    fn tell(&self, member: Member, presence: Presence, at: SystemTime) {
        // Without a reader nobody has to know.
        let _ = self.changes.send(Arc::new(MembershipChange { member, presence, at }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Identity;

    fn member(number: usize) -> Member {
        let component = Component::from_client_id(&format!("c{number}")).expect("a legal id");
        Member { component, uid: 1, pid: None, identity: Identity::Weak }
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_how_many_it_missed_and_then_the_newest() {
        let (mut roll, changes) = Roll::new();
        let mut slow = Membership::of(&changes);
        let count = MEMBERSHIP_CHANGES_MAX + 10;
        for number in 0..count {
            roll.join(member(number), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(slow.recv().await, Some(Err(Missed(10))));
        for number in 10..count {
            let change = slow.recv().await.expect("it is there").expect("it is not too late");
            assert_eq!(change.member, member(number));
        }
        let gone = member(0).component;
        roll.leave(&gone, Some(GoodbyeReason::Replaced), SystemTime::UNIX_EPOCH);
        roll.leave(&gone, None, SystemTime::UNIX_EPOCH);
        drop(roll);
        let left = slow.recv().await.expect("it is there").expect("it is not too late");
        assert_eq!(left.presence, Presence::Left(Departure::Dismissed(GoodbyeReason::Replaced)));
        assert_eq!(slow.recv().await, None, "it has left once");
        assert_eq!(Membership::of(&changes).recv().await, None, "the broker is down");
    }
}

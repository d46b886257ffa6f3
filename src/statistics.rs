//! What a broker knows of its bus, and what its clients say of themselves.
//!
//! Events do not pass the broker, so it counts none: it asks its clients, and shows what they say as their *claim*, which it can't
//! check. Who does not answer in time is shown without. The whole is bounded: what there is no room for is left out, and how much that is is said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::access::Component;
use crate::topic::{Topic, TopicPattern};
use crate::wire::{
    Answer, Fact, GoodbyeReason, Identity, Payer, ReceivedClaim, Refusal, Resource, RingClaim, RingPath,
    RingState, RouteClaim, SubscriptionClaim, TopicClaim, TotalClaim,
};

/// A bus in five figures, from [`DaemoneyeBroker::statistics`](crate::DaemoneyeBroker::statistics): sums of what clients
/// say of themselves, those among them that have left. They do not fall. What a client has counted since it was last asked is missing as long as it does not answer,
/// and for good if it goes without a word: [`BrokerStatistics::missing`] says of how many clients something is missing.
///
/// ```
/// use daemoneye_eventbus::{BrokerOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBus, Opaque};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// let bus = DaemoneyeEventBus::from_broker(DaemoneyeBroker::with_options(BrokerOptions::new(&path))?).await?;
/// let _batches = bus.subscription(&["events.process.#"]).await?;
/// let mut publisher = bus.publisher("events.process.batch").await?;
/// publisher.publish(&Opaque(b"heard"))?;
///
/// let statistics = bus.statistics().await;
/// assert_eq!((statistics.messages_published, statistics.messages_delivered), (1, 1));
/// assert_eq!((statistics.active_subscribers, statistics.active_topics), (1, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBusStatistics {
    /// Events that publishers have published, whether anybody was there for them or not.
    pub messages_published: u64,
    /// Events that came to subscriptions, without those that their filters have rejected: one for two of them counts twice.
    pub messages_delivered: u64,
    /// Subscriptions.
    pub active_subscribers: usize,
    /// Topics that somebody publishes on, or may.
    pub active_topics: usize,
    /// Since the broker was made, in whole seconds.
    pub uptime_seconds: u64,
}

impl From<&BrokerStatistics> for EventBusStatistics {
    fn from(whole: &BrokerStatistics) -> Self {
        let subscriptions = || whole.sessions.iter().flat_map(|session| &session.subscriptions);
        let publishers = whole.sessions.iter().flat_map(|session| &session.publishers);
        let topics: Vec<&TopicStatistics> = publishers.flat_map(|publisher| &publisher.topics).collect();
        let names: BTreeSet<&str> = topics.iter().map(|topic| topic.topic.as_str()).collect();
        let totals = || whole.sessions.iter().filter_map(|session| session.totals);
        let TotalClaim { published, delivered } = whole.departed.totals;
        Self {
            messages_published: totals().fold(published, |sum, claim| sum.saturating_add(claim.published)),
            messages_delivered: totals().fold(delivered, |sum, claim| sum.saturating_add(claim.delivered)),
            active_subscribers: subscriptions().count(),
            active_topics: names.len(),
            uptime_seconds: whole.uptime.as_secs(),
        }
    }
}

/// What there is on a bus, from [`DaemoneyeBroker::broker_statistics`](crate::DaemoneyeBroker::broker_statistics) or
/// [`EventBusClient::broker_statistics`](crate::EventBusClient::broker_statistics). Clients were asked up to 400 ms before.
///
/// ```
/// use daemoneye_eventbus::{Answer, ConnectOptions, DaemoneyeBroker, EventBusClient, Opaque};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// let broker = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
/// broker.start().await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// let mut publisher = procmond.publisher("events.process.batch").await?;
/// publisher.publish(&Opaque(b"unheard"))?;
///
/// let statistics = broker.broker_statistics().await.expect("it was not shut down");
/// let [session] = &statistics.sessions[..] else { panic!("it is alone") };
/// assert_eq!((session.component.as_str(), session.answer), ("procmond", Answer::Told));
/// let topic = &session.publishers[0].topics[0];
/// assert_eq!(topic.topic.as_str(), "events.process.batch");
/// assert_eq!(topic.claim.map(|claim| (claim.events, claim.reached)), Some((1, 0)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerStatistics {
    /// Since the broker was made, in whole milliseconds.
    pub uptime: Duration,
    /// Connections that are open, those among them that are not let in yet, and that of the broker's own process.
    pub connections: u64,
    /// Connections that were made, ever.
    pub accepted: u64,
    /// Connections that the broker has ended before they were let in, ever.
    pub turned_away: u64,
    /// Who is there, in the order in which they came.
    pub sessions: Vec<SessionStatistics>,
    /// The rings between them.
    pub rings: Vec<RingStatistics>,
    /// Who was there and is not any more.
    pub departed: DepartedStatistics,
    /// How often components have joined and left: of 64, those first that have joined more often.
    pub turnover: Vec<TurnoverStatistics>,
    /// Refusals since the broker was made, by cause.
    pub refusals: Vec<RefusalStatistics>,
    /// Rings that were said to be broken, by who broke them and who says so: the latest 64 of these pairs.
    pub poisonings: Vec<PoisoningStatistics>,
    /// What of each [`Resource`] is in use: of all together first, then by who has it, of the first 64.
    pub shares: Vec<ShareStatistics>,
    /// Facts that are left out here, since there are too many: topics, rings, subscriptions, patterns.
    pub omitted: u64,
}

/// Sessions that are over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DepartedStatistics {
    /// How many.
    pub sessions: u64,
    /// Of these, those that have gone without a last word: killed, sent away, or of an older version. What they have counted since they were last asked is
    /// missing below.
    pub without_word: u64,
    /// What they have said of themselves, together.
    pub totals: TotalClaim,
}

/// How often a component has joined and left.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TurnoverStatistics {
    /// Who.
    pub component: Component,
    /// How often it was let in.
    pub joined: u64,
    /// How often it has left.
    pub left: u64,
    /// How long ago it has left last, in whole milliseconds; `None`: it never has.
    pub last_left: Option<Duration>,
    /// Why the broker has ended that session; `None`: the connection or the process has ended.
    pub reason: Option<GoodbyeReason>,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStatistics {
    /// The broker's number for it: a newer session has a larger one.
    pub number: u64,
    /// The name.
    pub component: Component,
    /// The user of its process.
    pub uid: u32,
    /// The number of its process; `None` where it has none here, being in another namespace.
    pub pid: Option<u32>,
    /// How it is known who it is.
    pub identity: Identity,
    /// Since it was let in, in whole milliseconds.
    pub connected: Duration,
    /// Whether it has said what it has counted; without that none of its claims is there.
    pub answer: Answer,
    /// What it has said of all its publishers and subscriptions when it last answered, also if it does not now.
    pub totals: Option<TotalClaim>,
    /// What it says that it has received.
    pub received: Option<ReceivedClaim>,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionStatistics>,
    /// Its publishers.
    pub publishers: Vec<PublisherStatistics>,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionStatistics {
    /// Its client's number for it.
    pub number: u32,
    /// Data bytes of rings that come to be for it.
    pub ring_bytes: u64,
    /// The patterns that events come for, as the policy is now.
    pub granted: Vec<TopicPattern>,
    /// What it asked for, and may not have.
    pub withheld: Vec<TopicPattern>,
    /// What its client says that came of it; clients speak of 256 at most.
    pub claim: Option<SubscriptionClaim>,
}

/// One publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublisherStatistics {
    /// The broker's number for it.
    pub number: u64,
    /// Its topics.
    pub topics: Vec<TopicStatistics>,
}

/// One topic of a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicStatistics {
    /// The topic.
    pub topic: Topic,
    /// What its publisher says that came of the events on it; clients speak of 256 topics at most.
    pub claim: Option<TopicClaim>,
}

/// One ring: from a publisher to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingStatistics {
    /// The number of the publisher.
    pub publisher: u64,
    /// Whose it is.
    pub from: Component,
    /// Who hears it.
    pub to: Component,
    /// Bytes of its data.
    pub bytes: u64,
    /// How far it is.
    pub state: RingState,
    /// What it leads through, and why.
    pub path: RingPath,
    /// Events that the broker has not sent on, since what waits for its subscriber had come up to a limit: [`Resource::RelayedBytes`].
    pub withheld: u64,
    /// Topics that lead over it: so many, and those that there was room to tell of.
    pub route_count: u32,
    /// These topics.
    pub routes: Vec<RouteStatistics>,
    /// What its publisher says that it did with it; clients speak of 256 at most.
    pub claim: Option<RingClaim>,
}

/// One topic of a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteStatistics {
    /// The topic.
    pub topic: Topic,
    /// Whether its events go there: a way that is being made, or taken back, may not lead there yet, or any more.
    pub active: bool,
    /// What its subscriber says that came of it; clients speak of 256 at most.
    pub claim: Option<RouteClaim>,
}

/// Refusals of one cause: [`Refusal`] has a variant for each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusalStatistics {
    /// How many.
    pub count: u64,
    /// The last of them.
    pub last: Refusal,
}

/// Rings of one component that one other says it broke.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoisoningStatistics {
    /// Who is said to have broken rings.
    pub component: Component,
    /// Who says so.
    pub by: Component,
    /// How many.
    pub count: u64,
    /// What the last breach was, in the words of who says so.
    pub last_violation: String,
}

/// What is in use of one thing that the broker keeps for its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareStatistics {
    /// Who has it; `None`: all together.
    pub payer: Option<Payer>,
    /// What.
    pub resource: Resource,
    /// How much of it.
    pub in_use: u64,
    /// How much it may be; `None`: the agent's process is limited by the whole alone. That of a stranger grows when others let go of something.
    pub limit: Option<u64>,
}

impl BrokerStatistics {
    /// Of how many clients something is missing in the sums of [`EventBusStatistics`]: of those that have not answered, and those that have gone without
    /// a last word.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let mute = self.sessions.iter().filter(|session| session.answer != Answer::Told).count();
        self.departed.without_word.saturating_add(mute as u64)
    }

    /// Puts facts together. One that makes no sense, being about nothing that was told before, counts as left out.
    pub(crate) fn of(facts: impl IntoIterator<Item = Fact>) -> Self {
        let mut assembly = Assembly::default();
        for fact in facts {
            let made_sense = assembly.take(fact).is_some();
            assembly.whole.omitted += u64::from(!made_sense);
        }
        assembly.whole
    }
}

/// What is being put together, and where each session is in it.
#[derive(Debug, Default)]
struct Assembly {
    whole: BrokerStatistics,
    sessions: BTreeMap<u64, usize>,
    /// The ring that was told of last made sense.
    of_ring: bool,
}

impl Assembly {
    fn session(&mut self, number: u64) -> Option<&mut SessionStatistics> {
        self.whole.sessions.get_mut(*self.sessions.get(&number)?)
    }

    fn subscription(&mut self, session: u64, number: u32) -> Option<&mut SubscriptionStatistics> {
        // A pattern comes right behind what it is of.
        let last = self.session(session)?.subscriptions.last_mut();
        last.filter(|subscription| subscription.number == number)
    }

    fn take(&mut self, fact: Fact) -> Option<()> {
        match fact {
            Fact::Broker { uptime_ms, connections, accepted, turned_away } => {
                self.whole.uptime = Duration::from_millis(uptime_ms);
                (self.whole.connections, self.whole.accepted) = (connections, accepted);
                self.whole.turned_away = turned_away;
            }
            fact @ Fact::Session { .. } => self.take_session(fact)?,
            Fact::Subscription { session, subscription, ring_bytes, claim } => {
                let (granted, withheld) = (Vec::new(), Vec::new());
                let number = subscription;
                let subscription = SubscriptionStatistics { number, ring_bytes, granted, withheld, claim };
                self.session(session)?.subscriptions.push(subscription);
            }
            Fact::Pattern { session, subscription, pattern, withheld } => {
                let subscription = self.subscription(session, subscription)?;
                let list = if withheld { &mut subscription.withheld } else { &mut subscription.granted };
                list.push(pattern);
            }
            Fact::Topic { session, publisher: number, topic, claim } => {
                let publishers = &mut self.session(session)?.publishers;
                if publishers.last().is_none_or(|publisher| publisher.number != number) {
                    publishers.push(PublisherStatistics { number, topics: Vec::new() });
                }
                publishers.last_mut()?.topics.push(TopicStatistics { topic, claim });
            }
            fact @ Fact::Ring { .. } => self.take_ring(fact)?,
            Fact::Route { topic, active, claim } => {
                // Routes come right behind their ring.
                let ring = self.whole.rings.last_mut().filter(|_| self.of_ring)?;
                ring.routes.push(RouteStatistics { topic, active, claim });
            }
            Fact::Refusals { count, last } => self.whole.refusals.push(RefusalStatistics { count, last }),
            Fact::Poisonings { component, by, count, last_violation } => {
                let component = Component::from_client_id(&component).ok()?;
                let by = Component::from_client_id(&by).ok()?;
                let poisoning = PoisoningStatistics { component, by, count, last_violation };
                self.whole.poisonings.push(poisoning);
            }
            Fact::Share { payer, resource, in_use, limit } => {
                self.whole.shares.push(ShareStatistics { payer, resource, in_use, limit });
            }
            Fact::Departed { sessions, without_word, totals } => {
                self.whole.departed = DepartedStatistics { sessions, without_word, totals };
            }
            Fact::Turnover { component, joined, left, last_left_ms, reason } => {
                let component = Component::from_client_id(&component).ok()?;
                let last_left = last_left_ms.map(Duration::from_millis);
                self.whole.turnover.push(TurnoverStatistics { component, joined, left, last_left, reason });
            }
            Fact::Omitted { facts } => self.whole.omitted = self.whole.omitted.saturating_add(facts),
        }
        Some(())
    }

    fn take_ring(&mut self, fact: Fact) -> Option<()> {
        let Fact::Ring { publisher, from, to, bytes, state, path, withheld, routes: route_count, claim } =
            fact
        else {
            return None;
        };
        self.of_ring = false;
        let (from, to) = (self.session(from)?.component.clone(), self.session(to)?.component.clone());
        self.of_ring = true;
        let routes = Vec::new();
        let ring =
            RingStatistics { publisher, from, to, bytes, state, path, withheld, route_count, routes, claim };
        self.whole.rings.push(ring);
        Some(())
    }

    fn take_session(&mut self, fact: Fact) -> Option<()> {
        let Fact::Session { session, component, uid, pid, identity, connected_ms, answer, totals, received } =
            fact
        else {
            return None;
        };
        let component = Component::from_client_id(&component).ok()?;
        self.sessions.insert(session, self.whole.sessions.len());
        self.whole.sessions.push(SessionStatistics {
            number: session,
            component,
            uid,
            pid,
            identity,
            connected: Duration::from_millis(connected_ms),
            answer,
            totals,
            received,
            subscriptions: Vec::new(),
            publishers: Vec::new(),
        });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_about_nothing_that_was_told_are_counted_and_left_out() {
        let session = |component: &str| Fact::Session {
            session: 1,
            component: component.into(),
            uid: 0,
            pid: None,
            identity: Identity::Weak,
            connected_ms: 1,
            answer: Answer::Unable,
            totals: None,
            received: None,
        };
        let subscription =
            |session| Fact::Subscription { session, subscription: 2, ring_bytes: 3, claim: None };
        let pattern = |subscription| Fact::Pattern {
            session: 1,
            subscription,
            pattern: TopicPattern::new("a.#").expect("a pattern"),
            withheld: true,
        };
        let (path, withheld) = (RingPath::Memory, 0);
        let (publisher, from, bytes, state, routes, claim) = (1, 1, 1, RingState::Ready, 1, None);
        let ring = |to| Fact::Ring {
            publisher,
            from,
            to,
            bytes,
            state,
            path: path.clone(),
            withheld,
            routes,
            claim,
        };
        let route = || {
            let topic = Topic::new("a.b").expect("a topic");
            Fact::Route { topic, active: true, claim: None }
        };
        let facts = [
            subscription(1),
            session("No Name"),
            session("tool"),
            subscription(1),
            subscription(2),
            pattern(2),
            pattern(3),
            route(),
            ring(1),
            route(),
            ring(2),
            route(),
            Fact::Omitted { facts: 10 },
        ];
        let whole = BrokerStatistics::of(facts);
        assert_eq!(whole.omitted, 17);
        assert_eq!((whole.sessions.len(), whole.rings.len()), (1, 1));
        assert_eq!(whole.rings[0].routes.len(), 1);
        let [subscription] = &whole.sessions[0].subscriptions[..] else { panic!("one") };
        assert_eq!((subscription.granted.len(), subscription.withheld.len()), (0, 1));
    }
}

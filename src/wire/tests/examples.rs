//! A value of each variant that is sent, in the order of their numbers.

use shm::SegmentName;

use crate::access::{Denial, Withheld};
use crate::hierarchy::TopicAccessLevel;
use crate::topic::{Topic, TopicPattern};
use crate::wire::relayed::Head;
use crate::wire::{
    Answer, Claims, Credential, Epoch, Fact, GoodbyeReason, Handle, Hello, Identity, Latencies, Life, Needed,
    Nonce, Notice, OrderId, Payer, Proof, PublisherId, ReceivedClaim, Refusal, RelayedRecords, Request,
    Resource, RingClaim, RingId, RingPath, RingState, RouteClaim, Sharer, SlotTarget, SubscriptionClaim,
    TokenId, TopicClaim, TotalClaim, Versions, Welcome,
};

/// An enum of the protocol, which the page has a table for.
pub(super) trait Documented: Sized + 'static {
    /// What stands above the table.
    const HEADING: &str;
    /// All there are.
    const VARIANTS: &[&str];

    fn variant(&self) -> &'static str;

    fn examples() -> Vec<Self>;
}

/// A variant that is missing here does not compile.
macro_rules! documented {
    ($type:ident, [$($variant:ident),+ $(,)?], $examples:expr) => {
        impl Documented for $type {
            const HEADING: &str = stringify!($type);
            const VARIANTS: &[&str] = &[$(stringify!($variant)),+];

            fn variant(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => stringify!($variant),)+
                }
            }

            fn examples() -> Vec<Self> {
                $examples
            }
        }
    };
}

documented!(
    Request,
    [
        Hello,
        Declare,
        ClosePublisher,
        Subscribe,
        Unsubscribe,
        ProducerSegment,
        ConsumerSegment,
        Done,
        NoRing,
        Poisoned,
        Returned,
        Told,
        Statistics,
        Relay,
        Took,
        Finished,
        Begun,
        Leaving,
    ],
    requests()
);
documented!(
    Notice,
    [
        Welcome,
        Refused,
        Declared,
        Subscribed,
        MakeProducerSegment,
        MakeConsumerSegment,
        AttachProducer,
        AttachConsumer,
        Grant,
        Route,
        Unroute,
        Revoke,
        CloseRing,
        Goodbye,
        Greeting,
        Settled,
        Tell,
        Statistics,
        RelayTo,
        RelayFrom,
        Relayed,
        Took,
        Finish,
    ],
    notices()
);
documented!(
    Refusal,
    [
        Version,
        BadName,
        NameTaken,
        Access,
        Malformed,
        TooMany,
        RingBytes,
        RingBudget,
        Share,
        Unproven,
        NotAnOperator
    ],
    refusals()
);
documented!(
    GoodbyeReason,
    [
        Shutdown,
        Protocol,
        RouteDeadline,
        HelloDeadline,
        NoRing,
        TooSlow,
        TooMuchUnread,
        Refused,
        Replaced,
        Host,
    ],
    goodbyes()
);
documented!(Denial, [NoRule, NotAPublisher, NotASubscriber], denials());
documented!(
    Resource,
    [Connections, Handshakes, Subscriptions, PatternBytes, Topics, RingBytes, Publishers, RelayedBytes],
    vec![
        Self::Connections,
        Self::Handshakes,
        Self::Subscriptions,
        Self::PatternBytes,
        Self::Topics,
        Self::RingBytes,
        Self::Publishers,
        Self::RelayedBytes,
    ]
);
documented!(
    Sharer,
    [Everybody, User, Session],
    vec![Self::Everybody, Self::User { uid: 1000 }, Self::Session]
);
documented!(
    Identity,
    [Weak, Token, Invitation, Embedded],
    vec![Self::Weak, Self::Token, Self::Invitation, Self::Embedded]
);
documented!(Answer, [Told, NotAnswering, Unable], vec![Self::Told, Self::NotAnswering, Self::Unable]);
documented!(RingState, [Forming, Ready, Poisoned], vec![Self::Forming, Self::Ready, Self::Poisoned]);
documented!(
    RingPath,
    [Memory, RelayOfControl, RelayOfAll, RelayInstead],
    vec![Self::Memory, Self::RelayOfControl, Self::RelayOfAll, Self::RelayInstead { cause: "why".into() },]
);
documented!(Payer, [Agent, Uid], vec![Self::Agent, Self::Uid(1000)]);
documented!(
    Fact,
    [
        Broker,
        Session,
        Subscription,
        Pattern,
        Topic,
        Ring,
        Refusals,
        Poisonings,
        Share,
        Omitted,
        Route,
        Departed,
        Turnover
    ],
    facts()
);
documented!(Needed, [Key, Token], vec![Self::Key, Self::Token]);
documented!(
    Credential,
    [Nothing, Key, Token],
    vec![Self::Nothing, Self::Key, Self::Token(TokenId([0xcc; 16]))]
);
documented!(Handle, [Descriptor, Name], vec![Self::Descriptor, Self::Name(name())]);
documented!(
    TopicAccessLevel,
    [Public, Restricted, Privileged],
    vec![Self::Public, Self::Restricted, Self::Privileged]
);

pub(super) fn nonce(byte: u8) -> Nonce {
    Nonce([byte; 32])
}

pub(super) fn hello() -> Hello {
    Hello {
        versions: Versions { oldest: 1, newest: 2 },
        features: 0,
        client_id: "procmond-7".into(),
        nonce: nonce(0xaa),
        credential: Credential::Key,
        life: Life { client: 0, before: 0 },
        proof: Some(Proof([0xcc; 32])),
    }
}

fn name() -> SegmentName {
    "/deebp000ya0123456789abcdefghi".parse().expect("it is well-formed")
}

fn requests() -> Vec<Request> {
    let ring = RingId(300);
    vec![
        Request::Hello(Box::new(hello())),
        Request::Declare { request: 1, publisher: 2, topic_number: 3, topic: "a.b".into() },
        Request::ClosePublisher { publisher: 2 },
        Request::Subscribe {
            request: 1,
            subscription: 2,
            patterns: vec!["a.#".into(), "+".into()],
            ring_bytes: Some(1 << 20),
        },
        Request::Unsubscribe { subscription: 2 },
        Request::ProducerSegment { ring, handle: Handle::Descriptor },
        Request::ConsumerSegment { ring, handle: Handle::Descriptor },
        Request::Done { order: OrderId(70_000) },
        Request::NoRing { ring, cause: "why".into() },
        Request::Poisoned { ring, violation: "how".into() },
        Request::Returned,
        Request::Told { claims: Box::new(claims()) },
        Request::Statistics { request: 1 },
        Request::Relay { ring, records: records() },
        Request::Took { ring, cost: 1000 },
        Request::Finished,
        Request::Begun,
        Request::Leaving { totals: totals() },
    ]
}

fn notices() -> Vec<Notice> {
    let (ring, order, publisher) = (RingId(300), OrderId(70_000), PublisherId(5));
    let pattern = |text| TopicPattern::new(text).expect("it is well-formed");
    let welcome = Welcome {
        version: 1,
        epoch: Epoch(0x0102_0304_0506_0708),
        component: "procmond".into(),
        ring_bytes: 8 << 20,
        backing: shm::Backing::Named,
        proof: Some(Proof([0xdd; 32])),
    };
    vec![
        Notice::Welcome(welcome),
        Notice::Refused { request: 1, refusal: Refusal::RingBytes { bytes: 5 } },
        Notice::Declared { request: 1, publisher },
        Notice::Subscribed {
            request: 1,
            granted: vec![pattern("a.#")],
            withheld: vec![withheld(pattern("b"))],
            missed: vec!["netmond".into()],
        },
        Notice::MakeProducerSegment {
            ring,
            publisher: 2,
            ring_bytes: 1 << 20,
            subscriber: "agent".into(),
            client: 5,
        },
        Notice::MakeConsumerSegment { ring, publisher, component: "fsmond".into(), client: 5, number: 2 },
        Notice::AttachProducer { ring, handle: Handle::Descriptor },
        Notice::AttachConsumer { ring, handle: Handle::Descriptor, ring_bytes: 1 << 20 },
        Notice::Grant { order, ring, slot: 2, generation: 3, topic: Topic::new("a.b").expect("it is one") },
        Notice::Route {
            order,
            publisher: 2,
            topic_number: 3,
            target: Some(SlotTarget { ring, slot: 4, generation: 5 }),
        },
        Notice::Unroute { order, publisher: 2, topic_number: 3, ring: Some(ring) },
        Notice::Revoke { ring, slot: 4 },
        Notice::CloseRing { ring, accused: Some("how".into()) },
        Notice::Goodbye { reason: GoodbyeReason::TooSlow { limit: 4096 } },
        Notice::Greeting { nonce: nonce(0xbb) },
        Notice::Settled { component: "fsmond".into(), client: 5 },
        Notice::Tell,
        Notice::Statistics { request: 1, facts: vec![Fact::Omitted { facts: 2 }], more: true },
        Notice::RelayTo { ring, publisher: 2, window: 1 << 20, subscriber: "agent".into(), client: 5 },
        Notice::RelayFrom {
            ring,
            publisher,
            window: 1 << 20,
            component: "fsmond".into(),
            client: 5,
            number: 2,
        },
        Notice::Relayed { ring, records: records() },
        Notice::Took { ring, cost: 1000 },
        Notice::Finish,
    ]
}

/// One record of two bytes.
fn records() -> RelayedRecords {
    let head = Head { slot: 4, generation: 5, events: 1, sequence: 6, bytes: 2 };
    RelayedRecords([&head.to_bytes()[..], &[0xaa, 0xbb]].concat())
}

fn totals() -> TotalClaim {
    TotalClaim { published: 37, delivered: 38 }
}

fn received() -> ReceivedClaim {
    let latencies =
        Latencies { events: 21, p50_nanos: 22, p90_nanos: 23, p99_nanos: 24, p999_nanos: 25, max_nanos: 26 };
    ReceivedClaim { events: 1, skipped: 2, bytes_waiting: 3, bytes_waiting_max: 4, latencies }
}

fn claims() -> Claims {
    let topic = TopicClaim {
        events: 7,
        reached: 8,
        dropped: 9,
        too_large: 28,
        too_late: 29,
        unkept: 30,
        kept: 31,
        expired: 32,
    };
    let ring = RingClaim { events: 10, dropped: 11, too_large: 33, bytes: 12, bytes_waiting: 27 };
    let subscription = SubscriptionClaim { received: 14, lost_in_ring: 15, lost_in_queue: 16, filtered: 34 };
    Claims {
        totals: totals(),
        received: received(),
        topics: vec![(5, 6, topic)],
        rings: vec![(300, ring)],
        subscriptions: vec![(13, subscription)],
        routes: vec![(301, 35, RouteClaim { received: 36 })],
    }
}

fn facts() -> Vec<Fact> {
    let Claims { topics, rings, subscriptions, routes, .. } = claims();
    vec![
        Fact::Broker { uptime_ms: 1000, connections: 1, accepted: 2, turned_away: 3 },
        Fact::Session {
            session: 1,
            component: "procmond".into(),
            uid: 0,
            pid: Some(7),
            identity: Identity::Token,
            connected_ms: 2,
            answer: Answer::Told,
            totals: Some(totals()),
            received: Some(received()),
        },
        Fact::Subscription { session: 1, subscription: 2, ring_bytes: 3, claim: Some(subscriptions[0].1) },
        Fact::Pattern {
            session: 1,
            subscription: 2,
            pattern: TopicPattern::new("a.#").expect("it is one"),
            withheld: true,
        },
        Fact::Topic {
            session: 1,
            publisher: 2,
            topic: Topic::new("a.b").expect("it is one"),
            claim: Some(topics[0].2),
        },
        Fact::Ring {
            publisher: 1,
            from: 2,
            to: 3,
            bytes: 4,
            state: RingState::Ready,
            path: RingPath::RelayInstead { cause: "why".into() },
            withheld: 6,
            routes: 5,
            claim: Some(rings[0].1),
        },
        Fact::Refusals { count: 1, last: Refusal::RingBytes { bytes: 5 } },
        Fact::Poisonings { component: "a".into(), by: "b".into(), count: 1, last_violation: "how".into() },
        Fact::Share { payer: Some(Payer::Uid(1000)), resource: Resource::Topics, in_use: 1, limit: Some(2) },
        Fact::Omitted { facts: 1 },
        Fact::Route { topic: Topic::new("a.b").expect("it is one"), active: true, claim: Some(routes[0].2) },
        Fact::Departed { sessions: 1, without_word: 2, totals: totals() },
        Fact::Turnover {
            component: "a".into(),
            joined: 1,
            left: 2,
            last_left_ms: Some(3),
            reason: Some(GoodbyeReason::RouteDeadline),
        },
    ]
}

fn withheld(pattern: TopicPattern) -> Withheld {
    Withheld { pattern, level: Some(TopicAccessLevel::Restricted), needed: "who".into() }
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::Version {
            broker: Versions { oldest: 1, newest: 2 },
            client: Versions { oldest: 3, newest: 4 },
        },
        Refusal::BadName { client_id: "A".into() },
        Refusal::NameTaken { component: "agent".into() },
        Refusal::Access(Denial::NoRule { topic: "a".into(), component: "b".into() }),
        Refusal::Malformed { text: "..".into() },
        Refusal::TooMany { what: "x".into(), limit: 64 },
        Refusal::RingBytes { bytes: 5 },
        Refusal::RingBudget { whose: Sharer::Everybody, needed: 1, in_use: 2, limit: 3 },
        Refusal::Share {
            resource: Resource::Topics,
            whose: Sharer::User { uid: 1000 },
            needed: 1,
            in_use: 2,
            limit: 3,
        },
        Refusal::Unproven { component: "procmond".into(), needed: Needed::Token },
        Refusal::NotAnOperator { uid: 1000 },
    ]
}

fn goodbyes() -> Vec<GoodbyeReason> {
    vec![
        GoodbyeReason::Shutdown,
        GoodbyeReason::Protocol { what: "x".into() },
        GoodbyeReason::RouteDeadline,
        GoodbyeReason::HelloDeadline,
        GoodbyeReason::NoRing { cause: "x".into() },
        GoodbyeReason::TooSlow { limit: 4096 },
        GoodbyeReason::TooMuchUnread { limit: 1 << 20 },
        GoodbyeReason::Refused { refusal: Refusal::RingBytes { bytes: 5 } },
        GoodbyeReason::Replaced,
        GoodbyeReason::Host { cause: "x".into() },
    ]
}

fn denials() -> Vec<Denial> {
    let (topic, component, needed) = ("a".to_owned(), "b".to_owned(), "c".to_owned());
    let level = TopicAccessLevel::Privileged;
    vec![
        Denial::NoRule { topic: topic.clone(), component: component.clone() },
        Denial::NotAPublisher {
            topic: topic.clone(),
            level,
            component: component.clone(),
            needed: needed.clone(),
        },
        Denial::NotASubscriber { topic, level, component, needed },
    ]
}

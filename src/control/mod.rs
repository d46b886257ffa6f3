//! The broker as a machine: `(now, input) → actions`. No socket, clock, lock or runtime in here.
//!
//! It knows sessions, publishers with their topics, subscriptions, and **routes**: a route leads one topic of one publisher to
//! one session. A route to another process runs over a **ring**, of which there is one for each publisher and session.
//!
//! # How a ring comes to be
//!
//! ```text
//!   publisher's session            broker                 subscriber's session
//!        │◄── MakeProducerSegment + bell ── │ ── MakeConsumerSegment + bell ──►│
//!        │ ── ProducerSegment + P ─────────►│◄─────────── ConsumerSegment + C ─│     the I/O loop checks P and C
//!        │◄───────────── AttachProducer + C │ AttachConsumer + P ─────────────►│     with the kernel
//! ```
//!
//! # How a route grows and shrinks
//!
//! Growing goes to the receiver first, shrinking to the publisher first, so that a correct publisher never uses a slot that
//! its receiver does not know:
//!
//! ```text
//!   NeedsRing ──► Granting ──Done──► Routing ──Done──► Active ──► Unrouting ──Done──► gone, or Granting again
//!                 (Grant to the      (Route to the                (Unroute to the     (Revoke to the
//!                  subscriber)        publisher)                   publisher)          subscriber)
//! ```
//!
//! Each step is an *order* that the session must answer; a route that nobody wants any more finishes the step it is in.
//! A subscribe, and the declaration of a topic, is answered once all its routes are active: the **barrier**.
//!
//! # Deadlines
//!
//! Each order, and each request for a segment, has a deadline of its own, and who does not meet it loses its session. A
//! deadline for the whole of a subscribe would let one side use up the other's time: a subscriber that answers its grant just
//! before the end would have the publisher sent away. So a wait lasts for four steps at most: segment, the smaller segment in
//! its place, grant, route (or unroute, grant, route), each within its deadline.

mod budget;
mod endings;
mod facts;
mod fallback;
mod inquiry;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
mod pace;
mod quota;
mod relay;
mod reload;
mod requests;
mod routes;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::access::{AccessPolicy, Component};
use crate::routing::Trie;
use crate::wire::{
    Epoch, Fact, GoodbyeReason, Hello, Identity, Needed, Notice, OrderId, Payer, PublisherId, Refusal,
    Request, RingId,
};
use quota::Charges;
use relay::Lane;
use reload::Reload;
use requests::Wait;
use routes::{Order, Ring, Route, RouteKey, Segment};
use sessions::{Interest, Publisher, Session};

pub use budget::RingCharge;
pub(crate) use facts::{Facts, millis};
use inquiry::Inquiries;
pub(crate) use inquiry::{Asker, Inquired};
pub(crate) use pace::Pace;
use pace::Strangers;
pub(crate) use quota::{Limits, Share};
pub use reload::PolicyChange;
pub(crate) use routes::Awaited;
pub use sessions::Member;
pub(crate) use sessions::{AGENT, Admission, Known};

/// One connection of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// Who a session may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Another process, of this user, over the socket.
    Remote { uid: u32 },
    /// Another process, of this user, over a connection that was made for it and for one name.
    Invited { uid: u32 },
    /// The process that embeds the broker: it may be the agent.
    Embedded,
}

impl Origin {
    fn payer(self) -> Payer {
        match self {
            Self::Remote { uid } | Self::Invited { uid } => Payer::Uid(uid),
            Self::Embedded => Payer::Agent,
        }
    }
}

/// What happens to the broker. `F` stands for a descriptor.
#[derive(Debug)]
pub(crate) enum Input<F> {
    Connected {
        session: SessionId,
        origin: Origin,
    },
    Frame {
        session: SessionId,
        request: Request,
        descriptor: Option<F>,
    },
    /// The client broke the protocol below the level of messages, or the kernel vouches not for what it sent.
    Faulty {
        session: SessionId,
        reason: GoodbyeReason,
    },
    /// The connection is gone.
    Ended {
        session: SessionId,
    },
    /// The two ends of the doorbell asked for by [`Action::MakeDoorbell`]: the producer's, the consumer's.
    Doorbell {
        ring: RingId,
        ends: Option<(F, F)>,
    },
    /// The answer to [`Action::Admit`]: what the client's proof has shown, or what it lacks.
    Admitted {
        session: SessionId,
        admission: Result<Admission, Needed>,
    },
    /// Another policy is to be in force. The number says which of them [`Action::Reloaded`] answers.
    Reload {
        number: u64,
        policy: AccessPolicy,
    },
    /// The broker's process has no descriptors for newcomers.
    Crowded,
    /// The broker's own process wants to know what clients have counted: [`Action::Inquired`] names the number.
    Inquire {
        number: u64,
    },
    /// What to say to the sessions that [`Action::Inquired`] names, each part being a frame.
    Answered {
        askers: Vec<(SessionId, u32)>,
        parts: Vec<Vec<Fact>>,
    },
    /// RelayedRecords for a session have left the broker, which were charged with so much.
    Written {
        session: SessionId,
        charge: u64,
    },
    /// Time has passed: who is late goes. To be given once what came before is handled.
    Tick,
    /// The broker is about to go: what was published over it is still to come through.
    Finish,
    /// The broker goes.
    Shutdown,
}

/// What the broker is to do, in this order.
#[derive(Debug)]
pub(crate) enum Action<F> {
    Send {
        session: SessionId,
        notice: Notice,
        descriptor: Option<F>,
    },
    /// Send records; once they have left, [`Input::Written`] is to say so.
    SendRelayed {
        session: SessionId,
        notice: Notice,
        charge: u64,
    },
    /// Close the connection once what was sent is out.
    Disconnect {
        session: SessionId,
    },
    MakeDoorbell {
        ring: RingId,
    },
    /// Look whether the client has proven what its hello offers to prove.
    Admit {
        session: SessionId,
        hello: Box<Hello>,
    },
    /// Let nobody in before: those who are there are to have the time to say hello.
    Hold {
        until: Instant,
    },
    /// The policy of [`Input::Reload`] is in force, and nothing is under way any more that it does not allow.
    Reloaded {
        number: u64,
        change: PolicyChange,
    },
    /// Clients have said what they have counted, as far as they did: it is to be told to those who wanted to know.
    Inquired(Inquired),
    /// Read nothing from the session before.
    Pause {
        session: SessionId,
        until: Instant,
    },
    /// For the log and the counters.
    Report(Report),
}

/// What somebody may do, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    Connect,
    Publish,
    Subscribe,
    /// To see what the broker knows of all its clients.
    Observe,
}

/// What an operator wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    Joined {
        session: SessionId,
        component: Component,
        identity: Identity,
    },
    Left {
        component: Component,
        reason: Option<GoodbyeReason>,
    },
    /// A component may do what it has asked for, or may do it again.
    Granted {
        session: SessionId,
        component: Component,
        right: Right,
        what: String,
        /// Parts of what it asked for that it may not have.
        withheld: usize,
    },
    /// A component may not do any longer what it did.
    Revoked {
        session: SessionId,
        component: Component,
        right: Right,
        what: String,
    },
    /// A request was refused. Without a component it is a hello, and what was asked for the client id that it came with.
    Refused {
        session: SessionId,
        component: Option<Component>,
        right: Right,
        what: String,
        refusal: Refusal,
    },
    /// A ring is of the broker's own size, since its publisher could not make one of the size that its subscriber asked for, or the
    /// subscriber's user has no share left for it.
    SmallerRing {
        publisher: Component,
        subscriber: Component,
        asked_bytes: u64,
        cause: String,
    },
    /// Events go over the broker, since one of two could not have its side of a ring.
    Relayed {
        publisher: Component,
        subscriber: Component,
        cause: String,
    },
    /// `by` says that the other side of a ring, `culprit`, broke its laws.
    Poisoned {
        session: SessionId,
        culprit: Component,
        by: Component,
        violation: String,
    },
}

impl Report {
    /// The session of the one that it says something about, where that is there.
    pub(crate) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Joined { session, .. }
            | Self::Granted { session, .. }
            | Self::Revoked { session, .. }
            | Self::Refused { session, .. }
            | Self::Poisoned { session, .. } => Some(*session),
            Self::Left { .. } | Self::SmallerRing { .. } | Self::Relayed { .. } => None,
        }
    }
}

/// What the machine is told once.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) epoch: Epoch,
    pub(crate) policy: AccessPolicy,
    /// Of rings that nobody has asked to be of another size.
    pub(crate) ring_bytes: u64,
    pub(crate) limits: Limits,
    /// Users who may see what the broker knows of all its clients.
    pub(crate) operators: BTreeSet<u32>,
    pub(crate) pace: Pace,
    pub(crate) backing: shm::Backing,
    /// No ring is to be in shared memory.
    pub(crate) relays_all: bool,
    pub(crate) route_deadline: Duration,
    pub(crate) hello_deadline: Duration,
    pub(crate) record_deadline: Duration,
}

/// The broker's whole state.
#[derive(Debug)]
pub(crate) struct Machine<F> {
    settings: Settings,
    now: Instant,
    sessions: BTreeMap<SessionId, Session>,
    names: HashMap<Component, SessionId>,
    interests: Trie<Interest>,
    publishers: BTreeMap<PublisherId, Publisher>,
    /// What publishers have declared, so that a subscribe looks at the topics that begin as its patterns do, and at no others.
    topics: BTreeMap<Box<str>, BTreeSet<(PublisherId, u32)>>,
    rings: BTreeMap<RingId, Ring<F>>,
    /// The ring of each pair that has one, and the same from the other side.
    pairs: BTreeMap<(PublisherId, SessionId, Lane), RingId>,
    inbound: BTreeSet<(SessionId, PublisherId, Lane)>,
    /// Rings that lack segments, and sessions that have not said hello, by when they are due.
    forming: BTreeSet<(Instant, RingId)>,
    half_open: BTreeSet<(Instant, SessionId)>,
    /// Rings over which a part of a record has come, by when the next part is due.
    begun: BTreeSet<(Instant, RingId)>,
    routes: BTreeMap<RouteKey, Route>,
    orders: BTreeMap<OrderId, Order>,
    waits: BTreeMap<u64, Wait>,
    reloads: BTreeMap<u64, Reload>,
    /// Publishers that are to say that all has come which they have published over the broker.
    finishing: BTreeSet<SessionId>,
    inquiries: Inquiries,
    /// Connections that were ended before they were let in.
    turned_away: u64,
    charges: Charges,
    strangers: Strangers,
    /// Sessions that have used up a ring, to be sent away before the next input.
    spent: Vec<SessionId>,
    last_id: u64,
    actions: Vec<Action<F>>,
}

impl<F> Machine<F> {
    pub(crate) fn new(settings: Settings, now: Instant) -> Self {
        let charges = Charges::new(settings.limits.clone());
        Self {
            settings,
            now,
            sessions: BTreeMap::new(),
            names: HashMap::new(),
            interests: Trie::default(),
            publishers: BTreeMap::new(),
            topics: BTreeMap::new(),
            rings: BTreeMap::new(),
            pairs: BTreeMap::new(),
            inbound: BTreeSet::new(),
            forming: BTreeSet::new(),
            half_open: BTreeSet::new(),
            begun: BTreeSet::new(),
            routes: BTreeMap::new(),
            orders: BTreeMap::new(),
            waits: BTreeMap::new(),
            reloads: BTreeMap::new(),
            finishing: BTreeSet::new(),
            inquiries: Inquiries::default(),
            turned_away: 0,
            charges,
            strangers: Strangers::default(),
            spent: Vec::new(),
            last_id: 0,
            actions: Vec::new(),
        }
    }

    /// Takes one input and says what is to be done about it.
    pub(crate) fn handle(&mut self, now: Instant, input: Input<F>) -> Vec<Action<F>> {
        self.now = now;
        match input {
            Input::Connected { session, origin } => self.connected(session, origin),
            Input::Frame { session, request, descriptor } => self.frame(session, request, descriptor),
            Input::Faulty { session, reason } => self.dismiss(session, reason),
            Input::Ended { session } => self.end_session(session, None),
            Input::Doorbell { ring, ends } => self.doorbell_made(ring, ends),
            Input::Admitted { session, admission } => self.admitted(session, admission),
            Input::Reload { number, policy } => self.reload(number, policy),
            Input::Crowded => self.make_room(),
            Input::Inquire { number } => self.inquire(Asker::Own(number)),
            Input::Answered { askers, parts } => self.answer_inquiry(&askers, &parts),
            Input::Written { session, charge } => self.written(session, charge),
            Input::Tick => self.expire(),
            Input::Finish => self.finish(),
            Input::Shutdown => self.dismiss_all(),
        }
        while let Some(session) = self.spent.pop() {
            self.fault(session, "all slots of a ring are used up");
        }
        self.settle_reloads();
        self.settle_inquiries();
        std::mem::take(&mut self.actions)
    }

    /// When [`Input::Tick`] is due at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let hello = self.half_open.first().map(|(due, _)| *due);
        let record = self.begun.first().map(|(due, _)| *due);
        let all = hello.into_iter().chain(record).chain(self.first_due());
        all.chain(self.inquiries.next_deadline()).min()
    }

    /// The live session that a client id would have to share its name with.
    pub(crate) fn holder_of(&self, client_id: &str) -> Option<SessionId> {
        self.names.get(&Component::from_client_id(client_id).ok()?).copied()
    }

    /// Whether a session is there, and has said nothing.
    pub(crate) fn awaits_hello(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(Session::is_new)
    }

    /// Whether it has been let in.
    pub(crate) fn is_welcome(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|state| state.component.is_some())
    }

    /// Who is connected, and how that is known.
    pub(crate) fn members(&self) -> impl Iterator<Item = (SessionId, &Component, Identity)> {
        self.names.iter().map(|(component, session)| (*session, component, self.sessions[session].identity()))
    }

    /// Components that are connected.
    pub(crate) fn components(&self) -> impl Iterator<Item = &Component> {
        self.names.keys()
    }

    /// Subscriptions of all sessions.
    #[cfg(test)]
    fn subscription_count(&self) -> usize {
        self.sessions.values().map(|session| session.subscriptions.len()).sum()
    }

    /// Topics that publishers have declared.
    #[cfg(test)]
    fn topic_count(&self) -> usize {
        self.publishers.values().map(|publisher| publisher.topics.len()).sum()
    }

    fn frame(&mut self, session: SessionId, request: Request, descriptor: Option<F>) {
        let crowd = u32::try_from(self.sessions.len()).unwrap_or(u32::MAX);
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let (now, pace) = (self.now, self.settings.pace);
        let (mut requests, payer) = (state.cost(&request), state.account.payer);
        if matches!(request, Request::Statistics { .. }) {
            // Each of them is asked, and answers.
            requests = requests.saturating_mul(crowd);
        }
        if requests > 0 {
            let own = state.ask(now, pace, requests);
            let users = match payer {
                Payer::Uid(uid) if self.charges.is_stranger(payer) => {
                    self.strangers.ask(uid, now, pace, requests)
                }
                _ => None,
            };
            if let Some(until) = own.max(users) {
                self.actions.push(Action::Pause { session, until });
            }
        }
        match request {
            Request::Hello(hello) if state.is_new() => self.hello(session, hello),
            _ if state.component.is_none() => self.fault(session, "the first message is a hello"),
            Request::Hello(_) => self.fault(session, "a second hello"),
            Request::Declare { request, publisher, topic_number, topic } => {
                self.declare(session, request, publisher, topic_number, &topic);
            }
            Request::ClosePublisher { publisher } => self.close_publisher_of(session, publisher),
            Request::Subscribe { request, subscription, patterns, ring_bytes } => {
                self.subscribe(session, request, subscription, &patterns, ring_bytes);
            }
            Request::Unsubscribe { subscription } => self.unsubscribe(session, subscription),
            Request::ProducerSegment { ring, handle } => {
                self.segment(session, ring, true, Segment { handle, descriptor });
            }
            Request::ConsumerSegment { ring, handle } => {
                self.segment(session, ring, false, Segment { handle, descriptor });
            }
            Request::Statistics { request } => self.statistics(session, request),
            Request::Told { claims } => self.told(session, *claims),
            Request::Done { order } => self.done(session, order),
            Request::NoRing { ring, cause } => self.no_ring(session, ring, &cause),
            Request::Poisoned { ring, violation } => self.poisoned(session, ring, violation),
            Request::Returned => self.returned(session),
            Request::Begun => self.begun(session),
            Request::Relay { ring, records } => self.relay(session, ring, &records),
            Request::Took { ring, cost } => self.took(session, ring, cost),
            Request::Finished => self.finished(session),
            Request::Leaving { totals } => self.leaving(session, totals),
        }
    }

    fn send(&mut self, session: SessionId, notice: Notice) {
        self.send_with(session, notice, None);
    }

    fn send_with(&mut self, session: SessionId, notice: Notice, descriptor: Option<F>) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.told(&notice);
            self.actions.push(Action::Send { session, notice, descriptor });
        }
    }

    fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }

    /// A number never used before in this epoch.
    fn fresh(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Ends what was due by now.
    fn expire(&mut self) {
        let now = self.now;
        while let Some((_, session)) = self.half_open.first().copied().filter(|(due, _)| *due <= now) {
            self.dismiss(session, GoodbyeReason::HelloDeadline);
        }
        while let Some(session) = self.unended() {
            self.fault(session, "a record that was begun and is not ended in time");
        }
        self.shrink_late_rings();
        while let Some(session) = self.late() {
            self.dismiss_unheard(session, GoodbyeReason::RouteDeadline);
        }
    }
}

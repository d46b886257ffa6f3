//! Sessions: hello, names, and what goes with a session when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::pace::{Asked, Pace};
use super::quota::Account;
use super::routes::{Phase, RouteKey};
use super::{Action, Machine, Origin, Payer, Report, Right, SessionId};
use crate::access::Component;
use crate::config::{HELLO_GRACE, HELLO_TURN, NAME_BYTES_MAX};
use crate::topic::{Topic, TopicPattern};
use crate::wire::{
    BEGUN_SINCE, GoodbyeReason, Hello, Identity, Life, Needed, Notice, Proof, PublisherId, RELAY_SINCE,
    Refusal, Request, Resource, STATISTICS_SINCE, Sharer, TokenId, TotalClaim, Versions, Welcome,
};

/// The component that only the process with the broker in it can be.
pub(crate) const AGENT: &str = "agent";

#[derive(Debug)]
pub(super) struct Session {
    pub(super) origin: Origin,
    pub(super) account: Account,
    /// The name it is known by; `None` until it is let in.
    pub(super) component: Option<Component>,
    entry: Entry,
    pub(super) hello_deadline: Instant,
    asked: Asked,
    /// Of its client, once it has said hello.
    pub(super) life: Life,
    /// What its client had subscribed to in its life before is there again, or it had none.
    pub(super) is_whole: bool,
    /// It has subscribed to something, and has not said that it takes what comes.
    pub(super) begins: bool,
    /// Some who wait for that may have no ring to it but one from before.
    owes_word: bool,
    /// Of the protocol; none until it is let in.
    version: u16,
    /// When it was let in.
    pub(super) since: Instant,
    /// It was asked what it has counted, and has not answered.
    pub(super) is_to_tell: bool,
    /// What it has counted, as of when it last said so; and whether that was its last word.
    pub(super) totals: Option<TotalClaim>,
    pub(super) has_left: bool,
    /// It waits for what others have counted.
    pub(super) inquires: bool,
    pub(super) subscriptions: BTreeMap<u32, Subscribed>,
    /// By the numbers that the client gives them.
    pub(super) publishers: BTreeMap<u32, PublisherId>,
    /// What it is charged with for records that it is to be sent.
    pub(super) relayed: u64,
    /// Losses wait until some of that has left.
    pub(super) owes_losses: bool,
}

/// How far a session is in being let in.
#[derive(Debug)]
enum Entry {
    New,
    /// It has said hello, and is about to be let in or not.
    Greeted(Greeted),
    In {
        known_by: Known,
    },
}

/// A hello that is in order.
#[derive(Debug)]
struct Greeted {
    /// The client's own word for itself, cut.
    client_id: String,
    version: u16,
    component: Component,
    life: Life,
}

/// How it is known who a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    User,
    /// Of this process.
    Token {
        token: TokenId,
        pid: Option<u32>,
    },
    Invitation,
    Process,
}

impl Known {
    /// Whether who is known so has a better claim to a name than who has it. A token that still opens the door is the last one that was
    /// issued: its holder has an older one, or is the same process, which has lost that session, or is about to notice that it has.
    fn goes_before(self, holder: Self) -> bool {
        match self {
            Self::Token { .. } => matches!(holder, Self::User | Self::Token { .. }),
            Self::Invitation => holder == Self::User,
            Self::User | Self::Process => false,
        }
    }
}

/// What a client has shown by its proof.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) known_by: Known,
    /// The broker's own proof.
    pub(crate) proof: Proof,
}

/// A component that is connected.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, DaemoneyeBroker, EventBusClient, Identity};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// let broker = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
/// broker.start().await?;
/// let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(&path)).await?;
/// let [member] = &broker.members().await[..] else { panic!("it is alone") };
/// assert_eq!((member.component.as_str(), member.pid), ("procmond", Some(std::process::id())));
/// assert_eq!(member.identity, Identity::Weak, "no token was issued for it");
/// # drop(procmond);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The name.
    pub component: Component,
    /// The user of its process.
    pub uid: u32,
    /// The number of its process; `None` where it has none here, being in another namespace.
    pub pid: Option<u32>,
    /// How it is known who it is.
    pub identity: Identity,
}

impl Session {
    /// Whether it has not said hello.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.entry, Entry::New)
    }

    /// Whether it speaks of what it has counted.
    pub(super) fn can_tell(&self) -> bool {
        self.version >= STATISTICS_SINCE
    }

    /// Whether it sends and reads records over the broker.
    pub(super) fn can_relay(&self) -> bool {
        self.version >= RELAY_SINCE
    }

    /// Whether it says so when its subscriptions have begun.
    pub(super) fn says_that_it_begins(&self) -> bool {
        self.version >= BEGUN_SINCE
    }

    fn known_by(&self) -> Option<Known> {
        if let Entry::In { known_by } = self.entry { Some(known_by) } else { None }
    }

    pub(super) fn identity(&self) -> Identity {
        match self.known_by() {
            Some(Known::Token { .. }) => Identity::Token,
            Some(Known::Invitation) => Identity::Invitation,
            Some(Known::Process) => Identity::Embedded,
            Some(Known::User) | None => Identity::Weak,
        }
    }

    /// What a request costs; nothing, if the broker has asked for it.
    pub(super) fn cost(&mut self, request: &Request) -> u32 {
        match request {
            Request::Subscribe { patterns, .. } if self.origin != Origin::Embedded => {
                u32::try_from(patterns.len()).unwrap_or(u32::MAX).max(1)
            }
            Request::Done { .. }
            | Request::ProducerSegment { .. }
            | Request::ConsumerSegment { .. }
            | Request::NoRing { .. }
            | Request::Told { .. }
            | Request::Finished
                if self.asked.answer() =>
            {
                0
            }
            Request::Took { .. } if self.asked.take() => 0,
            // The process with the broker in it has no socket to wait in.
            _ if self.origin == Origin::Embedded => 0,
            Request::Relay { .. } => self.asked.frame(),
            _ => 1,
        }
    }

    /// Takes what requests cost. Until when nothing more is to be read, if the session asks too fast.
    pub(super) fn ask(&mut self, now: Instant, pace: Pace, requests: u32) -> Option<Instant> {
        self.asked.ask(now, pace, requests)
    }

    /// Notes whether a notice asks for an answer.
    pub(super) fn told(&mut self, notice: &Notice) {
        match notice {
            Notice::Grant { .. }
            | Notice::Route { .. }
            | Notice::Unroute { .. }
            | Notice::Tell
            | Notice::Finish
            | Notice::MakeProducerSegment { .. }
            | Notice::MakeConsumerSegment { .. } => self.asked.owe(),
            Notice::Relayed { .. } => self.asked.relay(),
            _ => {}
        }
    }
}

/// What a subscription asks for.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) patterns: Vec<TopicPattern>,
    /// Of rings that come to be for it.
    pub(super) ring_bytes: u64,
}

/// One subscription, as the trie knows it: those of a session stand together, and of these the one that asks for the largest ring last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interest {
    pub(super) session: SessionId,
    pub(super) ring_bytes: u64,
    pub(super) subscription: u32,
}

impl Interest {
    /// Below all of a session, and above.
    pub(super) const fn bounds(session: SessionId) -> (Self, Self) {
        let below = Self { session, ring_bytes: 0, subscription: 0 };
        (below, Self { session, ring_bytes: u64::MAX, subscription: u32::MAX })
    }
}

#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) session: SessionId,
    /// The client's number for it.
    pub(super) number: u32,
    /// By the client's numbers for them.
    pub(super) topics: Vec<Topic>,
}

impl Publisher {
    /// One topic twice would be two routes and two slots for the same events.
    pub(super) fn has(&self, topic: &str) -> bool {
        self.topics.iter().any(|known| known.as_str() == topic)
    }
}

impl<F> Machine<F> {
    /// Lets a connection in: what is too much for its user, or for all, is made up for by those who have not said hello, the oldest
    /// first, or else it is turned away.
    pub(super) fn connected(&mut self, session: SessionId, origin: Origin) {
        let hello_deadline = self.now + self.settings.hello_deadline;
        let account = Account { session, payer: origin.payer() };
        let state = Session {
            origin,
            account,
            component: None,
            entry: Entry::New,
            hello_deadline,
            asked: Asked::new(self.now),
            life: Life { client: 0, before: 0 },
            is_whole: true,
            begins: false,
            owes_word: false,
            version: 0,
            since: self.now,
            is_to_tell: false,
            totals: None,
            has_left: false,
            inquires: false,
            subscriptions: BTreeMap::new(),
            publishers: BTreeMap::new(),
            relayed: 0,
            owes_losses: false,
        };
        let too_much = [Resource::Handshakes, Resource::Connections].into_iter().find_map(|resource| {
            loop {
                // The agent's process is never kept out by others.
                let exceeded = self.charges.afford(account, resource, 1).err()?;
                if account.payer == Payer::Agent {
                    return None;
                }
                let first = self.half_open_of(exceeded.whose).next();
                match first {
                    Some((_, first)) => self.dismiss(first, GoodbyeReason::HelloDeadline),
                    None => return Some(exceeded),
                }
            }
        });
        self.sessions.insert(session, state);
        self.half_open.insert((hello_deadline, session));
        for resource in [Resource::Handshakes, Resource::Connections] {
            self.charges.charge(account, resource, 1);
        }
        if let Some(exceeded) = too_much {
            let refusal = exceeded.into();
            self.turned_away += 1;
            self.send(session, Notice::Refused { request: 0, refusal });
            self.actions.push(Action::Disconnect { session });
            self.end_session(session, None);
        } else if let Some(until) = self.holds_until(account) {
            self.actions.push(Action::Hold { until });
        }
    }

    /// When another newcomer of the same user may come: by then who would have to go for it has had its turn to say hello. The broker speaks
    /// first, so a hello takes the client's time, of which a storm of newcomers must leave it some.
    fn holds_until(&self, account: Account) -> Option<Instant> {
        let mut shares = [Resource::Handshakes, Resource::Connections].into_iter();
        let exceeded = shares.find_map(|resource| self.charges.afford(account, resource, 1).err())?;
        let (due, _) = self.half_open_of(exceeded.whose).next()?;
        let until = (due + HELLO_TURN).checked_sub(self.settings.hello_deadline)?;
        (until > self.now).then_some(until)
    }

    /// There are no descriptors for newcomers: those who have not said hello hold some, the oldest for the longest.
    pub(super) fn make_room(&mut self) {
        let Some((due, oldest)) = self.half_open_of(Sharer::Everybody).next() else {
            return;
        };
        let left = due.saturating_duration_since(self.now);
        if left + HELLO_GRACE <= self.settings.hello_deadline {
            self.dismiss(oldest, GoodbyeReason::HelloDeadline);
        }
    }

    /// Who has not said hello yet, of this user, or of any, and by when it has to: the oldest first.
    fn half_open_of(&self, sharer: Sharer) -> impl Iterator<Item = (Instant, SessionId)> {
        let of_it =
            move |(_, session): &(Instant, SessionId)| match (sharer, self.sessions[session].account.payer) {
                (_, Payer::Agent) | (Sharer::Session, _) => false,
                (Sharer::Everybody, Payer::Uid(_)) => true,
                (Sharer::User { uid }, Payer::Uid(own)) => uid == own,
            };
        self.half_open.iter().copied().filter(of_it)
    }

    pub(super) fn hello(&mut self, session: SessionId, hello: Box<Hello>) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        let known_by = match state.origin {
            Origin::Remote { .. } => None,
            Origin::Invited { .. } => Some(Known::Invitation),
            Origin::Embedded => Some(Known::Process),
        };
        match (greeted(&hello), known_by) {
            (Ok(greeted), Some(known_by)) => self.enter(session, greeted, known_by, None),
            (Ok(greeted), None) => {
                state.entry = Entry::Greeted(greeted);
                self.actions.push(Action::Admit { session, hello });
            }
            (Err(refusal), _) => self.turn_away(session, cut(&hello.client_id, NAME_BYTES_MAX), refusal),
        }
    }

    pub(super) fn admitted(&mut self, session: SessionId, admission: Result<Admission, Needed>) {
        // It may have gone meanwhile.
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Entry::Greeted(greeted) = std::mem::replace(&mut state.entry, Entry::New) else {
            unreachable!("who is admitted has said hello")
        };
        match admission {
            Ok(Admission { known_by, proof }) => self.enter(session, greeted, known_by, Some(proof)),
            Err(needed) => self.unproven(session, greeted, needed),
        }
    }

    fn unproven(&mut self, session: SessionId, greeted: Greeted, needed: Needed) {
        let refusal = Refusal::Unproven { component: greeted.component.to_string(), needed };
        self.turn_away(session, greeted.client_id, refusal);
    }

    fn turn_away(&mut self, session: SessionId, who: String, refusal: Refusal) {
        self.turned_away += 1;
        let (right, refused) = (Right::Connect, refusal.clone());
        self.report(Report::Refused { session, component: None, right, what: who, refusal: refused });
        self.send(session, Notice::Refused { request: 0, refusal });
        self.actions.push(Action::Disconnect { session });
        self.end_session(session, None);
    }

    /// Lets a session in that is who it says, if the name is free.
    fn enter(&mut self, session: SessionId, greeted: Greeted, known_by: Known, proof: Option<Proof>) {
        let Greeted { client_id, version, component, life } = greeted;
        if let Some(&holder) = self.names.get(&component)
            && self.sessions[&holder].known_by().is_some_and(|holder| known_by.goes_before(holder))
        {
            self.dismiss(holder, GoodbyeReason::Replaced);
        }
        let reserved = component.as_str() == AGENT && known_by == Known::User;
        if reserved || self.names.contains_key(&component) {
            let refusal = Refusal::NameTaken { component: component.to_string() };
            return self.turn_away(session, client_id, refusal);
        }
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        state.component = Some(component.clone());
        (state.life, state.is_whole) = (life, life.before == 0);
        state.entry = Entry::In { known_by };
        (state.version, state.since) = (version, self.now);
        let (account, due, identity) = (state.account, state.hello_deadline, state.identity());
        self.half_open.remove(&(due, session));
        self.charges.release(account, Resource::Handshakes, 1);
        self.names.insert(component.clone(), session);
        let welcome = Welcome {
            version,
            epoch: self.settings.epoch,
            component: component.to_string(),
            ring_bytes: self.settings.ring_bytes,
            backing: self.settings.backing,
            proof,
        };
        self.send(session, Notice::Welcome(welcome));
        if life.before > 0 {
            self.say_who_is_settled(session);
        }
        self.tell_newcomer(session);
        let (right, what) = (Right::Connect, identity.to_string());
        self.report(Report::Granted { session, component: component.clone(), right, what, withheld: 0 });
        self.report(Report::Joined { session, component, identity });
    }

    /// A client that has come back has its subscriptions again: publishers that have come back, too, may have rings to it from before, which go
    /// now.
    pub(super) fn returned(&mut self, session: SessionId) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        if std::mem::replace(&mut state.is_whole, true) {
            return self.fault(session, "a return that was not, or is over");
        }
        state.owes_word = true;
        self.say_to_whom_it_matters(session);
    }

    /// A client takes what its subscriptions bring: publishers that have come back may have something for it from before.
    pub(super) fn begun(&mut self, session: SessionId) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        if !std::mem::replace(&mut state.begins, false) {
            return self.fault(session, "a beginning of nothing");
        }
        self.say_to_whom_it_matters(session);
    }

    /// Says that a session is settled, if it is, to those who have come back. Not to all each time: a session may begin as often as it likes.
    fn say_to_whom_it_matters(&mut self, session: SessionId) {
        let state = self.sessions.get_mut(&session).expect("the caller found the session");
        if !state.is_whole || state.begins {
            return;
        }
        let others: BTreeSet<SessionId> = if std::mem::take(&mut state.owes_word) {
            self.returned_sessions().filter(|other| *other != session).collect()
        } else {
            let producers = self.heard_by(session).map(|(publisher, _)| self.publishers[&publisher].session);
            producers.filter(|producer| self.sessions[producer].life.before > 0).collect()
        };
        for other in others {
            self.say_settled(other, session);
        }
    }

    /// The first route of a publisher that has come back leads to a client that takes what comes.
    pub(super) fn tell_of_settled(&mut self, key: RouteKey) {
        let producer = self.publishers[&key.publisher].session;
        let subscriber = &self.sessions[&key.subscriber];
        let is_settled = subscriber.is_whole && !subscriber.begins;
        if self.sessions[&producer].life.before == 0 || !is_settled || producer == key.subscriber {
            return;
        }
        let lane = self.routes[&key].lane;
        let routes = self.routes_between(key.publisher, key.subscriber, lane);
        if routes.iter().filter(|key| self.routes[key].phase == Phase::Active).count() == 1 {
            self.say_settled(producer, key.subscriber);
        }
    }

    /// Tells one that has come back of those that have before it.
    fn say_who_is_settled(&mut self, session: SessionId) {
        let others = self.returned_sessions().filter(|other| *other != session);
        for other in others.collect::<Vec<_>>() {
            let state = self.sessions.get_mut(&other).expect("it has a name");
            if state.is_whole && !state.begins {
                self.say_settled(session, other);
            } else {
                state.owes_word = true;
            }
        }
    }

    fn returned_sessions(&self) -> impl Iterator<Item = SessionId> {
        self.names.values().copied().filter(|session| self.sessions[session].life.before > 0)
    }

    fn say_settled(&mut self, to: SessionId, whole: SessionId) {
        let (component, client) = (self.component(whole).to_string(), self.sessions[&whole].life.client);
        self.send(to, Notice::Settled { component, client });
    }

    /// The name of a session that has said hello.
    pub(super) fn component(&self, session: SessionId) -> Component {
        let state = self.sessions.get(&session).expect("the caller found the session");
        state.component.clone().expect("requests are taken only after the hello")
    }
}

/// What a hello comes to, whoever says it.
fn greeted(hello: &Hello) -> Result<Greeted, Refusal> {
    let version = Versions::OURS
        .common(hello.versions)
        .ok_or(Refusal::Version { broker: Versions::OURS, client: hello.versions })?;
    let component = Component::from_client_id(&hello.client_id)
        .map_err(|_| Refusal::BadName { client_id: cut(&hello.client_id, NAME_BYTES_MAX) })?;
    let client_id = cut(&hello.client_id, NAME_BYTES_MAX);
    Ok(Greeted { client_id, version, component, life: hello.life })
}

/// The start of a peer's text, as much of it as a log line or an answer takes, and on one line.
pub(super) fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].replace(char::is_control, " ")
}

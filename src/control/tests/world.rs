//! A broker's surroundings in a test: a clock that moves when told to, and clients that obey when told to.
//!
//! After each input the [invariants](super::super::invariants) are checked, and of each notice that it is a frame which its client
//! can read, for a session that is still there.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::{
    Action, Admission, Asker, Facts, Input, Inquired, Known, Limits, Machine, Origin, Pace, PolicyChange,
    Report, SessionId, Settings, Share,
};
use crate::access::AccessPolicy;
use crate::config::{FRAME_BYTES_MAX, RECORD_DEADLINE, SESSIONS_MAX};
use crate::wire::codec::{decode, encode};
use crate::wire::statistics::in_frames;
use crate::wire::{
    Credential, Epoch, Fact, GoodbyeReason, Handle, Hello, Life, Needed, Nonce, Notice, Proof, Refusal,
    Request, Resource, RingId, Versions,
};

pub(super) const ROUTE_DEADLINE: Duration = Duration::from_millis(500);
pub(super) const RING_BYTES: u64 = 1 << 20;
/// The user of all clients, unless a test says otherwise.
pub(super) const USER: Origin = Origin::Remote { uid: 1000 };
pub(super) const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// What clients prove here, and what would be no proof.
pub(super) const PROOF: Proof = Proof([1; 32]);
pub(super) const NO_PROOF: Proof = Proof([2; 32]);
/// What the broker proves to them.
const PROOF_OF_BROKER: Proof = Proof([4; 32]);

/// What the door says to who proves what it should.
pub(super) fn admission(hello: &Hello, known_by: Known) -> Result<Admission, Needed> {
    if hello.proof != Some(PROOF) {
        return Err(if hello.credential == Credential::Key { Needed::Key } else { Needed::Token });
    }
    Ok(Admission { known_by, proof: PROOF_OF_BROKER })
}

pub(super) fn hello_of(client_id: &str) -> Hello {
    Hello {
        versions: Versions::OURS,
        features: 0,
        client_id: client_id.into(),
        nonce: Nonce([5; 32]),
        credential: Credential::Key,
        life: Life { client: 0, before: 0 },
        proof: Some(PROOF),
    }
}

/// A machine, what it knows as a descriptor being a number, and its clients.
pub(super) struct World {
    pub(super) machine: Machine<u32>,
    pub(super) now: Instant,
    pub(super) reports: Vec<Report>,
    /// Who wanted to know, and what they were told.
    pub(super) told: Vec<(Vec<Asker>, Vec<Fact>)>,
    /// How many policies there were after the first, and what came of each.
    pub(super) reloads: u64,
    pub(super) reloaded: BTreeMap<u64, PolicyChange>,
    /// What each client was sent and has not looked at.
    unread: BTreeMap<SessionId, VecDeque<(Notice, Option<u32>)>>,
    /// What it has looked at.
    read: BTreeMap<SessionId, Vec<Notice>>,
    connected: Vec<SessionId>,
    /// What was relayed, and is not said to have left.
    pub(super) unwritten: Vec<(SessionId, u64)>,
    /// Whether the invariants are checked after each input: not where there are thousands of everything.
    pub(super) checks: bool,
    /// The newest version of the protocol that clients speak who join.
    pub(super) newest: u16,
    /// Until when nobody else was to be let in, as it was last said.
    pub(super) held: Option<Instant>,
    last: u32,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_settings(|_| ())
    }

    /// Of clients that know no ring but in shared memory.
    pub(super) fn of_version_1() -> Self {
        Self { newest: 1, ..Self::new() }
    }

    pub(super) fn over(backing: shm::Backing) -> Self {
        Self::with_settings(|settings| settings.backing = backing)
    }

    /// With so many bytes for all rings, and for those of one user.
    pub(super) fn with_budget(total: u64, per_uid: u64) -> Self {
        Self::with_settings(|settings| {
            settings.limits.shares[Resource::RingBytes as usize] = Share { total, per_uid, strangers: total };
        })
    }

    pub(super) fn with_settings(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            epoch: Epoch(7),
            policy: AccessPolicy::default(),
            ring_bytes: RING_BYTES,
            limits: no_limits(),
            operators: [0, 1000].into(),
            pace: Pace { each: Duration::ZERO, ahead: Duration::ZERO, pause: Duration::ZERO },
            backing: shm::Backing::Memfd,
            relays_all: false,
            route_deadline: ROUTE_DEADLINE,
            hello_deadline: HELLO_DEADLINE,
            record_deadline: RECORD_DEADLINE,
        };
        change(&mut settings);
        let now = Instant::now();
        Self {
            machine: Machine::new(settings, now),
            now,
            reports: Vec::new(),
            told: Vec::new(),
            reloads: 0,
            reloaded: BTreeMap::new(),
            unread: BTreeMap::new(),
            read: BTreeMap::new(),
            connected: Vec::new(),
            unwritten: Vec::new(),
            checks: true,
            newest: Versions::OURS.newest,
            held: None,
            last: 0,
        }
    }

    /// Feeds the machine, and does what it says.
    pub(super) fn feed(&mut self, input: Input<u32>) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for action in self.machine.handle(self.now, input) {
                inputs.extend(self.perform(action));
            }
        }
        if self.checks {
            super::super::invariants::check(&self.machine);
        }
    }

    fn perform(&mut self, action: Action<u32>) -> Option<Input<u32>> {
        match action {
            Action::Send { session, notice, descriptor } => {
                assert!(self.is_connected(session), "{session:?} is gone and would be sent {notice:?}");
                let frame = encode(&notice);
                assert!(frame.len() <= FRAME_BYTES_MAX, "{} bytes for one notice", frame.len());
                assert_eq!(decode::<Notice>(&frame).as_ref(), Ok(&notice), "a client can read it");
                self.unread.entry(session).or_default().push_back((notice, descriptor));
            }
            Action::SendRelayed { session, notice, charge } => {
                assert!(encode(&notice).len() <= FRAME_BYTES_MAX && self.is_connected(session));
                self.unread.entry(session).or_default().push_back((notice, None));
                self.unwritten.push((session, charge));
            }
            Action::Disconnect { session } => {
                assert!(self.is_connected(session), "{session:?} is disconnected twice");
                self.connected.retain(|other| *other != session);
            }
            Action::MakeDoorbell { ring } => {
                let ends = Some((self.fresh(), self.fresh()));
                return Some(Input::Doorbell { ring, ends });
            }
            Action::Admit { session, hello } => {
                let admission = admission(&hello, Known::User);
                return Some(Input::Admitted { session, admission });
            }
            Action::Hold { until } => self.held = Some(until),
            Action::Reloaded { number, change } => {
                assert_eq!(self.reloaded.insert(number, change), None, "it is over once");
            }
            Action::Pause { .. } => {}
            Action::Inquired(inquired) => return self.inquired(inquired),
            Action::Report(report) => self.reports.push(report),
        }
        None
    }

    /// Tells the machine's facts to those who asked for them.
    fn inquired(&mut self, inquired: Inquired) -> Option<Input<u32>> {
        let mut facts = Facts::new();
        self.machine.tell_facts(&mut facts, &inquired.claims, |_| (1000, None));
        let facts = facts.finish();
        let askers = inquired.askers.iter().filter_map(|asker| match asker {
            Asker::Session { session, request } => Some((*session, *request)),
            Asker::Own(_) => None,
        });
        let askers = askers.collect();
        self.told.push((inquired.askers, facts.clone()));
        Some(Input::Answered { askers, parts: in_frames(facts) })
    }

    pub(super) fn fresh(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    pub(super) fn is_connected(&self, session: SessionId) -> bool {
        self.connected.contains(&session)
    }

    pub(super) fn connect(&mut self, origin: Origin) -> SessionId {
        let session = SessionId(self.fresh().into());
        self.connected.push(session);
        self.feed(Input::Connected { session, origin });
        session
    }

    pub(super) fn hello(&mut self, session: SessionId, client_id: &str) {
        let mut hello = hello_of(client_id);
        hello.versions.newest = self.newest;
        self.say(session, Request::Hello(Box::new(hello)));
    }

    /// Another policy; the number of the reload.
    pub(super) fn reload(&mut self, policy: &AccessPolicy) -> u64 {
        self.reloads += 1;
        self.feed(Input::Reload { number: self.reloads, policy: policy.clone() });
        self.reloads
    }

    /// A client that is welcome.
    pub(super) fn join(&mut self, client_id: &str) -> SessionId {
        let origin = if client_id.starts_with("agent") { Origin::Embedded } else { USER };
        self.join_from(origin, client_id)
    }

    /// A client that is welcome, of this user.
    pub(super) fn join_from(&mut self, origin: Origin, client_id: &str) -> SessionId {
        let session = self.connect(origin);
        self.hello(session, client_id);
        let heard = self.heard(session);
        assert!(matches!(heard[..], [Notice::Welcome(_)]), "{client_id} is not welcome: {heard:?}");
        session
    }

    pub(super) fn say(&mut self, session: SessionId, request: Request) {
        self.feed(Input::Frame { session, request, descriptor: None });
    }

    pub(super) fn say_with(&mut self, session: SessionId, request: Request, descriptor: u32) {
        self.feed(Input::Frame { session, request, descriptor: Some(descriptor) });
    }

    pub(super) fn end(&mut self, session: SessionId) {
        self.connected.retain(|other| *other != session);
        self.feed(Input::Ended { session });
    }

    /// Asks for a subscription; the number of the request.
    pub(super) fn subscribe(&mut self, session: SessionId, subscription: u32, patterns: &[&str]) -> u32 {
        self.subscribe_with(session, subscription, patterns, None)
    }

    pub(super) fn subscribe_with(
        &mut self,
        session: SessionId,
        subscription: u32,
        patterns: &[&str],
        ring_bytes: Option<u64>,
    ) -> u32 {
        let request = self.fresh();
        let patterns = patterns.iter().map(ToString::to_string).collect();
        self.say(session, Request::Subscribe { request, subscription, patterns, ring_bytes });
        request
    }

    pub(super) fn unsubscribe(&mut self, session: SessionId, subscription: u32) {
        self.say(session, Request::Unsubscribe { subscription });
    }

    /// Declares a topic; the number of the request.
    pub(super) fn declare(&mut self, session: SessionId, publisher: u32, number: u32, topic: &str) -> u32 {
        let request = self.fresh();
        let topic = topic.into();
        self.say(session, Request::Declare { request, publisher, topic_number: number, topic });
        request
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.feed(Input::Tick);
    }

    /// Everything that a session was sent and a test has not seen yet.
    pub(super) fn heard(&mut self, session: SessionId) -> Vec<Notice> {
        let mut heard = self.read.remove(&session).unwrap_or_default();
        heard.extend(self.unread.remove(&session).into_iter().flatten().map(|(notice, _)| notice));
        heard
    }

    /// The descriptors that a session was sent and nobody has looked at, and what each came with.
    pub(super) fn carried(&mut self, session: SessionId) -> Vec<(&'static str, u32)> {
        let notices = self.unread.remove(&session).into_iter().flatten();
        notices.filter_map(|(notice, descriptor)| Some((names(&[notice])[0], descriptor?))).collect()
    }

    /// The client looks at one notice, and does what it asks for.
    pub(super) fn obey_one(&mut self, session: SessionId) -> Option<Notice> {
        let (notice, descriptor) = self.unread.get_mut(&session)?.pop_front()?;
        let carries = matches!(
            notice,
            Notice::MakeProducerSegment { .. }
                | Notice::MakeConsumerSegment { .. }
                | Notice::AttachProducer { .. }
                | Notice::AttachConsumer { .. }
        );
        assert_eq!(carries, descriptor.is_some(), "{notice:?}");
        match answer_of(&notice) {
            Some(request) if self.is_connected(session) => {
                let descriptor =
                    matches!(request, Request::ProducerSegment { .. } | Request::ConsumerSegment { .. });
                let descriptor = descriptor.then(|| self.fresh());
                self.feed(Input::Frame { session, request, descriptor });
            }
            _ => {}
        }
        self.read.entry(session).or_default().push(notice.clone());
        Some(notice)
    }

    /// The client looks at all it was sent, and does what it asks for.
    pub(super) fn obey(&mut self, session: SessionId) {
        while self.obey_one(session).is_some() {}
    }

    /// All clients obey until nothing is left to do, but for these.
    pub(super) fn settle_without(&mut self, stopped: &[SessionId]) {
        loop {
            let waiting = self.unread.iter().filter(|(_, notices)| !notices.is_empty());
            let next = waiting.map(|(session, _)| *session).find(|session| !stopped.contains(session));
            match next {
                Some(session) => self.obey(session),
                None => return,
            }
        }
    }

    pub(super) fn settle(&mut self) {
        self.settle_without(&[]);
    }

    /// The one ring that there is.
    pub(super) fn only_ring(&self) -> RingId {
        let rings: Vec<RingId> = self.machine.rings.keys().copied().collect();
        let [ring] = rings[..] else { panic!("one ring: {rings:?}") };
        ring
    }

    /// Nothing hangs on any two sessions any more.
    pub(super) fn assert_no_paths(&self) {
        let Machine { rings, routes, orders, waits, .. } = &self.machine;
        let left = (rings.len(), routes.len(), orders.len(), waits.len());
        assert_eq!(left, (0, 0, 0, 0), "rings, routes, orders, waits: {:?}", self.machine);
    }
}

/// As much of everything as there is; all of it for whoever asks first. The clients' usual user is one of components.
pub(super) fn no_limits() -> Limits {
    let all = |total| Share { total, per_uid: total, strangers: total };
    let mut shares = [all(u64::MAX); Resource::COUNT];
    shares[Resource::Connections as usize] = all(SESSIONS_MAX as u64);
    shares[Resource::Handshakes as usize] = all(SESSIONS_MAX as u64);
    Limits { shares, component_uids: [1000].into() }
}

pub(super) fn producer_segment(ring: RingId) -> Request {
    Request::ProducerSegment { ring, handle: Handle::Descriptor }
}

pub(super) fn consumer_segment(ring: RingId) -> Request {
    Request::ConsumerSegment { ring, handle: Handle::Descriptor }
}

/// What an honest client answers.
pub(super) fn answer_of(notice: &Notice) -> Option<Request> {
    match notice {
        Notice::MakeProducerSegment { ring, .. } => Some(producer_segment(*ring)),
        Notice::MakeConsumerSegment { ring, .. } => Some(consumer_segment(*ring)),
        Notice::Grant { order, .. } | Notice::Route { order, .. } | Notice::Unroute { order, .. } => {
            Some(Request::Done { order: *order })
        }
        Notice::Tell => Some(Request::Told { claims: Box::default() }),
        _ => None,
    }
}

/// The names of notices, for tests of order.
pub(super) fn names(notices: &[Notice]) -> Vec<&'static str> {
    let name = |notice: &Notice| match notice {
        Notice::Greeting { .. } => "greeting",
        Notice::Settled { .. } => "settled",
        Notice::Welcome(_) => "welcome",
        Notice::Refused { .. } => "refused",
        Notice::Declared { .. } => "declared",
        Notice::Subscribed { .. } => "subscribed",
        Notice::MakeProducerSegment { .. } => "make producer",
        Notice::MakeConsumerSegment { .. } => "make consumer",
        Notice::AttachProducer { .. } => "attach producer",
        Notice::AttachConsumer { .. } => "attach consumer",
        Notice::Grant { .. } => "grant",
        Notice::Route { .. } => "route",
        Notice::Unroute { .. } => "unroute",
        Notice::Revoke { .. } => "revoke",
        Notice::CloseRing { .. } => "close",
        Notice::Goodbye { .. } => "goodbye",
        Notice::Tell => "tell",
        Notice::Statistics { .. } => "statistics",
        Notice::RelayTo { .. } => "relay to",
        Notice::RelayFrom { .. } => "relay from",
        Notice::Relayed { .. } => "relayed",
        Notice::Took { .. } => "took",
        Notice::Finish => "finish",
    };
    notices.iter().map(name).collect()
}

/// How many of these answer a request.
pub(super) fn answers(notices: &[Notice], to: u32) -> usize {
    let answers = |notice: &&Notice| match notice {
        Notice::Refused { request, .. }
        | Notice::Declared { request, .. }
        | Notice::Subscribed { request, .. } => *request == to,
        _ => false,
    };
    notices.iter().filter(answers).count()
}

pub(super) fn missed(notices: &[Notice]) -> Vec<String> {
    let missed = notices.iter().filter_map(|notice| match notice {
        Notice::Subscribed { missed, .. } => Some(missed.clone()),
        _ => None,
    });
    missed.flatten().collect()
}

pub(super) fn refusal(notices: &[Notice]) -> &Refusal {
    let refusal = notices.iter().find_map(|notice| match notice {
        Notice::Refused { refusal, .. } => Some(refusal),
        _ => None,
    });
    refusal.unwrap_or_else(|| panic!("no refusal in {notices:?}"))
}

pub(super) fn goodbye(notices: &[Notice]) -> &GoodbyeReason {
    match notices.last() {
        Some(Notice::Goodbye { reason }) => reason,
        _ => panic!("no goodbye at the end of {notices:?}"),
    }
}

/// What the goodbye says was against the protocol.
pub(super) fn fault(notices: &[Notice]) -> &str {
    match goodbye(notices) {
        GoodbyeReason::Protocol { what } => what,
        other => panic!("another reason: {other:?}"),
    }
}

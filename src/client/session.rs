//! The client's side of one session: what the broker asks for is carried out here, in its order.
//!
//! It runs on a thread of its own (in the broker's process: on the broker's), so that it answers the broker however busy the
//! application is. It owns the inbox, and tells outboxes what is wanted of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use shm::Descriptor;
use tokio::sync::{oneshot, watch};

use super::{Channels, DeclareError, Disconnected, SubscribeError, Subscribed};
use crate::access::Component;
use crate::dataplane::{
    DataEvent, DataEvents, Desk, Hub, Inbox, InboxCounters, Origin, OutboxShared, RouteTarget, WaitPolicy,
};
use crate::link::{Link, LinkError};
use crate::routing::TopicId;
use crate::topic::{Topic, TopicPattern};
use crate::wire::{Notice, PublisherId, Request, RingId, Welcome};

mod command;
mod making;
mod rings;
pub(crate) use command::{Command, Commands, Reply};
use making::Making;
use rings::RingState;

/// What a session shares with the handles of its client.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) hub: Arc<Hub>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) inbox_counters: Arc<InboxCounters>,
    pub(crate) data_events: DataEvents,
    pub(crate) wait_policy: WaitPolicy,
    /// How long to wait for the broker's answer to one request.
    pub(crate) deadline: Duration,
    /// `None` while the session lives.
    pub(crate) over: watch::Sender<Option<Disconnected>>,
}

#[derive(Debug)]
struct PublisherState {
    outbox: Arc<OutboxShared>,
    id: Option<PublisherId>,
    topics: Vec<Topic>,
    /// One declaration is under way at a time, so that topic numbers have no gaps.
    in_flight: Option<(Topic, Reply<TopicId, DeclareError>)>,
    waiting: VecDeque<(Topic, Reply<TopicId, DeclareError>)>,
}

#[derive(Debug)]
enum Asked {
    Declare { publisher: u32 },
    Subscribe { subscription: u32, reply: Reply<Subscribed, SubscribeError> },
}

/// A subscription that the broker is not asked for yet.
#[derive(Debug)]
struct Joining {
    patterns: Vec<TopicPattern>,
    ring_bytes: Option<u64>,
    reply: Reply<Subscribed, SubscribeError>,
}

/// The session's state.
#[derive(Debug)]
pub(crate) struct Session {
    ground: Arc<Ground>,
    welcome: Welcome,
    inbox: Option<Inbox>,
    publishers: HashMap<u32, PublisherState>,
    rings: HashMap<RingId, RingState>,
    making: Making,
    /// Subscriptions that the data thread is to count in first.
    joining: HashMap<u32, Joining>,
    asked: HashMap<u32, Asked>,
    last_request: u32,
    outgoing: VecDeque<(Request, Option<Descriptor>)>,
}

/// Runs a session that has been welcomed, until nobody holds a handle of its client any more.
pub(crate) async fn run(ground: Arc<Ground>, welcome: Welcome, mut link: Link, channels: Channels) {
    let Channels { mut commands, mut data_events } = channels;
    let mut session = Session::new(ground, welcome);
    let why = 'session: loop {
        while let Some((request, descriptor)) = session.outgoing.pop_front() {
            match link.send(request, descriptor).await {
                Ok(()) => {}
                // A part of the request may be on its way: no other can follow it.
                Err(LinkError::Host(error)) => break 'session Disconnected::Host(error.to_string()),
                Err(error) => {
                    session.outgoing.clear();
                    // The broker may have said why it goes; that is worth more than how the line broke.
                    tracing::debug!(%error, "the broker takes no more requests");
                }
            }
        }
        tokio::select! {
            notice = link.next() => match notice {
                Ok((Notice::Goodbye { reason }, _)) => break Disconnected::Dismissed(reason),
                Ok((notice, descriptor)) => session.notice(notice, descriptor),
                Err(LinkError::Closed) => break Disconnected::BrokerGone,
                Err(LinkError::Host(error)) => break Disconnected::Host(error.to_string()),
                Err(error) => break Disconnected::Protocol(error.to_string()),
            },
            command = commands.recv() => match command {
                Some(command) => session.command(command),
                None => return,
            },
            Some(event) = data_events.recv() => session.data_event(event),
            Some(made) = session.making.next() => session.made(made),
        }
    };
    drop(link);
    session.over(&why);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => Session::refuse(command, &why),
                None => return,
            },
            Some(event) = data_events.recv() => session.data_event(event),
        }
    }
}

impl Session {
    fn new(ground: Arc<Ground>, welcome: Welcome) -> Self {
        Self {
            ground,
            welcome,
            inbox: None,
            publishers: HashMap::new(),
            rings: HashMap::new(),
            making: Making::new(),
            joining: HashMap::new(),
            asked: HashMap::new(),
            last_request: 0,
            outgoing: VecDeque::new(),
        }
    }

    fn ask(&mut self, request: Request) {
        self.outgoing.push_back((request, None));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::OpenPublisher { publisher, outbox } => {
                let state = PublisherState {
                    outbox,
                    id: None,
                    topics: Vec::new(),
                    in_flight: None,
                    waiting: VecDeque::new(),
                };
                self.publishers.insert(publisher, state);
            }
            Command::Declare { publisher, topic, reply } => {
                let reply = self.in_time(reply, DeclareError::Timeout);
                if let Some(state) = self.publishers.get_mut(&publisher) {
                    state.waiting.push_back((topic, reply));
                    self.declare_next(publisher);
                }
            }
            Command::ClosePublisher { publisher } => {
                if self.publishers.remove(&publisher).is_some_and(|state| state.ever_declared()) {
                    self.ask(Request::ClosePublisher { publisher });
                }
            }
            Command::Subscribe { subscription, patterns, ring_bytes, reply } => {
                let reply = self.in_time(reply, SubscribeError::Timeout);
                self.joining.insert(subscription, Joining { patterns, ring_bytes, reply });
                match &self.inbox {
                    Some(inbox) => inbox.join(subscription),
                    None => self.subscribe(subscription),
                }
            }
            Command::Unsubscribe { subscription } => {
                self.refresh();
                if self.joining.remove(&subscription).is_none() {
                    self.ask(Request::Unsubscribe { subscription });
                }
            }
        }
    }

    /// Asks the broker for a subscription that the data thread counts in: had the broker been asked first, an event could come
    /// before its queue is known.
    fn subscribe(&mut self, subscription: u32) {
        if let Some(Joining { patterns, ring_bytes, reply }) = self.joining.remove(&subscription) {
            let request = self.next_request(Asked::Subscribe { subscription, reply });
            let patterns = patterns.iter().map(TopicPattern::to_string).collect();
            self.ask(Request::Subscribe { request, subscription, patterns, ring_bytes });
        }
    }

    /// Lets go of who waits for an answer when the deadline has passed. An answer that comes later still counts: the broker
    /// did what it says.
    fn in_time<T, E>(&self, reply: Reply<T, E>, late: E) -> Reply<T, E>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (inner, answer) = oneshot::channel();
        let answer = tokio::time::timeout(self.ground.deadline, answer);
        tokio::spawn(async move {
            match answer.await {
                Ok(Ok(result)) => self::answer(reply, result),
                // Dropped unanswered: so is the outer one.
                Ok(Err(_)) => {}
                Err(_) => self::answer(reply, Err(late)),
            }
        });
        inner
    }

    /// The subscriptions of this process have changed.
    fn refresh(&self) {
        if let Some(inbox) = &self.inbox {
            inbox.refresh();
        }
    }

    fn next_request(&mut self, asked: Asked) -> u32 {
        self.last_request = self.last_request.wrapping_add(1);
        self.asked.insert(self.last_request, asked);
        self.last_request
    }

    /// Sends a publisher's next declaration, unless one is under way.
    fn declare_next(&mut self, publisher: u32) {
        let Some(state) = self.publishers.get_mut(&publisher) else {
            return;
        };
        if state.in_flight.is_some() {
            return;
        }
        while let Some((topic, reply)) = state.waiting.pop_front() {
            if let Some(known) = state.topics.iter().position(|other| *other == topic) {
                // Who has stopped waiting needs no answer.
                let _ = reply.send(Ok(TopicId::nth(known)));
                continue;
            }
            let topic_number = number(state.topics.len());
            // Routes come before the answer, and need the topic.
            state.outbox.add_topic(topic.clone());
            let text = topic.to_string();
            state.in_flight = Some((topic, reply));
            let request = self.next_request(Asked::Declare { publisher });
            return self.ask(Request::Declare { request, publisher, topic_number, topic: text });
        }
    }

    fn notice(&mut self, notice: Notice, descriptor: Option<Descriptor>) {
        match notice {
            Notice::Refused { request, refusal } => match self.asked.remove(&request) {
                Some(Asked::Declare { publisher }) => self.declared(publisher, Err(refusal.into())),
                Some(Asked::Subscribe { reply, .. }) => answer(reply, Err(refusal.into())),
                None => {}
            },
            Notice::Declared { request, publisher: id } => {
                if let Some(Asked::Declare { publisher }) = self.asked.remove(&request) {
                    self.declared(publisher, Ok(id));
                }
            }
            Notice::Subscribed { request, granted, withheld, missed } => {
                if let Some(Asked::Subscribe { subscription, reply }) = self.asked.remove(&request) {
                    self.ground.hub.begin(subscription);
                    answer(reply, Ok(Subscribed { granted, withheld, missed }));
                }
            }
            Notice::MakeProducerSegment { ring, publisher, ring_bytes } => {
                let made = self.make_producer_segment(ring, publisher, ring_bytes, descriptor);
                self.or_no_ring(ring, made);
            }
            Notice::MakeConsumerSegment { ring, publisher, component } => {
                let made = self.make_consumer_segment(ring, publisher, &component, descriptor);
                self.or_no_ring(ring, made);
            }
            Notice::AttachProducer { ring, handle } => {
                let attached = self.attach_producer(ring, handle.join(descriptor));
                self.or_poisoned(ring, attached);
            }
            Notice::AttachConsumer { ring, handle, ring_bytes } => {
                let attached = self.attach_consumer(ring, handle.join(descriptor), ring_bytes);
                self.or_poisoned(ring, attached);
            }
            Notice::Grant { order, ring, slot, generation, topic } => match &self.inbox {
                Some(inbox) => inbox.grant(order, ring, slot, generation, topic),
                None => self.ask(Request::Done { order }),
            },
            Notice::Revoke { ring, slot } => {
                if let Some(inbox) = &self.inbox {
                    inbox.revoke(ring, slot);
                }
            }
            Notice::Route { order, publisher, topic_number, target } => {
                if let Some(state) = self.publishers.get(&publisher) {
                    let target = target.map_or(RouteTarget::Local, |target| RouteTarget::Slot {
                        ring: target.ring,
                        slot: target.slot,
                        generation: target.generation,
                    });
                    state.outbox.add_route(topic_number, target);
                }
                self.ask(Request::Done { order });
            }
            Notice::Unroute { order, publisher, topic_number, ring } => {
                if let Some(state) = self.publishers.get(&publisher) {
                    state.outbox.remove_route(topic_number, ring);
                }
                self.ask(Request::Done { order });
            }
            Notice::CloseRing { ring, accused } => self.close_ring(ring, accused),
            // A second welcome, or a challenge, says nothing new, and a goodbye is the loop's.
            Notice::Welcome(_) | Notice::Challenge { .. } | Notice::Goodbye { .. } => {}
        }
    }

    /// The broker's answer to the declaration that is under way.
    fn declared(&mut self, publisher: u32, result: Result<PublisherId, DeclareError>) {
        let origin = self.origin_of_own();
        let Some(state) = self.publishers.get_mut(&publisher) else {
            return;
        };
        let Some((topic, reply)) = state.in_flight.take() else {
            return;
        };
        match result {
            Ok(id) => {
                if state.id.replace(id).is_none() {
                    state.outbox.set_origin(origin(id));
                }
                state.topics.push(topic);
                answer(reply, Ok(TopicId::nth(state.topics.len() - 1)));
            }
            Err(error) => {
                state.outbox.remove_last_topic();
                answer(reply, Err(error));
            }
        }
        self.declare_next(publisher);
    }

    /// Makes the name on what this process publishes to itself.
    fn origin_of_own(&self) -> impl Fn(PublisherId) -> Arc<Origin> + use<> {
        let component =
            Component::from_client_id(&self.welcome.component).expect("the broker's own spelling");
        let epoch = self.welcome.epoch;
        move |publisher| Arc::new(Origin { component: component.clone(), publisher, epoch })
    }

    fn data_event(&mut self, event: DataEvent) {
        match event {
            DataEvent::Poisoned { ring, violation } => self.poisoned(ring, violation),
            DataEvent::Granted { order } => self.ask(Request::Done { order }),
            DataEvent::Joined { subscription } => self.subscribe(subscription),
            DataEvent::Retired(producers) => drop(producers),
            DataEvent::Wait(wait) => drop(tokio::spawn(wait.carry_out())),
        }
    }

    /// The session has ended: rings that lead here are read to their end, requests will not be answered.
    fn over(&mut self, why: &Disconnected) {
        // The broker is there, and ends all of this session's rings at their other ends, too.
        if matches!(why, Disconnected::Dismissed(_) | Disconnected::Host(_)) {
            self.close_all_rings();
        }
        // What the broker has not completed by now it never will.
        self.making = Making::new();
        self.rings.retain(|_, ring| ring.is_complete());
        match &self.inbox {
            Some(inbox) => inbox.session_over(),
            None => self.ground.hub.end(),
        }
        for (_, asked) in self.asked.drain() {
            if let Asked::Subscribe { reply, .. } = asked {
                answer(reply, Err(why.clone().into()));
            }
        }
        for (_, Joining { reply, .. }) in self.joining.drain() {
            answer(reply, Err(why.clone().into()));
        }
        for state in self.publishers.values_mut() {
            state.outbox.orphan();
            for (_, reply) in state.in_flight.take().into_iter().chain(state.waiting.drain(..)) {
                answer(reply, Err(why.clone().into()));
            }
        }
        self.ground.over.send_replace(Some(why.clone()));
    }

    /// Answers a command of a session that has ended.
    fn refuse(command: Command, why: &Disconnected) {
        match command {
            Command::Declare { reply, .. } => answer(reply, Err(why.clone().into())),
            Command::Subscribe { reply, .. } => answer(reply, Err(why.clone().into())),
            Command::OpenPublisher { .. } | Command::ClosePublisher { .. } | Command::Unsubscribe { .. } => {}
        }
    }
}

impl Drop for Session {
    /// However it goes, with its runtime say: nobody is to wait for what will not come.
    fn drop(&mut self) {
        // Joins the data thread: what is in a queue by then is still read.
        drop(self.inbox.take());
        self.ground.hub.end();
        self.ground.over.send_if_modified(|over| {
            let open = over.is_none();
            over.get_or_insert(Disconnected::BrokerGone);
            open
        });
    }
}

impl PublisherState {
    /// Whether the broker may know of it.
    fn ever_declared(&self) -> bool {
        self.id.is_some() || self.in_flight.is_some()
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("the broker takes some hundred topics of a publisher")
}

/// Answers who waits; who has stopped waiting needs no answer.
fn answer<T>(reply: oneshot::Sender<T>, result: T) {
    let _ = reply.send(result);
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
    use shm::Doorbell;

    use super::super::{ClientSettings, Core};
    use super::*;
    use crate::config::MAKING_MAX;
    use crate::dataplane::{Queue, Taken};
    use crate::wire::{Epoch, Handle};

    const RING_BYTES: usize = 64 << 10;

    fn session() -> (Arc<Core>, Session) {
        let component = "agent".into();
        let (ring_bytes, backing) = (RING_BYTES as u64, shm::Backing::Memfd);
        let welcome = Welcome { version: 1, epoch: Epoch(1), component, ring_bytes, backing };
        let (queue_bytes, deadline) = (1 << 20, Duration::from_secs(5));
        let settings = ClientSettings { queue_bytes, wait_policy: WaitPolicy::default(), deadline };
        let (core, ground, _) = Core::new(&welcome, settings);
        (core, Session::new(ground, welcome))
    }

    /// A segment as the kernel wants it, that does not start as one.
    fn unformatted(bytes: usize) -> Descriptor {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = rustix::fs::memfd_create("unformatted", flags).expect("memory");
        rustix::fs::ftruncate(&descriptor, bytes as u64).expect("a size");
        rustix::fs::fallocate(&descriptor, FallocateFlags::empty(), 0, bytes as u64).expect("memory");
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&descriptor, seals).expect("it may be sealed");
        descriptor.into()
    }

    #[test]
    fn a_publisher_that_spoils_its_segment_is_accused_and_does_not_cost_us_our_session() {
        let (_core, mut session) = session();
        let ring = RingId(5);
        let (_other_end, bell) = Doorbell::ends().expect("descriptors");
        let component = "procmond".into();
        let make = Notice::MakeConsumerSegment { ring, publisher: PublisherId(1), component };
        session.notice(make, Some(bell));
        assert!(matches!(session.outgoing.pop_front(), Some((Request::ConsumerSegment { .. }, Some(_)))));
        let spoiled = unformatted(shm::layout::PRODUCER_HEADER_BYTES + RING_BYTES);
        let handle = shm::Handle::from(spoiled);
        shm::check_producer_segment(&handle, RING_BYTES, 0).expect("the broker would hand it on");
        let (handle, spoiled) = Handle::split(handle);
        let ring_bytes = RING_BYTES as u64;
        session.notice(Notice::AttachConsumer { ring, handle, ring_bytes }, spoiled);
        let said = session.outgoing.pop_front();
        assert!(matches!(said, Some((Request::Poisoned { ring: RingId(5), .. }, None))), "{said:?}");
        assert!(session.rings.is_empty() && session.outgoing.is_empty());
    }

    #[test]
    fn a_peer_that_took_its_name_along_costs_the_ring_and_nobody_a_session() {
        let (_core, mut session) = session();
        let ring = RingId(5);
        let (other_end, bell) = Doorbell::ends().expect("descriptors");
        let other_end = Doorbell::from(other_end);
        let component = "procmond".into();
        let make = Notice::MakeConsumerSegment { ring, publisher: PublisherId(1), component };
        session.notice(make, Some(bell));
        session.outgoing.clear();
        let handle = Handle::Name("/deebp000010000000000000000000".parse().expect("a name that nobody has"));
        session.notice(Notice::AttachConsumer { ring, handle, ring_bytes: RING_BYTES as u64 }, None);
        assert!(session.rings.is_empty() && session.outgoing.is_empty(), "{:?}", session.outgoing);
        assert_eq!(other_end.hear(), shm::Heard::PeerGone, "our end of the doorbell is closed");
    }

    /// The segment is in the offing: nothing is said of it yet.
    fn making(session: &mut Session, ring: RingId) -> Doorbell {
        let (other_end, bell) = Doorbell::ends().expect("descriptors");
        let ring_bytes = 2 * RING_BYTES as u64;
        session.notice(Notice::MakeProducerSegment { ring, publisher: 0, ring_bytes }, Some(bell));
        assert!(session.outgoing.is_empty() && session.making.at_work() == 1, "the control thread is free");
        other_end.into()
    }

    #[tokio::test]
    async fn a_segment_that_is_larger_than_usual_is_made_beside_the_control_thread() {
        let (_core, mut session) = session();
        let (first, second) = (RingId(5), RingId(6));
        let bell = making(&mut session, first);
        let made = session.making.next().await.expect("it is being made");
        session.made(made);
        let offered = session.outgoing.pop_front();
        let Some((Request::ProducerSegment { ring, handle }, descriptor)) = offered else {
            panic!("{offered:?}")
        };
        let handle = handle.join(descriptor).expect("it has what it carries");
        shm::check_producer_segment(&handle, 2 * RING_BYTES, 0).expect("it has the size asked for");
        assert_eq!((ring, bell.hear()), (first, shm::Heard::PeerThere), "our end is open");

        let bell = making(&mut session, second);
        session.notice(Notice::CloseRing { ring: second, accused: None }, None);
        let made = session.making.next().await.expect("it is being made");
        session.made(made);
        assert!(session.outgoing.is_empty(), "of a ring that was closed meanwhile nothing is said");
        assert_eq!(bell.hear(), shm::Heard::PeerGone);
    }

    #[tokio::test]
    async fn who_asks_for_large_rings_and_leaves_again_and_again_has_few_of_them_made() {
        let (_core, mut session) = session();
        let ring_bytes = 2 * RING_BYTES as u64;
        for ring in (0..100).map(RingId) {
            let (_other_end, bell) = Doorbell::ends().expect("descriptors");
            session.notice(Notice::MakeProducerSegment { ring, publisher: 0, ring_bytes }, Some(bell));
            assert!(session.making.at_work() <= MAKING_MAX);
            if ring.0 != 50 {
                session.notice(Notice::CloseRing { ring, accused: None }, None);
            }
        }
        let mut made = Vec::new();
        while session.making.at_work() > 0 {
            let next = session.making.next().await.expect("it is being made");
            made.push(next.0.0);
            session.made(next);
        }
        made.sort_unstable();
        assert_eq!(made, [0, 1, 50], "what nobody wants any more when its turn comes is not made");
        let offered = session.outgoing.pop_front();
        assert!(
            matches!(offered, Some((Request::ProducerSegment { ring: RingId(50), .. }, _))),
            "{offered:?}"
        );
        assert!(session.outgoing.is_empty());
    }

    #[test]
    fn a_session_that_is_dropped_midway_ends_what_waits_for_it() {
        let (core, session) = session();
        let over = core.ground.over.subscribe();
        let queue = Arc::new(Queue::new(1 << 20));
        core.ground.hub.add(0, vec![], Arc::clone(&queue));
        let mut now = Context::from_waker(Waker::noop());
        assert!(queue.poll_next(&mut Taken::default(), &mut now).is_pending());
        drop(session);
        assert_eq!(*over.borrow(), Some(Disconnected::BrokerGone));
        assert!(queue.poll_next(&mut Taken::default(), &mut now).is_ready(), "its subscriptions have ended");
    }
}

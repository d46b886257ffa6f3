//! The client's side of one session: what the broker asks for is carried out here, in its order.
//!
//! It runs on a thread of its own (in the broker's process: on the broker's), so that it answers the broker however busy the
//! application is. It owns the inbox, and tells outboxes what is wanted of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use shm::Descriptor;
use tokio::sync::{oneshot, watch};

use super::{Channels, ConnectOptions, Connection, Disconnected, Subscribed};
use crate::dataplane::{DataEvent, DataEvents, Desk, Hub, Inbox, InboxCounters, RouteTarget, WaitPolicy};
use crate::link::{Link, LinkError};
use crate::wire::{Notice, Request, RingId, Welcome};

mod command;
mod home;
mod making;
mod publishers;
mod rings;
mod subscriptions;
pub(crate) use command::{Command, Commands, Reply};
pub(crate) use home::Home;
use making::Making;
use publishers::PublisherState;
use rings::{Pair, RingState};
use subscriptions::SubscriptionState;

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
    pub(crate) connection: watch::Sender<Connection>,
}

#[derive(Debug)]
enum Asked {
    Declare { publisher: u32 },
    Subscribe { subscription: u32 },
}

/// The session's state.
#[derive(Debug)]
pub(crate) struct Session {
    ground: Arc<Ground>,
    welcome: Welcome,
    /// How often it has come back.
    life: u16,
    inbox: Option<Inbox>,
    publishers: HashMap<u32, PublisherState>,
    subscriptions: HashMap<u32, SubscriptionState>,
    /// Subscriptions that the broker of before had granted, and that of now has not.
    missing: HashSet<u32>,
    rings: HashMap<RingId, RingState>,
    /// Who has come back to the broker of now with all that it may have.
    settled: HashSet<(String, u64)>,
    /// Rings that others have just taken the place of.
    released: Vec<RingId>,
    /// Brokers that are gone, and of which the data thread has yet to take note.
    detaching: u32,
    making: Making,
    asked: HashMap<u32, Asked>,
    last_request: u32,
    outgoing: VecDeque<(Request, Option<Descriptor>)>,
}

/// Runs a session that has been welcomed, until nobody holds a handle of its client any more. Without a way home it ends with its broker.
pub(crate) async fn run(
    ground: Arc<Ground>,
    welcome: Welcome,
    mut link: Link,
    mut channels: Channels,
    mut home: Option<Home>,
) {
    let mut session = Session::new(ground, welcome);
    loop {
        let Some(why) = session.live(link, &mut channels).await else { return };
        let Some(home) = home.as_mut().filter(|_| !why.is_final()) else {
            session.over(&why);
            return session.refuse_all(&why, &mut channels).await;
        };
        session.lose_broker(&why);
        home.life.before = home.life.before.saturating_add(1);
        let found = tokio::select! {
            found = home.find() => found,
            () = session.wait_for_broker(&mut channels) => return,
        };
        session.find_broker(found.1);
        link = found.0;
    }
}

impl Session {
    fn new(ground: Arc<Ground>, welcome: Welcome) -> Self {
        Self {
            ground,
            welcome,
            life: 0,
            inbox: None,
            publishers: HashMap::new(),
            subscriptions: HashMap::new(),
            missing: HashSet::new(),
            rings: HashMap::new(),
            settled: HashSet::new(),
            released: Vec::new(),
            detaching: 0,
            making: Making::new(),
            asked: HashMap::new(),
            last_request: 0,
            outgoing: VecDeque::new(),
        }
    }

    /// Lives with one broker. Why that has ended; `None`: nobody holds a handle any more.
    async fn live(&mut self, mut link: Link, channels: &mut Channels) -> Option<Disconnected> {
        loop {
            while let Some((request, descriptor)) = self.outgoing.pop_front() {
                let Some(request) = self.for_broker(request) else { continue };
                match link.send(request, descriptor).await {
                    Ok(()) => {}
                    // A part of the request may be on its way: no other can follow it.
                    Err(LinkError::Host(error)) => return Some(Disconnected::Host(error.to_string())),
                    Err(error) => {
                        self.outgoing.clear();
                        // The broker may have said why it goes; that is worth more than how the line broke.
                        tracing::debug!(%error, "the broker takes no more requests");
                    }
                }
            }
            tokio::select! {
                notice = link.next() => match notice {
                    Ok((Notice::Goodbye { reason }, _)) => return Some(Disconnected::Dismissed(reason)),
                    Ok((notice, descriptor)) => self.notice(notice, descriptor),
                    Err(LinkError::Closed) => return Some(Disconnected::BrokerGone),
                    Err(LinkError::Host(error)) => return Some(Disconnected::Host(error.to_string())),
                    Err(error) => return Some(Disconnected::Protocol(error.to_string())),
                },
                command = channels.commands.recv() => self.command(command?),
                Some(event) = channels.data_events.recv() => self.data_event(event),
                Some(made) = self.making.next() => self.made(made),
            }
        }
    }

    /// Goes on without a broker, until nobody holds a handle any more. Cancel-safe.
    async fn wait_for_broker(&mut self, channels: &mut Channels) {
        loop {
            tokio::select! {
                command = channels.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(event) = channels.data_events.recv() => self.data_event(event),
            }
            // Nobody hears it.
            self.outgoing.clear();
        }
    }

    /// There will be no broker any more.
    async fn refuse_all(&mut self, why: &Disconnected, channels: &mut Channels) {
        loop {
            tokio::select! {
                command = channels.commands.recv() => match command {
                    Some(command) => Self::refuse(command, why),
                    None => return,
                },
                Some(event) = channels.data_events.recv() => self.data_event(event),
            }
        }
    }

    fn ask(&mut self, request: Request) {
        self.outgoing.push_back((request, None));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::OpenPublisher { publisher, outbox } => {
                self.publishers.insert(publisher, PublisherState::new(outbox));
            }
            Command::Declare { publisher, topic, reply } => self.declare(publisher, topic, reply),
            Command::ClosePublisher { publisher } => self.close_publisher(publisher),
            Command::Subscribe { subscription, patterns, ring_bytes, reply } => {
                self.begin_subscription(subscription, patterns, ring_bytes, reply);
            }
            Command::Unsubscribe { subscription } => self.end_subscription(subscription),
        }
    }

    /// Lets go of who waits for an answer when the deadline has passed. An answer that comes later still counts: the broker
    /// did what it says. What is `late` is that there is no broker, where that is so.
    fn in_time<T, E>(&self, reply: Reply<T, E>, late: E) -> Reply<T, E>
    where
        T: Send + 'static,
        E: From<Disconnected> + Send + 'static,
    {
        let (inner, answer) = oneshot::channel();
        let answer = tokio::time::timeout(self.ground.deadline, answer);
        let ground = Arc::clone(&self.ground);
        tokio::spawn(async move {
            match answer.await {
                Ok(Ok(result)) => self::answer(reply, result),
                // Dropped unanswered: so is the outer one.
                Ok(Err(_)) => {}
                Err(_) => {
                    let error = match &*ground.connection.borrow() {
                        Connection::Up => late,
                        Connection::Away(why) | Connection::Over(why) => why.clone().into(),
                    };
                    self::answer(reply, Err(error));
                }
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

    fn notice(&mut self, notice: Notice, descriptor: Option<Descriptor>) {
        match self.localized(notice) {
            Notice::Refused { request, refusal } => match self.asked.remove(&request) {
                Some(Asked::Declare { publisher }) => self.declared(publisher, Err(refusal.into())),
                Some(Asked::Subscribe { subscription }) => self.subscribed(subscription, Err(refusal)),
                None => {}
            },
            Notice::Declared { request, publisher: id } => {
                if let Some(Asked::Declare { publisher }) = self.asked.remove(&request) {
                    self.declared(publisher, Ok(id));
                }
            }
            Notice::Subscribed { request, granted, withheld, missed } => {
                if let Some(Asked::Subscribe { subscription }) = self.asked.remove(&request) {
                    self.subscribed(subscription, Ok(Subscribed { granted, withheld, missed }));
                }
            }
            Notice::MakeProducerSegment { ring, publisher, ring_bytes, subscriber, client } => {
                let pair = Pair { publisher, subscriber, client };
                let made = self.make_producer_segment(ring, pair, ring_bytes, descriptor);
                self.or_no_ring(ring, made);
            }
            Notice::MakeConsumerSegment { ring, publisher, component, client, number } => {
                let whose = (component.as_str(), client, number);
                let made = self.make_consumer_segment(ring, publisher, whose, descriptor);
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
                if let Some(state) = self.publishers.get(&publisher)
                    && let Some(place) = state.place(topic_number)
                {
                    let target = target.map_or(RouteTarget::Local, |target| RouteTarget::Slot {
                        ring: target.ring,
                        slot: target.slot,
                        generation: target.generation,
                    });
                    state.outbox.add_route(place, target);
                }
                self.ask(Request::Done { order });
            }
            Notice::Unroute { order, publisher, topic_number, ring } => {
                if let Some(state) = self.publishers.get(&publisher)
                    && let Some(place) = state.place(topic_number)
                {
                    state.outbox.remove_route(place, ring);
                }
                self.ask(Request::Done { order });
            }
            Notice::CloseRing { ring, accused } => self.close_ring(ring, accused),
            Notice::Settled { component, client } => self.settled(component, client),
            // A second welcome, or a challenge, says nothing new, and a goodbye is the loop's.
            Notice::Welcome(_) | Notice::Challenge { .. } | Notice::Goodbye { .. } => {}
        }
    }

    fn data_event(&mut self, event: DataEvent) {
        match event {
            DataEvent::Poisoned { ring, violation } => self.poisoned(ring, violation),
            // Of a grant of a broker that is gone nobody needs to hear.
            DataEvent::Granted { order } if self.detaching == 0 => self.ask(Request::Done { order }),
            DataEvent::Granted { .. } => {}
            DataEvent::Detached => self.detaching -= 1,
            DataEvent::Ended { ring } => drop(self.rings.remove(&ring)),
            DataEvent::Joined { subscription } => self.joined(subscription),
            DataEvent::Retired(producers) => drop(producers),
            DataEvent::Wait(wait) => drop(tokio::spawn(wait.carry_out())),
        }
    }

    /// The session has ended for good: rings that lead here are read to their end, requests will not be answered.
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
        self.asked.clear();
        self.end_subscriptions(why);
        for state in self.publishers.values_mut() {
            state.end(why);
        }
        self.ground.connection.send_replace(Connection::Over(why.clone()));
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
        self.ground.connection.send_if_modified(|connection| {
            let open = !matches!(connection, Connection::Over(_));
            if open {
                *connection = Connection::Over(Disconnected::BrokerGone);
            }
            open
        });
    }
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
    use crate::wire::{Epoch, Handle, PublisherId};

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

    fn making_of(ring: RingId, ring_bytes: u64) -> Notice {
        let subscriber = "detector".to_owned();
        Notice::MakeProducerSegment { ring, publisher: 0, ring_bytes, subscriber, client: 1 }
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
        let make =
            Notice::MakeConsumerSegment { ring, publisher: PublisherId(1), component, client: 1, number: 0 };
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
        let make =
            Notice::MakeConsumerSegment { ring, publisher: PublisherId(1), component, client: 1, number: 0 };
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
        session.notice(making_of(ring, ring_bytes), Some(bell));
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
            session.notice(making_of(ring, ring_bytes), Some(bell));
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
        let connection = core.ground.connection.subscribe();
        let queue = Arc::new(Queue::new(1 << 20));
        core.ground.hub.add(0, vec![], Arc::clone(&queue));
        let mut now = Context::from_waker(Waker::noop());
        assert!(queue.poll_next(&mut Taken::default(), &mut now).is_pending());
        drop(session);
        assert_eq!(*connection.borrow(), Connection::Over(Disconnected::BrokerGone));
        assert!(queue.poll_next(&mut Taken::default(), &mut now).is_ready(), "its subscriptions have ended");
    }
}

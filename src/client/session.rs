//! The client's side of one session: what the broker asks for is carried out here, in its order.
//!
//! It runs on a thread of its own (in the broker's process: on the broker's), so that it answers the broker however busy the
//! application is. It owns the inbox, and tells outboxes what is wanted of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use shm::Descriptor;
use tokio::sync::{oneshot, watch};

use super::{Channels, ConnectOptions, Connection, Disconnected, StatisticsError, Subscribed};
use crate::access::Component;
use crate::config::HANG_UP_LONGEST;
use crate::dataplane::{
    DataEvent, DataEvents, Desk, Hub, Inbox, InboxCounters, KeptShare, LatencyHistogram, OutboxShared,
    RouteTarget, WaitPolicy,
};
use crate::link::{Link, LinkError};
use crate::wire::{Notice, Refusal, Request, RingId, Welcome};

mod claims;
mod command;
mod home;
mod inquiry;
mod kept;
mod making;
mod publishers;
mod relays;
mod rings;
mod subscriptions;
use claims::Totals;
pub(crate) use command::{Command, Commands, Reply};
pub(crate) use home::Home;
use inquiry::Gathering;
use making::Making;
use publishers::PublisherState;
use rings::{Pair, RingState};
use subscriptions::SubscriptionState;

/// What a session shares with the handles of its clients.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) hub: Arc<Hub>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) inbox_counters: Arc<InboxCounters>,
    pub(crate) latencies: Arc<LatencyHistogram>,
    pub(crate) data_events: DataEvents,
    pub(crate) wait_policy: WaitPolicy,
    /// How long to wait for the broker's answer to one request.
    pub(crate) deadline: Duration,
    pub(crate) connection: watch::Sender<Connection>,
    pub(crate) component: Component,
    /// What waits for a subscription at most, where nobody says otherwise.
    pub(crate) queue_bytes: usize,
    pub(crate) record_bytes_max: u32,
    /// What all publishers may keep of what nobody hears while there is no broker.
    pub(crate) kept: Arc<KeptShare>,
    pub(crate) last_subscription: AtomicU32,
    pub(crate) last_publisher: AtomicU32,
}

impl Ground {
    /// Whether the session is over for good.
    pub(super) fn is_over(&self) -> bool {
        matches!(*self.connection.borrow(), Connection::Over(_))
    }
}

#[derive(Debug)]
enum Asked {
    Declare { publisher: u32 },
    Subscribe { subscription: u32 },
    Statistics(Gathering),
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
    /// When rings to who has not come back end.
    orphans_until: Option<Instant>,
    /// Subscriptions have begun, and the broker was not told.
    begins: bool,
    /// Rings were left open when the broker was lost: it seemed to be gone.
    left_rings: bool,
    /// A ring has ended while there was no broker, and may have ended early.
    may_have_missed: bool,
    /// Rings that others have just taken the place of.
    released: Vec<RingId>,
    /// Brokers that are gone, and of which the data thread has yet to take note.
    detaching: u32,
    making: Making,
    totals: Totals,
    asked: HashMap<u32, Asked>,
    last_request: u32,
    outgoing: VecDeque<(Request, Option<Descriptor>)>,
    /// Rings over the broker that have something to be sent.
    to_send: VecDeque<RingId>,
    /// When to look at what publishers have kept while there was no broker; and until when more is kept.
    pours_at: Option<Instant>,
    keeps_until: Option<Instant>,
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
        let Some(why) = session.live(&mut link, &mut channels).await else {
            // The name is free once the broker has hung up.
            return link.end(HANG_UP_LONGEST).await;
        };
        drop(link);
        let Some(home) = home.as_mut().filter(|_| !why.is_final()) else {
            session.over(&why);
            return session.refuse_all(&why, &mut channels).await;
        };
        session.lose_broker(&why);
        home.lose_broker(&why);
        let found = tokio::select! {
            found = home.find() => found,
            () = session.wait_for_broker(&mut channels) => return,
        };
        let Some((next, welcome)) = found else {
            session.over(&why);
            return session.refuse_all(&why, &mut channels).await;
        };
        session.find_broker(welcome);
        link = next;
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
            orphans_until: None,
            begins: false,
            left_rings: false,
            may_have_missed: false,
            released: Vec::new(),
            detaching: 0,
            making: Making::new(),
            totals: Totals::default(),
            asked: HashMap::new(),
            last_request: 0,
            outgoing: VecDeque::new(),
            to_send: VecDeque::new(),
            pours_at: None,
            keeps_until: None,
        }
    }

    /// Lives with one broker. Why that has ended; `None`: nobody holds a handle any more.
    async fn live(&mut self, link: &mut Link, channels: &mut Channels) -> Option<Disconnected> {
        loop {
            if let Err(error) = self.send_outgoing(link).await {
                return Some(Disconnected::Host(error.to_string()));
            }
            tokio::select! {
                notice = link.next() => match notice {
                    Ok((Notice::Goodbye { reason }, _)) => return Some(Disconnected::Dismissed(reason)),
                    Ok((notice, descriptor)) => self.notice(notice, descriptor),
                    Err(LinkError::Closed) => return Some(Disconnected::BrokerGone),
                    Err(LinkError::Host(error)) => return Some(Disconnected::Host(error.to_string())),
                    Err(error) => return Some(Disconnected::Protocol(error.to_string())),
                },
                command = channels.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => {
                        self.send_last(link).await;
                        return None;
                    }
                },
                Some(event) = channels.data_events.recv() => self.data_event(event),
                Some(made) = self.making.next() => self.made(made),
                // The runtime looks at sockets when this task waits: without that what was read would not be heard of.
                () = tokio::task::yield_now(), if !self.to_send.is_empty() => self.send_relayed(),
                () = sleep_until(self.orphans_until) => self.end_orphans(),
                () = sleep_until(self.pours_at) => self.pour(),
            }
        }
    }

    /// Sends what there is to be said. An error: nothing more can be.
    async fn send_outgoing(&mut self, link: &mut Link) -> std::io::Result<()> {
        while let Some((request, descriptor)) = self.outgoing.pop_front() {
            let Some(request) = self.for_broker(request) else { continue };
            match link.send(request, descriptor).await {
                Ok(()) => {}
                // A part of the request may be on its way: no other can follow it.
                Err(LinkError::Host(error)) => return Err(error),
                Err(error) => {
                    self.outgoing.clear();
                    // The broker may have said why it goes; that is worth more than how the line broke.
                    tracing::debug!(%error, "the broker takes no more requests");
                }
            }
        }
        Ok(())
    }

    /// Nobody holds a handle any more: what was published is sent, if the broker takes it in time.
    async fn send_last(&mut self, link: &mut Link) {
        self.send_all_relayed(None);
        self.leave();
        let deadline = self.ground.deadline;
        // However it ends: there is nobody to tell.
        let _ = tokio::time::timeout(deadline, self.send_outgoing(link)).await;
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
                self.keep_for(&outbox);
                self.publishers.insert(publisher, PublisherState::new(outbox));
            }
            Command::Declare { publisher, topic, reply } => self.declare(publisher, topic, reply),
            Command::ClosePublisher { publisher } => self.close_publisher(publisher),
            Command::Subscribe { subscription, patterns, ring_bytes, reply } => {
                self.begin_subscription(subscription, patterns, ring_bytes, reply);
            }
            Command::Statistics { reply } => {
                let reply = self.in_time(reply, StatisticsError::Timeout);
                self.inquire(reply);
            }
            Command::Unsubscribe { subscription } => self.end_subscription(subscription),
            Command::Sleep { longest, mut reply } => drop(tokio::spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(longest) => answer(reply, Ok(())),
                    // Nobody waits for it any more.
                    () = reply.closed() => {}
                }
            })),
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
            Notice::Refused { request, refusal } => self.refused(request, refusal),
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
                self.change_routes(publisher, topic_number, |outbox, place| {
                    outbox.add_route(place, RouteTarget::of(target));
                });
                self.pour_soon();
                target.into_iter().for_each(|target| self.send_marked(target.ring));
                self.ask(Request::Done { order });
            }
            Notice::Unroute { order, publisher, topic_number, ring } => {
                self.change_routes(publisher, topic_number, |outbox, place| outbox.remove_route(place, ring));
                self.ask(Request::Done { order });
            }
            Notice::CloseRing { ring, accused } => self.close_ring(ring, accused),
            notice @ (Notice::RelayTo { .. }
            | Notice::RelayFrom { .. }
            | Notice::Relayed { .. }
            | Notice::Took { .. }
            | Notice::Finish) => self.of_relay(notice),
            Notice::Settled { component, client } => self.settled(component, client),
            Notice::Tell => self.tell(),
            Notice::Statistics { request, facts, more } => self.gather(request, facts, more),
            // A second welcome, or greeting, says nothing new, and a goodbye is the loop's.
            Notice::Welcome(_) | Notice::Greeting { .. } | Notice::Goodbye { .. } => {}
        }
    }

    fn change_routes(&self, publisher: u32, topic_number: u32, change: impl FnOnce(&OutboxShared, u32)) {
        if let Some(state) = self.publishers.get(&publisher)
            && let Some(place) = state.place(topic_number)
        {
            change(&state.outbox, place);
        }
    }

    fn refused(&mut self, request: u32, refusal: Refusal) {
        match self.asked.remove(&request) {
            Some(Asked::Declare { publisher }) => self.declared(publisher, Err(refusal.into())),
            Some(Asked::Subscribe { subscription }) => self.subscribed(subscription, Err(refusal)),
            Some(Asked::Statistics(gathering)) => gathering.answer(&Err(refusal.into())),
            None => {}
        }
    }

    fn data_event(&mut self, event: DataEvent) {
        match event {
            DataEvent::Poisoned { ring, violation } => self.poisoned(ring, violation),
            // Of a grant of a broker that is gone nobody needs to hear.
            DataEvent::Granted { order } if self.detaching == 0 => self.ask(Request::Done { order }),
            DataEvent::Granted { .. } => {}
            DataEvent::Detached { ended } => {
                self.detaching -= 1;
                self.rings.retain(|ring, _| !ended.contains(ring));
            }
            DataEvent::Ended { ring } => {
                // Of one that was closed nothing is missed, nor of one whose place another has taken.
                if let Some(ended) = self.rings.remove(&ring) {
                    self.may_have_missed |= !self.is_connected() && !self.has_another_for(&ended);
                }
            }
            DataEvent::Joined { subscription } => self.joined(subscription),
            DataEvent::Retired(producers) => drop(producers),
            DataEvent::Wait(wait) => drop(tokio::spawn(wait.carry_out())),
            DataEvent::Relay { ring } => self.to_send.push_back(ring),
            DataEvent::Took { ring, cost } => self.ask(Request::Took { ring, cost }),
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
        self.end_inquiries(why);
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
            Command::Statistics { reply } => answer(reply, Err(why.clone().into())),
            Command::Sleep { reply, .. } => answer(reply, Err(why.clone())),
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

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Answers who waits; who has stopped waiting needs no answer.
fn answer<T>(reply: oneshot::Sender<T>, result: T) {
    let _ = reply.send(result);
}

#[cfg(test)]
mod tests;

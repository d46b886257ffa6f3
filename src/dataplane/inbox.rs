//! The receiving side: the one data thread of a process. It reads all rings that lead here, and feeds the queues; unless a thread that
//! waits for its subscription does that itself ([`desk`]).
//!
//! A turn takes a bounded number of records from each ring. When all are empty the thread polls a bounded number of times more, and
//! then sleeps until a doorbell rings ([`super::wait`]): an idle process costs nothing.
//!
//! Identity is the ring: who publishes is what the broker said when the ring was made. Which topic a record is on is its
//! slot, looked up in what the broker granted; the same look-up yields the queues. A slot that was granted and since revoked is
//! skipped; one that was never granted poisons the ring.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Wake;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use shm::{Consumer, Doorbell};

use super::wait::WaitPolicy;
use super::{DataEvents, Hub, Origin, Queue};
use crate::access::Component;
use crate::topic::Topic;
use crate::wire::{OrderId, RelayedRecords, RingId, RouteClaim};

mod desk;
mod intake;
mod relay;
mod ring;
mod slot;
pub(crate) use desk::{Desk, Served};
use intake::Intake;

/// What stays of a publisher in another process when it, or this process, comes back to a broker: its component, which the broker knows
/// for sure, the number of its client, and that client's number for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lineage {
    pub(crate) component: Component,
    pub(crate) client: u64,
    pub(crate) number: u32,
}

/// What a ring is made of that leads here.
#[derive(Debug)]
pub(crate) enum InEnd {
    Memory(Box<Consumer>, Doorbell),
    /// It leads over the broker.
    Broker {
        window: u64,
    },
}

/// What the data thread, or whoever reads in its place, is told.
#[derive(Debug)]
enum Command {
    Add {
        ring: RingId,
        end: InEnd,
        origin: Arc<Origin>,
        lineage: Lineage,
    },
    /// RelayedRecords of a ring that leads over the broker.
    Relayed {
        ring: RingId,
        records: RelayedRecords,
    },
    /// A slot carries this topic from now on; `order` is the broker's number for it.
    Grant {
        order: OrderId,
        ring: RingId,
        slot: u16,
        generation: u16,
        topic: Topic,
        /// What comes on it is counted here.
        received: Arc<AtomicU64>,
    },
    Revoke {
        ring: RingId,
        slot: u16,
    },
    /// The ring ends; `accused` says that its publisher holds us to have broken it.
    Close {
        ring: RingId,
        accused: Option<String>,
    },
    /// The ring is of a broker that is gone, and has had its time.
    CutOff {
        ring: RingId,
    },
    /// A subscription has joined the hub: say so once it counts.
    Join {
        subscription: u32,
    },
    /// The broker has answered for a subscription: it joins the rings that lead over the broker.
    Begin {
        queue: Arc<Queue>,
    },
    /// The broker is gone, and there may be another: the rings of now go on until they end by themselves. Say so.
    Detach,
    /// The session is over: rings go on until they end by themselves.
    SessionOver,
    /// Leave the rings to a thread that waits for its subscription.
    StepAside,
    Stop,
}

/// Running totals of a data thread.
#[derive(Debug, Default)]
pub(crate) struct InboxCounters {
    /// Times it slept and was woken.
    pub(crate) wakeups: AtomicU64,
    /// Events taken from rings.
    pub(crate) received: AtomicU64,
    /// Events skipped: their slot was revoked while they were on their way.
    pub(crate) skipped: AtomicU64,
    /// Bytes that waited in rings when the thread last looked, and the most of them that it ever saw.
    pub(crate) occupied: AtomicU64,
    pub(crate) occupied_max: AtomicU64,
    /// Bytes of all rings.
    pub(crate) capacity: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    commands: Mutex<Vec<Command>>,
    /// Commands wait. Looked at before each record, so that who waits for an answer has it soon.
    waiting: AtomicBool,
    wake: Doorbell,
    /// A thread that reads for its own subscription sleeps, or is about to.
    asleep: AtomicBool,
    counters: Arc<InboxCounters>,
}

impl Shared {
    fn tell(&self, command: Command) {
        self.commands.lock().push(command);
        // Pairs with the loads in `Intake`.
        self.waiting.store(true, Ordering::Release);
        self.ring();
    }

    /// Wakes who sleeps over the rings.
    fn ring(&self) {
        // The other end is this process, and there. Where the kernel has no memory for a byte, it will: the control thread may
        // wait, and a thread that sleeps over a command may not.
        while let Ok(false) = self.wake.ring() {
            std::thread::yield_now();
        }
    }
}

/// Wakes the thread that reads for its own subscription, if it sleeps: something has come to its queue past the rings.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.asleep.load(Ordering::Relaxed) {
            self.ring();
        }
    }
}

/// What a data thread starts with.
struct Ground {
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    events: DataEvents,
    policy: WaitPolicy,
}

/// The control thread's hold on the data thread, which ends with it.
#[derive(Debug)]
pub(crate) struct Inbox {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Events that came, by ring and slot, for as long as the data thread has the ring.
    received: Mutex<BTreeMap<(RingId, u16), Weak<AtomicU64>>>,
}

impl Inbox {
    /// Starts the data thread of a process, which reads at this desk.
    pub(crate) fn start(
        hub: Arc<Hub>,
        events: DataEvents,
        counters: Arc<InboxCounters>,
        policy: WaitPolicy,
        desk: Arc<Desk>,
    ) -> std::io::Result<Self> {
        let (wake, woken) = Doorbell::pair()?;
        let shared = Arc::new(Shared {
            commands: Mutex::default(),
            waiting: AtomicBool::new(false),
            wake,
            asleep: AtomicBool::new(false),
            counters,
        });
        let intake = Intake::new(&Ground { shared: Arc::clone(&shared), hub, events, policy }, woken);
        let told = Arc::clone(&shared);
        let work = move || desk.run(told, Box::new(intake));
        let thread = std::thread::Builder::new().name("eventbus-data".into()).spawn(work)?;
        Ok(Self { shared, thread: Some(thread), received: Mutex::default() })
    }

    /// Has a ring read, once those before it of the same lineage were read to their end.
    pub(crate) fn add(&self, ring: RingId, end: InEnd, origin: Arc<Origin>, lineage: Lineage) {
        self.shared.tell(Command::Add { ring, end, origin, lineage });
    }

    /// Has records read that came over the broker.
    pub(crate) fn relayed(&self, ring: RingId, records: RelayedRecords) {
        self.shared.tell(Command::Relayed { ring, records });
    }

    /// Says that the broker is gone, and that there may be another.
    pub(crate) fn detach(&self) {
        self.shared.tell(Command::Detach);
    }

    /// Has the data thread take records of this slot from now on, and say [`DataEvent::Granted`].
    pub(crate) fn grant(&self, order: OrderId, ring: RingId, slot: u16, generation: u16, topic: Topic) {
        let mut known = self.received.lock();
        known.retain(|_, received| received.strong_count() > 0);
        let received = known.get(&(ring, slot)).and_then(Weak::upgrade).unwrap_or_default();
        known.insert((ring, slot), Arc::downgrade(&received));
        self.shared.tell(Command::Grant { order, ring, slot, generation, topic, received });
    }

    /// What came of each topic of each ring.
    pub(crate) fn route_claims(&self) -> Vec<(RingId, u16, RouteClaim)> {
        let known = self.received.lock();
        let there = known.iter().filter_map(|(place, received)| Some((place, received.upgrade()?)));
        let claim = |received: &AtomicU64| RouteClaim { received: received.load(Ordering::Relaxed) };
        there.map(|(&(ring, slot), received)| (ring, slot, claim(&received))).collect()
    }

    pub(crate) fn revoke(&self, ring: RingId, slot: u16) {
        self.shared.tell(Command::Revoke { ring, slot });
    }

    pub(crate) fn close(&self, ring: RingId, accused: Option<String>) {
        self.shared.tell(Command::Close { ring, accused });
    }

    /// Has a ring of an earlier broker read to where it stands now, and no further. Who hears nothing else of its publisher is told so then.
    pub(crate) fn cut_off(&self, ring: RingId) {
        self.shared.tell(Command::CutOff { ring });
    }

    /// Has the data thread take note of a subscription that is in the hub, and say [`DataEvent::Joined`]: what is published after
    /// that is for it.
    pub(crate) fn join(&self, subscription: u32) {
        self.shared.tell(Command::Join { subscription });
    }

    /// Has a subscription for which the broker has answered join the rings that lead over the broker, behind what came before the answer.
    pub(crate) fn begin(&self, queue: Arc<Queue>) {
        self.shared.tell(Command::Begin { queue });
    }

    /// Has the data thread look up its targets anew before it takes another record: the subscriptions have changed.
    pub(crate) fn refresh(&self) {
        // Pairs with the load in `Intake::obey`.
        self.shared.waiting.store(true, Ordering::Release);
    }

    pub(crate) fn session_over(&self) {
        self.shared.tell(Command::SessionOver);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.shared.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there is a bug of ours that has been printed already.
            let _ = thread.join();
        }
    }
}

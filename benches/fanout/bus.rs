//! The bus: the agent publishes, strangers subscribe to what is public.

use std::path::Path;

use daemoneye_eventbus::{
    ConnectOptions, DaemoneyeBroker, DaemoneyeEventBus, EventBusClient, EventRef, Opaque, Publisher,
    RecvError,
};
use tokio::runtime::Runtime;

use crate::support::{Part, Peer, Run, cpu_nanos, runtime};
use crate::{EVENT, heard_from, is_sum_of, start_peers, sum};

const TOPIC: &str = "events.process.anomaly";
/// Events that may be under way to each, which is about what a bare ring holds in bytes, and after how many the publisher is told.
const WINDOW: u64 = 2048;
const CREDIT: u64 = 512;

pub(crate) struct Bus {
    pub(crate) publisher: Publisher,
    pub(crate) peers: Vec<Peer>,
    /// Events that subscribers were told they lost.
    pub(crate) lost: u64,
    _bus: DaemoneyeEventBus,
    _runtime: Runtime,
}

impl Bus {
    pub(crate) fn start(folder: &Path, kind: &str, subscribers: usize) -> Self {
        let runtime = runtime();
        let path = folder.join("bus.sock");
        let bus = runtime.block_on(async {
            let broker = DaemoneyeBroker::new(path.to_str().expect("UTF-8")).await.expect("a broker");
            DaemoneyeEventBus::from_broker(broker).await.expect("it listens")
        });
        let peers = start_peers(kind, folder, subscribers);
        let publisher = runtime.block_on(bus.publisher(TOPIC)).expect("the agent may");
        Self { publisher, peers, lost: 0, _bus: bus, _runtime: runtime }
    }

    pub(crate) fn run(&mut self, events: u64, at_once: u64) -> Run {
        Run::of(events, || {
            let Self { publisher, peers, lost, .. } = self;
            let mut window = Window::open(peers, events);
            for _ in 0..events / at_once {
                window.await_room(peers, at_once);
                publish(publisher, at_once);
            }
            window.await_end(peers);
            let cpu = heard_from(peers);
            *lost += peers.iter_mut().map(Peer::hear).sum::<u64>();
            cpu
        })
    }
}

pub(crate) fn publish(publisher: &mut Publisher, events: u64) {
    if events == 1 {
        publisher.publish(&Opaque(&EVENT)).expect("it is small");
    } else {
        let mut batch = publisher.batch();
        for _ in 0..events {
            batch.push(&Opaque(&EVENT)).expect("it is small");
        }
        batch.publish();
    }
}

/// How far each subscriber is.
pub(crate) struct Window {
    events: u64,
    published: u64,
    consumed: Vec<u64>,
}

impl Window {
    /// Orders so many events to be awaited.
    pub(crate) fn open(peers: &mut [Peer], events: u64) -> Self {
        peers.iter_mut().for_each(|peer| peer.tell(events));
        Self { events, published: 0, consumed: vec![0; peers.len()] }
    }

    /// Waits until so many events more may be under way; `false` if they may at once.
    pub(crate) fn await_room(&mut self, peers: &mut [Peer], events: u64) -> bool {
        self.published += events;
        let mut waited = false;
        while self.hear_while(peers, |published, consumed| published > consumed + WINDOW) {
            waited = true;
        }
        waited
    }

    pub(crate) fn await_end(&mut self, peers: &mut [Peer]) {
        self.published = self.events;
        while self.hear_while(peers, |published, consumed| published > consumed) {}
    }

    /// Hears of the first subscriber that is behind; `false` if none is.
    fn hear_while(&mut self, peers: &mut [Peer], is_behind: impl Fn(u64, u64) -> bool) -> bool {
        let behind = self.consumed.iter().position(|consumed| is_behind(self.published, *consumed));
        if let Some(number) = behind {
            self.consumed[number] = peers[number].hear();
        }
        behind.is_some()
    }
}

/// In a child: receives what is ordered, and tells how far it is, what processor time it took, and what was lost.
pub(crate) fn subscribe(part: &Part) {
    let runtime = runtime();
    let name = part.name.replace(' ', "-");
    let options = ConnectOptions::new(&name).path(part.folder.join("bus.sock"));
    let client = runtime.block_on(EventBusClient::connect(options)).expect("the broker is there");
    let mut subscription = runtime.block_on(client.subscription(&[TOPIC])).expect("it is public");
    part.is_ready();
    loop {
        let events = part.hear();
        let cpu = cpu_nanos();
        let (mut received, mut lost, mut told, mut total) = (0, 0, 0, 0_u64);
        while received + lost < events {
            match subscription.blocking_recv().expect("the bus is there") {
                Ok(batch) => {
                    for event in batch.view() {
                        let EventRef::Opaque(payload) = event else { panic!("only bytes are published") };
                        total = sum(payload).wrapping_add(total);
                    }
                    received += batch.len() as u64;
                }
                Err(RecvError::Lagged(events)) => lost += events,
                Err(error) => panic!("{error}"),
            }
            let settled = received + lost;
            if settled - told >= CREDIT || settled == events {
                told = settled;
                part.tell(told);
            }
        }
        assert!(is_sum_of(total, received), "what was received is what was published");
        part.tell(cpu_nanos() - cpu);
        part.tell(lost);
    }
}

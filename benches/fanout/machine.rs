//! What the machine can do: a bare ring to each subscriber. Who finds it full or empty yields, and never sleeps.

use std::path::Path;

use crate::bare::Bare;
use crate::descriptor::{hand_over, take_over};
use crate::support::{Part, Peer, Run, cpu_nanos};
use crate::{EVENT, heard_from, is_sum_of, start_peers};

const CAPACITY: usize = 1 << 20;
const RECORDS_PER_RELEASE: u64 = 64;

pub(crate) struct Machine {
    rings: Vec<Bare>,
    peers: Vec<Peer>,
}

impl Machine {
    pub(crate) fn start(folder: &Path, subscribers: usize) -> Self {
        let mut peers = start_peers("bare", folder, subscribers);
        let ring = |peer: &mut Peer| {
            let ring = Bare::create(CAPACITY).expect("a ring can be made");
            hand_over(peer, ring.descriptor());
            ring
        };
        let rings = peers.iter_mut().map(ring).collect();
        Self { rings, peers }
    }

    pub(crate) fn run(&mut self, events: u64, at_once: u64) -> Run {
        Run::of(events, || {
            self.peers.iter_mut().for_each(|peer| peer.tell(events));
            for _ in 0..events / at_once {
                for ring in &mut self.rings {
                    for _ in 0..at_once {
                        while !ring.push([&EVENT]) {
                            ring.publish();
                            std::thread::yield_now();
                        }
                    }
                    ring.publish();
                }
            }
            let cpu = heard_from(&mut self.peers);
            assert!(self.rings.iter().all(Bare::all_read), "each has read all");
            cpu
        })
    }
}

/// In a child.
pub(crate) fn consume(part: &Part) {
    part.is_ready();
    let mut ring = Bare::attach(take_over(part), CAPACITY).expect("a ring can be mapped");
    loop {
        let events = part.hear();
        let cpu = cpu_nanos();
        let (mut left, mut total) = (events, 0_u64);
        while left > 0 {
            let before = left;
            while left > 0 && before - left < RECORDS_PER_RELEASE {
                let Some(sum) =
                    ring.read(|words| words.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)))
                else {
                    break;
                };
                total = total.wrapping_add(sum);
                left -= 1;
            }
            ring.release();
            if left == before {
                std::thread::yield_now();
            }
        }
        assert!(is_sum_of(total, events), "what was received is what was written");
        part.tell(cpu_nanos() - cpu);
    }
}

//! A plain socket to each subscriber: a length and an event, 64 KiB of them written at a time. The kernel holds the writer back.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::support::{Part, Peer, Run, cpu_nanos};
use crate::{EVENT, EVENT_BYTES, heard_from, is_sum_of, start_peers, sum};

/// Bytes of one write, and of one read.
const SOCKET_BYTES: usize = 64 << 10;
const FRAME_BYTES: usize = 4 + EVENT_BYTES;

pub(crate) struct Sockets {
    streams: Vec<UnixStream>,
    peers: Vec<Peer>,
    frames: Vec<u8>,
}

impl Sockets {
    pub(crate) fn start(folder: &Path, subscribers: usize) -> Self {
        let listener = UnixListener::bind(folder.join("plain.sock")).expect("the folder is empty");
        let peers = start_peers("socket", folder, subscribers);
        let accept = |_| listener.accept().expect("the subscriber has connected").0;
        let streams = (0..subscribers).map(accept).collect();
        Self { streams, peers, frames: Vec::with_capacity(SOCKET_BYTES) }
    }

    pub(crate) fn run(&mut self, events: u64) -> Run {
        Run::of(events, || {
            self.peers.iter_mut().for_each(|peer| peer.tell(events));
            for _ in 0..events {
                if self.frames.len() + FRAME_BYTES > SOCKET_BYTES {
                    self.write();
                }
                self.frames.extend_from_slice(&(EVENT_BYTES as u32).to_le_bytes());
                self.frames.extend_from_slice(&EVENT);
            }
            self.write();
            heard_from(&mut self.peers)
        })
    }

    /// Encoded once for all.
    fn write(&mut self) {
        for stream in &mut self.streams {
            stream.write_all(&self.frames).expect("the subscriber is there");
        }
        self.frames.clear();
    }
}

/// In a child.
pub(crate) fn read(part: &Part) {
    let stream = UnixStream::connect(part.folder.join("plain.sock")).expect("the publisher listens");
    let mut reader = BufReader::with_capacity(SOCKET_BYTES, stream);
    let mut event = Vec::new();
    part.is_ready();
    loop {
        let events = part.hear();
        let cpu = cpu_nanos();
        let mut total = 0_u64;
        for _ in 0..events {
            let mut length = [0; 4];
            reader.read_exact(&mut length).expect("the publisher is there");
            event.resize(u32::from_le_bytes(length) as usize, 0);
            reader.read_exact(&mut event).expect("the publisher is there");
            total = sum(&event).wrapping_add(total);
        }
        assert!(is_sum_of(total, events), "what was received is what was written");
        part.tell(cpu_nanos() - cpu);
    }
}

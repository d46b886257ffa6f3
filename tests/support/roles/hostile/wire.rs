//! The control protocol, made by hand: a client that follows it as far as it likes.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::support::proof;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Requests by their places in the protocol's enum.
pub(crate) mod request {
    pub(crate) const HELLO: u64 = 0;
    pub(crate) const DECLARE: u64 = 1;
    pub(crate) const CLOSE_PUBLISHER: u64 = 2;
    pub(crate) const SUBSCRIBE: u64 = 3;
    pub(crate) const UNSUBSCRIBE: u64 = 4;
    pub(crate) const PRODUCER_SEGMENT: u64 = 5;
    pub(crate) const CONSUMER_SEGMENT: u64 = 6;
    pub(crate) const DONE: u64 = 7;
    pub(crate) const POISONED: u64 = 9;
    pub(crate) const STATISTICS: u64 = 12;
    pub(crate) const RELAY: u64 = 13;
}

/// Refusals by their places in the protocol's enum.
pub(crate) mod refusal {
    pub(crate) const RING_BYTES: u64 = 6;
    pub(crate) const RING_BUDGET: u64 = 7;
}

/// Handles by their places in the protocol's enum.
pub(crate) mod handle {
    pub(crate) const DESCRIPTOR: u64 = 0;
    pub(crate) const NAME: u64 = 1;
}

/// What of the broker's notices an attacker needs to know.
#[derive(Debug)]
pub(crate) enum Notice {
    Welcome {
        version: u64,
        /// Rings are made of memory with names.
        named: bool,
    },
    Refused {
        /// The place of the refusal in the protocol's enum.
        why: u64,
    },
    /// What was asked for is granted.
    Granted,
    /// A ring leads over the broker.
    Relay {
        ring: u64,
    },
    MakeSegment {
        ring: u64,
        /// Data bytes of a producer's segment; `None`: a consumer's.
        of_producer: Option<u64>,
    },
    Attach {
        ring: u64,
        /// Without one a descriptor comes with it.
        name: Option<String>,
    },
    Grant {
        order: u64,
        ring: u64,
        slot: u64,
        generation: u64,
    },
    Route {
        order: u64,
        target: Option<(u64, u64, u64)>,
    },
    Unroute {
        order: u64,
    },
    CloseRing {
        ring: u64,
        accused: Option<String>,
    },
    Goodbye {
        reason: String,
    },
    Greeting {
        nonce: [u8; 32],
    },
    Other,
}

/// A frame in the making.
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    pub(crate) fn new(variant: u64) -> Self {
        Self(Vec::new()).number(variant)
    }

    pub(crate) fn number(mut self, value: u64) -> Self {
        match value {
            0..251 => self.0.push(value as u8),
            251..0x1_0000 => {
                self.0.push(251);
                self.0.extend((value as u16).to_le_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(252);
                self.0.extend((value as u32).to_le_bytes());
            }
            _ => {
                self.0.push(253);
                self.0.extend(value.to_le_bytes());
            }
        }
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        let mut frame = self.number(text.len() as u64);
        frame.0.extend(text.as_bytes());
        frame
    }

    /// Sends it, with descriptors on its first byte.
    pub(crate) fn send(self, mut stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let length = u32::try_from(self.0.len()).expect("a small frame").to_le_bytes();
        let bytes = [length.as_slice(), &self.0].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)), "there is space");
        }
        let sent = sendmsg(stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        stream.write_all(&bytes[sent..])
    }
}

/// A hello that proves the broker's key to who has greeted with this number.
pub(crate) fn hello(id: &str, key: &[u8; 32], nonce: &[u8; 32]) -> Frame {
    hello_of((1, 2), id, key, nonce)
}

/// The same from a client that speaks these versions, the oldest and the newest.
pub(crate) fn hello_of((oldest, newest): (u64, u64), id: &str, key: &[u8; 32], nonce: &[u8; 32]) -> Frame {
    let said = Frame::new(request::HELLO).number(oldest).number(newest).number(0).text(id);
    // With no life of its own.
    let said = said.raw(&[0; 32]).number(1).number(0).number(0);
    let proof = proof::of_client(key, nonce, &said.0[1..]);
    said.number(1).raw(&proof)
}

/// The same of one who knows nothing.
pub(crate) fn forged_hello(id: &str) -> Frame {
    hello(id, &[7; 32], &[7; 32])
}

/// Reads notices from the broker.
pub(crate) struct Reader {
    stream: UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Reader {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new(), descriptors: VecDeque::new() }
    }

    /// The next notice and its descriptor; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<(Notice, Option<OwnedFd>)> {
        loop {
            if let Some((length, rest)) = self.bytes.split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                if let Some(body) = rest.get(..length) {
                    let notice = Cursor(body).notice();
                    self.bytes.drain(..4 + length);
                    let carries =
                        matches!(notice, Notice::MakeSegment { .. } | Notice::Attach { name: None, .. });
                    let descriptor = if carries { self.descriptors.pop_front() } else { None };
                    return Some((notice, descriptor));
                }
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Option<()> {
        let mut bytes = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let count = recvmsg(&self.stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.descriptors.extend(rights);
            }
        }
        self.bytes.extend(&bytes[..count]);
        (count > 0).then_some(())
    }
}

/// Takes a message apart.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl Cursor<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk().expect("the broker is honest");
        self.0 = rest;
        *bytes
    }

    pub(crate) fn number(&mut self) -> u64 {
        match self.bytes::<1>()[0] {
            251 => u16::from_le_bytes(self.bytes()).into(),
            252 => u32::from_le_bytes(self.bytes()).into(),
            253 => u64::from_le_bytes(self.bytes()),
            small => small.into(),
        }
    }

    pub(crate) fn text(&mut self) -> String {
        let length = usize::try_from(self.number()).expect("a short text");
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }

    fn option<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.bytes::<1>()[0] == 1).then(|| value(self))
    }

    fn notice(&mut self) -> Notice {
        match self.number() {
            0 => {
                let (version, _epoch) = (self.number(), self.number());
                let _component = self.text();
                let _ring_bytes = self.number();
                Notice::Welcome { version, named: self.number() == 1 }
            }
            1 => {
                let _request = self.number();
                Notice::Refused { why: self.number() }
            }
            2 | 3 => Notice::Granted,
            4 => {
                let (ring, _publisher) = (self.number(), self.number());
                Notice::MakeSegment { ring, of_producer: Some(self.number()) }
            }
            5 => Notice::MakeSegment { ring: self.number(), of_producer: None },
            6 | 7 => {
                let ring = self.number();
                let named = self.number() == handle::NAME;
                Notice::Attach { ring, name: named.then(|| self.text()) }
            }
            8 => {
                let (order, ring) = (self.number(), self.number());
                Notice::Grant { order, ring, slot: self.number(), generation: self.number() }
            }
            9 => {
                let order = self.number();
                let _publisher_and_topic = (self.number(), self.number());
                let target = self.option(|fields| (fields.number(), fields.number(), fields.number()));
                Notice::Route { order, target }
            }
            10 => Notice::Unroute { order: self.number() },
            12 => Notice::CloseRing { ring: self.number(), accused: self.option(Self::text) },
            13 => Notice::Goodbye { reason: self.reason() },
            14 => Notice::Greeting { nonce: self.bytes() },
            18 | 19 => Notice::Relay { ring: self.number() },
            _ => Notice::Other,
        }
    }

    fn reason(&mut self) -> String {
        match self.number() {
            1 | 4 => self.text(),
            other => format!("reason {other}"),
        }
    }
}

//! What a process does whose owner has changed: it writes into its own segment what the bus never would.
//!
//! There are two kinds. A client of the bus that forges words in its own memory, and an intruder that speaks the protocol by hand,
//! and so holds each descriptor that it makes or is handed.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::net::{SendFlags, SocketAddrAny};
use serde_json::{Value, json};
use shm::layout::{
    CONSUMER_SEGMENT_BYTES, MAGIC_CONSUMER, MAGIC_PRODUCER, PRODUCER_HEADER_BYTES, RECORD_HEADER_BYTES,
};

use crate::support::DEADLINE;
use descriptors::Offer;
use floods::Flood;
use ring::Ring;
use segment::Segment;
use wire::{Frame, Notice, Reader, handle, refusal, request};

mod attacks;
mod bells;
mod descriptors;
pub(crate) mod floods;
mod names;
mod record;
mod relay;
mod ring;
mod segment;
pub(crate) mod wire;

pub(crate) use descriptors::third;

// The map of shm's `layout.rs`, written down once more: an attacker knows it too.
const TAIL: usize = 128;
const ATTEMPTED: usize = 136;
const LOST: usize = 256;
const CLOSED: usize = 384;
const ROOM_AT: usize = 392;
const SLOTS: usize = 512;
const HEAD: usize = 128;
const WAKE_AT: usize = 256;
/// A word that the bus does not use: over it a third process is told what to do.
const GO: usize = 64;

/// Copies the first record of this process's one ring behind the last, with another slot and generation, and rings all
/// doorbells. Needs a ring with at least one record that has not wrapped.
pub(crate) fn forge(command: &Value) -> Value {
    let words = own_segment('p');
    let records = &words[PRODUCER_HEADER_BYTES / 8..];
    let tail = words[TAIL / 8].load(Ordering::Acquire);
    let at = usize::try_from(tail / 8).expect("it has not wrapped");
    let length = records[0].load(Ordering::Relaxed) & 0xFFFF_FFFF;
    let size = RECORD_HEADER_BYTES + length.next_multiple_of(8);
    let slot = command["slot"].as_u64().expect("the slot to forge");
    let generation = command["generation"].as_u64().unwrap_or(0);
    records[at].store(length | slot << 32 | generation << 48, Ordering::Relaxed);
    records[at + 1].store(command["sequence"].as_u64().unwrap_or(0), Ordering::Relaxed);
    for word in 2..usize::try_from(size / 8).expect("a small record") {
        records[at + word].store(records[word].load(Ordering::Relaxed), Ordering::Relaxed);
    }
    words[TAIL / 8].store(tail + size, Ordering::Release);
    json!({ "rung": ring_all_doorbells() })
}

/// Says of this process's one ring that all of it, and far more, was read.
pub(crate) fn forge_head() -> Value {
    own_segment('c')[HEAD / 8].store(u64::MAX - 7, Ordering::Release);
    json!({})
}

/// The writable segment of this kind that the kernel lists for this process. Named memory says who made it; the peer's is
/// mapped writable, too.
fn own_segment(kind: char) -> &'static [AtomicU64] {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("it is readable");
    let sealed = format!("memfd:eventbus-{kind}");
    let named = format!("/dev/shm/deeb{kind}");
    let line = maps
        .lines()
        .find(|line| (line.contains(&sealed) || line.contains(&named)) && line.contains("rw-s"))
        .expect("this process has a ring to write to");
    let (start, rest) = line.split_once('-').expect("a range");
    let (end, _) = rest.split_once(' ').expect("a range");
    let start = usize::from_str_radix(start, 16).expect("an address");
    let end = usize::from_str_radix(end, 16).expect("an address");
    // SAFETY: the kernel says that these pages are mapped readable and writable; the ring is never dropped while a role forges;
    // all accesses to it, the bus's own too, are atomic words.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), (end - start) / 8) }
}

/// Sends a byte to each socket that is connected to a nameless one. The broker's has a name.
fn ring_all_doorbells() -> u64 {
    let mut rung = 0;
    for entry in std::fs::read_dir("/proc/self/fd").expect("it is readable").flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // SAFETY: the descriptor was just listed, and no thread of this role closes any while it forges.
        let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let nameless = match rustix::net::getpeername(descriptor) {
            Ok(Some(SocketAddrAny { .. })) | Ok(None) => !names_a_path(descriptor),
            Err(_) => false,
        };
        if nameless && rustix::net::send(descriptor, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
        {
            rung += 1;
        }
    }
    rung
}

fn names_a_path(descriptor: std::os::fd::BorrowedFd<'_>) -> bool {
    let peer = rustix::net::getpeername(descriptor).ok().flatten();
    let peer = peer.and_then(|address| rustix::net::SocketAddrUnix::try_from(address).ok());
    peer.is_some_and(|address| address.path().is_some_and(|path| !path.is_empty()))
}

/// Runs a process that speaks the protocol by hand: one command per line, as the others.
pub(crate) fn live(role: &Value) {
    let path = role["path"].as_str().expect("the harness names the path").to_owned();
    let mut intruder = Intruder::new(&path);
    super::answer(&json!({}));
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let command: Value = serde_json::from_str(&line).expect("the harness writes JSON");
        let answer = intruder.carry_out(&path, &command);
        super::answer(&answer);
    }
}

/// A process that speaks the protocol by hand, and owns what it was granted.
struct Intruder {
    stream: UnixStream,
    shared: Arc<Shared>,
    flood: Option<Flood>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What has come of it so far.
#[derive(Default)]
struct State {
    welcome: bool,
    /// Which it speaks, once it is welcome.
    version: Option<u64>,
    /// Rings are made of memory with names.
    named: bool,
    refused: Option<u64>,
    /// The last request was granted.
    granted: bool,
    /// What is offered where a segment is due.
    offer: String,
    /// It was changed behind the broker's back.
    swapped: bool,
    rings: BTreeMap<u64, Ring>,
    /// The ring that leads over the broker.
    relayed: Option<u64>,
    accused: Vec<String>,
    goodbye: Option<String>,
    over: bool,
    /// Nothing is read any more.
    reads_nothing: bool,
    /// Events published as an honest publisher would.
    events: u32,
    /// What it was greeted with.
    nonce: Option<[u8; 32]>,
}

/// How far the reader of a ring is, and its writer.
fn head(ring: &Ring) -> Value {
    let theirs = ring.theirs.as_ref().expect("it is complete");
    json!({ "head": theirs.word(HEAD), "tail": ring.tail })
}

impl Intruder {
    fn new(path: &str) -> Self {
        let stream = UnixStream::connect(path).expect("the broker listens");
        let shared = Arc::new(Shared::default());
        let reader = Reader::new(stream.try_clone().expect("a descriptor"));
        let (writer, theirs) = (stream.try_clone().expect("a descriptor"), Arc::clone(&shared));
        std::thread::spawn(move || follow(reader, &writer, &theirs));
        Self { stream, shared, flood: None }
    }

    fn carry_out(&mut self, path: &str, command: &Value) -> Value {
        let text = |key: &str| command[key].as_str().unwrap_or_default();
        let number = |key: &str| command[key].as_u64().unwrap_or(0);
        match text("do") {
            "hello" => self.hello(path, command),
            "state" => self.wait(|_| true),
            "declare" => {
                self.begin(text("offer"));
                let publisher = number("publisher");
                let frame = Frame::new(request::DECLARE).number(publisher + 100).number(publisher);
                self.send(frame.number(0).text(text("topic")));
                self.await_ring()
            }
            "close_publisher" => {
                self.send(Frame::new(request::CLOSE_PUBLISHER).number(number("publisher")));
                json!({})
            }
            "subscribe" => {
                self.begin(text("offer"));
                self.subscribe(text("pattern"), command["ring_bytes"].as_u64())
            }
            "publish" => self.publish(number("count"), number("left")),
            "attack" => self.with_ring(|ring| {
                let act = if ring.of_producer { attacks::on_consumer } else { attacks::on_producer };
                act(ring, text("name"));
                json!({})
            }),
            "flip" => self.with_ring(|ring| {
                let rounds = number("rounds");
                if ring.of_producer {
                    attacks::flip_records(ring, text("name"), rounds);
                } else {
                    attacks::flip_marks(ring, text("name"), rounds);
                }
                json!({})
            }),
            "bell" => self.with_ring(|ring| bells::attack(ring, text("name"))),
            "read" => self.with_ring(|ring| json!({ "published": ring.read_all() })),
            "kernel" => self.with_ring(|ring| {
                let on = if text("on") == "own" { Some(&ring.own) } else { ring.theirs.as_ref() };
                let on = on.expect("it is complete").descriptor.as_fd();
                json!({ "said": segment::attempt(on, text("name")) })
            }),
            "theirs" => self.with_ring(|ring| {
                let theirs = ring.theirs.as_ref().expect("it is complete");
                attacks::on_theirs(theirs, text("name"), number("value"));
                json!({})
            }),
            "head" => self.with_ring(|ring| head(ring)),
            "accuse" => self.accuse(text("what")),
            "open" => json!({ "said": names::open(text("name")).map_or_else(name, |_| "done".into()) }),
            "deaf" => {
                // It may have been hung up on.
                let _ = self.stream.shutdown(std::net::Shutdown::Read);
                self.send(Frame::new(request::SUBSCRIBE).number(2).number(2).number(1).text("#").number(0));
                json!({})
            }
            "flood" => self.flood(path, text("name")),
            "await_granted" => self.wait(|state| state.granted || state.over),
            "await_relayed" => self.wait(|state| state.relayed.is_some() || state.over),
            "relay" => self.relay(text("name")),
            "await_over" => self.wait(|state| state.over),
            "await_accused" => self.wait(|state| !state.accused.is_empty() || state.over),
            "leave_child" => self.leave_child(),
            other => panic!("no command {other}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nobody panics with it")
    }

    /// Forgets earlier rings.
    fn begin(&self, offer: &str) {
        let mut state = self.state();
        offer.clone_into(&mut state.offer);
        state.rings.clear();
        state.accused.clear();
        state.granted = false;
        state.refused = None;
        state.swapped = false;
        state.relayed = None;
    }

    fn send(&self, frame: Frame) {
        // A broker that has hung up says so to the reader.
        let _ = frame.send(&self.stream, &[]);
    }

    /// Begins a new session under this name; one that is just ending may still hold it.
    fn hello(&mut self, path: &str, command: &Value) -> Value {
        let id = command["id"].as_str().unwrap_or_default();
        let version = |key: &str, ours| command[key].as_u64().unwrap_or(ours);
        let versions = (version("oldest", 1), version("newest", 2));
        let start = std::time::Instant::now();
        loop {
            // What the old session left behind goes with it.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
            *self = Self::new(path);
            let answer = self.wait(|state| state.nonce.is_some() || state.refused.is_some() || state.over);
            let Some(nonce) = self.state().nonce else { return answer };
            let key = crate::support::proof::key_beside(path.as_ref());
            self.send(wire::hello_of(versions, id, &key, &nonce));
            let answer = self.wait(|state| state.welcome || state.refused.is_some() || state.over);
            if answer["welcome"] == true || start.elapsed() > DEADLINE {
                return answer;
            }
        }
    }

    /// Waits for a condition, and says how things are.
    fn wait(&self, condition: impl Fn(&State) -> bool) -> Value {
        let waited =
            self.shared.changed.wait_timeout_while(self.state(), DEADLINE, |state| !condition(state));
        let (state, _) = waited.expect("nobody panics with it");
        json!({
            "welcome": state.welcome,
            "version": state.version,
            "refused": state.refused.map(|why| match why {
                refusal::RING_BYTES => "RingBytes".to_owned(),
                refusal::RING_BUDGET => "RingBudget".to_owned(),
                other => other.to_string(),
            }),
            "goodbye": state.goodbye,
            "accused": state.accused,
            "ready": state.rings.values().any(Ring::is_ready),
            "relayed": state.relayed.is_some(),
            "over": state.over,
        })
    }

    fn subscribe(&self, pattern: &str, ring_bytes: Option<u64>) -> Value {
        let frame = Frame::new(request::SUBSCRIBE).number(1).number(1).number(1).text(pattern);
        self.send(match ring_bytes {
            Some(bytes) => frame.number(1).number(bytes),
            None => frame.number(0),
        });
        self.await_ring()
    }

    /// Sends what has this name over its ring that leads over the broker.
    fn relay(&self, name: &str) -> Value {
        let ring = self.state().relayed.expect("the harness waits until there is one");
        relay::attack(ring, name, |frame| self.send(frame));
        json!({})
    }

    fn await_ring(&self) -> Value {
        self.wait(|state| {
            let swapped = state.swapped;
            state.over
                || swapped
                || state.refused.is_some()
                || (state.granted && state.relayed.is_some())
                || state.rings.values().any(|ring| ring.closed || (state.granted && ring.is_ready()))
        })
    }

    /// Does something with the one ring that is in use.
    fn with_ring(&self, act: impl FnOnce(&mut Ring) -> Value) -> Value {
        let mut state = self.state();
        let ring = state.rings.values_mut().rfind(|ring| ring.theirs.is_some());
        act(ring.expect("the harness waits until it is ready"))
    }

    /// Says that the other side of its ring broke it, and how.
    fn accuse(&self, what: &str) -> Value {
        let ring = self.state().rings.iter().rfind(|(_, ring)| ring.theirs.is_some()).map(|(id, _)| *id);
        let ring = ring.expect("the harness waits until it is ready");
        self.send(Frame::new(request::POISONED).number(ring).text(what));
        json!({})
    }

    /// Publishes `count` events, and then so many that `left` bytes are left to the end of the ring.
    fn publish(&self, count: u64, left: u64) -> Value {
        let mut state = self.state();
        let state = &mut *state;
        let ring = state.rings.values_mut().rfind(|ring| ring.is_ready()).expect("it is ready");
        let before = state.events;
        for _ in 0..count {
            ring.publish(state.events);
            state.events += 1;
        }
        while left > 0 && ring.to_end() > left {
            ring.publish(state.events);
            state.events += 1;
        }
        json!({ "count": state.events - before })
    }

    /// Begins a flood, or ends it.
    fn flood(&mut self, path: &str, name: &str) -> Value {
        if let Some(flood) = self.flood.take_if(|_| name == "end") {
            // So that nothing waits for what is not read.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
            return json!({ "count": flood.end() });
        }
        if name == "never-reads" {
            self.state().reads_nothing = true;
        }
        let stream = self.stream.try_clone().expect("a descriptor");
        self.flood = Some(Flood::begin(name, path, stream));
        json!({})
    }

    /// Leaves a child behind that holds everything open that this process has.
    fn leave_child(&self) -> Value {
        for entry in std::fs::read_dir("/proc/self/fd").expect("it is readable").flatten() {
            let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            if number > 2 {
                // SAFETY: the descriptor was just listed, and no thread of this role closes any meanwhile.
                let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
                // The listing's own is closed by now.
                let _ = rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty());
            }
        }
        let quiet = std::process::Stdio::null;
        let child = std::process::Command::new("sleep").arg("600").stdin(quiet()).stdout(quiet()).spawn();
        json!({ "child": child.expect("it starts").id() })
    }
}

/// What the kernel calls an error.
fn name(errno: Errno) -> String {
    let known = [
        (Errno::PERM, "PERM"),
        (Errno::ACCESS, "ACCESS"),
        (Errno::OPNOTSUPP, "OPNOTSUPP"),
        (Errno::PIPE, "PIPE"),
    ];
    let name = known.iter().find(|(known, _)| *known == errno);
    name.map_or_else(|| errno.to_string(), |(_, name)| (*name).to_owned())
}

/// Follows the protocol, but for what is offered as a segment.
fn follow(mut reader: Reader, writer: &UnixStream, shared: &Shared) {
    while let Some((notice, descriptor)) = reader.next() {
        let state = shared.state.lock().expect("nobody panics with it");
        let waited = shared.changed.wait_while(state, |state| state.reads_nothing);
        let mut state = waited.expect("nobody panics with it");
        state.heed(notice, descriptor, writer);
        drop(state);
        shared.changed.notify_all();
    }
    let mut state = shared.state.lock().expect("nobody panics with it");
    state.over = true;
    // Nobody will attach any more.
    state.rings.values_mut().for_each(|ring| ring.own.name = None);
    drop(state);
    shared.changed.notify_all();
}

impl State {
    fn heed(&mut self, notice: Notice, descriptor: Option<OwnedFd>, writer: &UnixStream) {
        // A broker that has hung up says so to the reader.
        let done = |order| drop(Frame::new(request::DONE).number(order).send(writer, &[]));
        match notice {
            Notice::Welcome { version, named } => {
                self.version = Some(version);
                self.named = named;
                self.welcome = true;
            }
            Notice::Greeting { nonce } => self.nonce = Some(nonce),
            Notice::Refused { why } => self.refused = Some(why),
            Notice::Granted => self.granted = true,
            Notice::MakeSegment { ring, of_producer } => {
                let bell = descriptor.expect("a bell comes with it");
                self.make_segment(ring, of_producer, bell, writer);
            }
            Notice::Attach { ring, name } => {
                let Some(ring) = self.rings.get_mut(&ring) else { return };
                ring.theirs = match name {
                    Some(name) => Segment::of_name(&name, self.offer == "name-kept"),
                    None => descriptor.map(Segment::received),
                };
            }
            Notice::Grant { order, ring, slot, generation } => {
                if let Some(ring) = self.rings.get_mut(&ring) {
                    ring.target = Some((slot, generation));
                }
                done(order);
            }
            Notice::Route { order, target } => {
                if let Some((ring, slot, generation)) = target
                    && let Some(ring) = self.rings.get_mut(&ring)
                {
                    ring.target = Some((slot, generation));
                }
                done(order);
            }
            Notice::Relay { ring } => self.relayed = Some(ring),
            Notice::Unroute { order } => done(order),
            Notice::CloseRing { ring, accused } => {
                if let Some(ring) = self.rings.get_mut(&ring) {
                    ring.closed = true;
                    ring.own.name = None;
                }
                self.accused.extend(accused);
            }
            Notice::Goodbye { reason } => self.goodbye = Some(reason),
            Notice::Other => {}
        }
    }

    /// Hands over what is offered where its segment of a ring is due.
    fn make_segment(&mut self, ring: u64, of_producer: Option<u64>, bell: OwnedFd, writer: &UnixStream) {
        let (bytes, magic, variant) = if let Some(data) = of_producer {
            let data = usize::try_from(data).expect("a size");
            (PRODUCER_HEADER_BYTES + data, MAGIC_PRODUCER, request::PRODUCER_SEGMENT)
        } else {
            (CONSUMER_SEGMENT_BYTES, MAGIC_CONSUMER, request::CONSUMER_SEGMENT)
        };
        let offer = if self.named { names::offer } else { descriptors::offer };
        let Offer { own, name, descriptors } = offer(&self.offer, bytes, magic);
        let frame = Frame::new(variant).number(ring);
        let frame = match name {
            Some(name) => frame.number(handle::NAME).text(&name),
            None => frame.number(handle::DESCRIPTOR),
        };
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let _ = frame.send(writer, &descriptors);
        if let Some(what) = self.offer.strip_prefix("swapped-") {
            names::swap(what, &own, magic);
            self.swapped = true;
        }
        let of_producer = of_producer.is_some();
        let made =
            Ring { of_producer, own, theirs: None, bell, target: None, tail: 0, sequence: 0, closed: false };
        self.rings.insert(ring, made);
    }
}

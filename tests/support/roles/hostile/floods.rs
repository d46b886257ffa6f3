//! Connections that use up what the broker has: descriptors, memory, its one loop.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::wire::{Frame, forged_hello, request};
use crate::support::chance::Chance;

/// A flood that goes on beside what else the role does.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Flood {
    /// Begins; `stream` is a session that has said hello, if the flood needs one.
    pub(crate) fn begin(name: &str, path: &str, stream: UnixStream) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let going = {
            let stop = Arc::clone(&stop);
            move || !stop.load(Ordering::Relaxed)
        };
        let (name, path) = (name.to_owned(), path.to_owned());
        let thread = std::thread::spawn(move || run(&name, &path, &stream, &going));
        Self { stop, thread }
    }

    /// Ends it. How many frames, or connections, it made.
    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

/// Goes on for as long as it is let. How many frames, or connections, it made.
pub(crate) fn run(name: &str, path: &str, stream: &UnixStream, going: &impl Fn() -> bool) -> u64 {
    match name {
        "mute" => mute(path, going, 1000),
        "mute-60" => mute(path, going, 60),
        "drip" => drip(stream, going),
        "never-reads" => asks(stream, going, |number| match number % 2 {
            0 => subscribe(number, 64),
            _ => Frame::new(request::UNSUBSCRIBE).number(number - 1),
        }),
        "subscriptions" => asks(stream, going, |number| subscribe(number, 1)),
        "requests" => asks(stream, going, |number| {
            Frame::new(request::DECLARE).number(number).number(number).number(0).text("x.y")
        }),
        "descriptors" => again(path, going, |stream, number| {
            let frame = match number % 3 {
                0 => Frame::new(request::DONE).number(1),
                1 => forged_hello("No Name"),
                _ => forged_hello("tool"),
            };
            let copies: Vec<_> = (0..40).map(|_| stream.as_fd()).collect();
            frame.send(stream, &copies)
        }),
        "drip-anew" => again(path, going, |mut stream, _| {
            while DRIP.iter().all(|byte| stream.write_all(&[*byte]).is_ok()) {}
            Ok(())
        }),
        "forgeries" => again(path, going, |stream, _| forged_hello("procmond").send(stream, &[])),
        "random" => {
            let mut chance = Chance::new();
            again(path, going, move |mut stream, _| {
                let bytes: Vec<u8> = (0..4096).map(|_| chance.below(256) as u8).collect();
                stream.write_all(&bytes)
            })
        }
        "lengths" => {
            again(path, going, |mut stream, number| stream.write_all(&[[0; 4], [0xFF; 4]][number % 2]))
        }
        other => panic!("no flood {other}"),
    }
}

/// Different patterns, each as long as it can be.
fn subscribe(number: u64, patterns: u64) -> Frame {
    let frame = Frame::new(request::SUBSCRIBE).number(number).number(number).number(patterns);
    let filler = "x".repeat(40);
    let frame = (0..patterns).fold(frame, |frame, pattern| {
        frame.text(&format!("events.process.{pattern}-{filler}.{number}-{filler}"))
    });
    frame.number(0)
}

/// Lets this process have as many descriptors as it may, and those that it starts from now on.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("it may be raised");
}

/// So many connections that say nothing, for as long as they are let.
fn mute(path: &str, going: &impl Fn() -> bool, count: usize) -> u64 {
    raise_descriptor_limit();
    let connect = |_| UnixStream::connect(path).expect("the broker listens");
    let streams: Vec<UnixStream> = (0..count).map(connect).collect();
    while going() {
        std::thread::sleep(Duration::from_millis(5));
    }
    streams.len() as u64
}

/// A frame that asks for nothing.
const DRIP: [u8; 6] = [2, 0, 0, 0, request::CLOSE_PUBLISHER as u8, 0];

/// One byte at a time, each on its own.
fn drip(mut stream: &UnixStream, going: &impl Fn() -> bool) -> u64 {
    let mut sent = 0;
    for byte in DRIP.iter().cycle() {
        if !going() || stream.write_all(&[*byte]).is_err() {
            break;
        }
        sent += 1;
    }
    sent
}

/// Requests as fast as they are read, 100,000 at most.
fn asks(stream: &UnixStream, going: &impl Fn() -> bool, frame: impl Fn(u64) -> Frame) -> u64 {
    let mut sent = 0;
    while going() && sent < 100_000 {
        if frame(sent).send(stream, &[]).is_err() {
            break;
        }
        sent += 1;
    }
    sent
}

/// Connections that one process makes before it waits for the broker to hang up on them.
const AT_ONCE: usize = 16;

/// Connections, some at once, again and again, and what they are told before they are hung up on.
fn again(
    path: &str,
    going: &impl Fn() -> bool,
    mut act: impl FnMut(&UnixStream, usize) -> std::io::Result<()>,
) -> u64 {
    let mut made = 0;
    while going() {
        let mut streams: Vec<_> = (0..AT_ONCE).filter_map(|_| UnixStream::connect(path).ok()).collect();
        for stream in &streams {
            stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
            // The broker may hang up first.
            let _ = act(stream, made);
            made += 1;
        }
        for stream in &mut streams {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    made as u64
}

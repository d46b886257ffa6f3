//! What keeps a publisher from running ahead: the subscriber reports what it has received, over a socket of their own.
//!
//! The processes stand in a folder of their own, so the socket's path is relative.

use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;

use crate::{MESSAGE_BYTES, REPORTED, WINDOW};

const SOCKET: &str = "pace.sock";
/// Who hears nothing for so long hears nothing any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// The subscriber's end.
pub struct Report {
    to: UnixStream,
    received: u64,
}

/// Where the subscriber waits for its publisher.
pub struct Awaited(UnixListener);

impl Awaited {
    pub fn new() -> Self {
        Self(UnixListener::bind(SOCKET).expect("the folder is new"))
    }

    pub fn publisher(self) -> Report {
        Report { to: self.0.accept().expect("a publisher comes").0, received: 0 }
    }
}

impl Report {
    /// A message has come.
    pub fn received(&mut self, message: &[u8]) {
        assert_eq!(message.len(), MESSAGE_BYTES, "it is one of ours");
        std::hint::black_box(message.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
        self.received += 1;
        if self.received.is_multiple_of(REPORTED) {
            // A publisher that is done needs no report.
            let _ = self.to.write_all(&self.received.to_le_bytes());
        }
    }
}

/// The publisher's end.
pub struct Pace {
    from: tokio::net::UnixStream,
    sent: u64,
    received: u64,
    begun: Instant,
}

/// What a publisher has seen.
pub struct Outcome {
    pub sent: u64,
    pub received: u64,
    pub elapsed: Duration,
}

impl Pace {
    pub async fn new() -> Self {
        let from = tokio::net::UnixStream::connect(SOCKET).await.expect("the subscriber waits");
        Self { from, sent: 0, received: 0, begun: Instant::now() }
    }

    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// Counts a message, and waits until the next may be sent; `false`: the time is over, or nothing arrives any more.
    pub async fn next(&mut self, time: Duration) -> bool {
        self.sent += 1;
        if !self.sent.is_multiple_of(REPORTED) {
            return true;
        }
        if self.begun.elapsed() >= time {
            return false;
        }
        while self.sent - self.received >= WINDOW {
            if !self.hear().await {
                return false;
            }
        }
        true
    }

    async fn hear(&mut self) -> bool {
        match tokio::time::timeout(PATIENCE, self.from.read_u64_le()).await {
            Ok(Ok(received)) => {
                self.received = received;
                true
            }
            _ => false,
        }
    }

    /// Waits for what is under way.
    pub async fn end(mut self) -> Outcome {
        let mut elapsed = self.begun.elapsed();
        while self.received < self.sent && self.hear().await {
            elapsed = self.begun.elapsed();
        }
        Outcome { sent: self.sent, received: self.received, elapsed }
    }
}

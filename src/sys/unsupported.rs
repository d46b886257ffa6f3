//! A platform without a transport: whoever listens or connects is told so, and comes no further.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use shm::{Descriptor, Doorbell};

use super::{Access, FileError, ListenError};

/// A connection: there is none.
pub(crate) type Socket = Infallible;

/// Reads a text that others can't have written: that can't be told here.
pub(crate) fn read_trusted(path: &Path, _: usize) -> Result<String, FileError> {
    let source = io::Error::new(io::ErrorKind::Unsupported, "this platform is not supported yet");
    Err(FileError::Host { path: path.to_owned(), source })
}

/// Longest name of a pipe on Windows.
pub(crate) const PATH_BYTES_MAX: usize = 256;

/// One end of a connection with a broker, for a process that is started with it: there is none on this platform.
#[derive(Debug)]
pub struct SocketEnd(Infallible);

impl SocketEnd {
    /// Takes the standard input of this process.
    ///
    /// # Errors
    /// This platform is not supported yet.
    pub fn take_stdin() -> io::Result<Self> {
        Err(unsupported())
    }
}

/// What the standard input is.
pub(crate) fn take_stdin() -> io::Result<File> {
    Err(unsupported())
}

/// Bytes of a secret.
pub(crate) const SECRET_BYTES: usize = 32;

/// 32 bytes that are nobody's business: they are not kept.
#[derive(Debug)]
pub(crate) struct Secret;

impl Secret {
    pub(crate) fn new() -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn of(_: &[u8; SECRET_BYTES]) -> Self {
        Self
    }

    pub(crate) fn with<T>(&self, _: impl FnOnce(&[u8; SECRET_BYTES]) -> T) -> io::Result<T> {
        Err(unsupported())
    }
}

/// Lends memory for what is secret, of which there is nothing.
pub(crate) fn expose<const N: usize, T>(work: impl FnOnce(&mut [u8; N]) -> T) -> T {
    work(&mut [0; N])
}

/// Bytes that nobody can guess.
pub(crate) fn randomize(_: &mut [u8]) -> io::Result<()> {
    Err(unsupported())
}

/// The secret in a file.
pub(crate) fn read_file(_: &Path, _: u32) -> io::Result<Secret> {
    Err(unsupported())
}

/// Writes a new file that nobody but its owner can read.
pub(crate) fn write_token(_: &Path, _: &[u8], _: Option<u32>) -> io::Result<()> {
    Err(unsupported())
}

/// Whether nobody else can read a file.
pub(crate) fn open_private(_: &Path) -> io::Result<File> {
    Err(unsupported())
}

/// A new connection: there is none.
pub(crate) fn pair() -> io::Result<(Stream, SocketEnd)> {
    Err(unsupported())
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this platform is not supported yet")
}

/// Connects to the broker's socket at `path`.
pub(crate) fn connect(_: &Path, _: Instant) -> io::Result<Socket> {
    Err(unsupported())
}

/// Connects to the broker's socket at `path`, if that takes no wait.
pub(crate) fn connect_at_once(_: &Path) -> io::Result<Option<Socket>> {
    Err(unsupported())
}

/// A connected control socket: there is none.
#[derive(Debug)]
pub(crate) struct Stream(Infallible);

/// What one look at a socket brought.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    pub(crate) descriptors: Vec<Descriptor>,
}

impl From<SocketEnd> for Socket {
    fn from(end: SocketEnd) -> Self {
        end.0
    }
}

impl Stream {
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self(socket))
    }

    pub(crate) fn buffer() -> Box<[u8]> {
        Box::default()
    }

    pub(crate) async fn receive(&self, _: &mut [u8]) -> io::Result<Received> {
        match self.0 {}
    }

    pub(crate) async fn receive_soon(&self, _: &mut [u8], _: Instant) -> io::Result<Received> {
        match self.0 {}
    }

    pub(crate) async fn send(&self, _: &[u8], _: Option<&Descriptor>) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn is_full_of_descriptors(_: &io::Error) -> bool {
        false
    }

    pub(crate) fn send_now(&self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub(crate) fn say_end(&self) {
        match self.0 {}
    }
}

/// A listening socket: there is none.
#[derive(Debug)]
pub(crate) struct Listener(Infallible);

impl Listener {
    pub(crate) fn bind(path: &Path, _: &Access, _: &Secret) -> Result<Self, ListenError> {
        Err(ListenError::Unsupported { path: path.to_owned() })
    }

    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        match self.0 {}
    }
}

/// Who is at the other end of a socket: nobody.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) pid: Option<u32>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    nobody: Infallible,
}

/// The user at the other end of a connection.
pub(crate) fn uid_of_peer(stream: &Stream) -> io::Result<u32> {
    match stream.0 {}
}

impl Credentials {
    pub(crate) fn of(stream: &Stream) -> io::Result<Self> {
        match stream.0 {}
    }

    pub(crate) async fn of_first_speaker(stream: &Stream) -> io::Result<Option<Self>> {
        match stream.0 {}
    }

    pub(crate) fn is_dead(&self) -> bool {
        match self.nobody {}
    }

    pub(crate) fn death(&self) -> impl Future<Output = ()> + use<> {
        let nobody = self.nobody;
        async move { match nobody {} }
    }
}

/// All that there is here is of one user.
pub(crate) fn own_uid() -> u32 {
    0
}

/// Sleeps until one of the doorbells rings or is closed at the other end, or the time is over, and says which in `rung`.
pub(crate) fn wait<'a>(
    doorbells: impl ExactSizeIterator<Item = &'a Doorbell>,
    _: Option<Duration>,
    _: &mut Vec<bool>,
) {
    unreachable!("{} doorbells, where no data thread has been started for want of any ring", doorbells.len())
}

/// A doorbell of somebody else: there is none.
#[derive(Debug)]
pub(crate) struct Bell(Infallible);

impl Bell {
    pub(crate) fn of(_: &Doorbell) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Resolves when one of the doorbells rings: there is none.
pub(crate) async fn first_ring(bells: Vec<Bell>) -> io::Result<()> {
    match bells.into_iter().next() {
        Some(bell) => match bell.0 {},
        None => std::future::pending().await,
    }
}

/// Nanoseconds since the process began to count: no other process is compared with.
pub(crate) fn monotonic_nanos() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).expect("a process lives for less than 584 years")
}

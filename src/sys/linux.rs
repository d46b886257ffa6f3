//! Linux: streams with descriptors, `poll`, the clock.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, sockopt,
};
use rustix::time::{ClockId, Timespec, clock_gettime};
use shm::{Descriptor, Doorbell, Received};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes taken from a socket at once.
const READ_BYTES: usize = 16 << 10;

/// Where descriptors are short: after how long a socket without room is tried again.
const ROOM_RETRY: Duration = Duration::from_millis(1);

/// A connection that no runtime has taken in yet.
pub(crate) type Socket = OwnedFd;

/// A connected control socket.
///
/// The runtime watches it for what there is to read alone. Of a socket that it watches for room, too, it hears each time that the peer has
/// read something, which is one more wake-up for each message.
#[derive(Debug)]
pub(crate) struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// Takes a connected socket into the current runtime.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        AsyncFd::with_interest(socket, Interest::READABLE).map(Self)
    }

    /// For those who ask the kernel about it.
    pub(super) fn socket(&self) -> &AsyncFd<OwnedFd> {
        &self.0
    }

    /// A buffer of the size that [`receive`](Self::receive) likes best.
    pub(crate) fn buffer() -> Box<[u8]> {
        vec![0; READ_BYTES].into_boxed_slice()
    }

    /// Waits for bytes. Cancel-safe: nothing is taken before it is returned.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.0.async_io(Interest::READABLE, |socket| receive(socket.as_fd(), buffer)).await
    }

    /// As [`receive`](Self::receive), where they are about to come: looks for them for a while, in which others may run, before it
    /// sleeps.
    pub(crate) async fn receive_soon(&self, buffer: &mut [u8], until: Instant) -> io::Result<Received> {
        loop {
            match receive(self.0.as_fd(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
            if Instant::now() >= until {
                return self.receive(buffer).await;
            }
            std::thread::yield_now();
        }
    }

    /// Sends all of `bytes`, the descriptor with the first of them. Not cancel-safe: a part may have been sent.
    pub(crate) async fn send(&self, bytes: &[u8], descriptor: Option<&Descriptor>) -> io::Result<()> {
        let mut sent = 0;
        let mut descriptor = descriptor.map(AsFd::as_fd);
        while sent < bytes.len() {
            match send(self.0.as_fd(), &bytes[sent..], descriptor) {
                Ok(count) => {
                    sent += count;
                    descriptor = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a descriptor could not be sent since others of this process's user are on their way: so many that nobody has received. The
    /// stream is as it was.
    pub(crate) fn is_full_of_descriptors(error: &io::Error) -> bool {
        Errno::from_io_error(error) == Some(Errno::TOOMANYREFS)
    }

    /// Sends what there is room for, at once.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        send(self.0.as_fd(), bytes, None)
    }

    /// Says that nothing more is sent. What the peer sends can still be received.
    pub(crate) fn say_end(&self) {
        // Where the peer is gone there is nobody to tell.
        let _ = rustix::net::shutdown(self.0.as_fd(), rustix::net::Shutdown::Write);
    }

    /// Waits for room, at least for a moment.
    async fn room(&self) {
        let copy = self.0.as_fd().try_clone_to_owned();
        match copy.and_then(|copy| AsyncFd::with_interest(copy, Interest::WRITABLE)) {
            // An error the next attempt says, too.
            Ok(socket) => drop(socket.writable().await),
            // There is no descriptor left to wait with.
            Err(_) => tokio::time::sleep(ROOM_RETRY).await,
        }
    }
}

impl Drop for Stream {
    /// Closes it without waiting for what a peer may have left in it.
    fn drop(&mut self) {
        shm::empty(self.0.as_fd());
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let received = shm::receive(socket, buffer)?;
    // There is room for all that can come: what is missing did not fit into this process.
    if received.cut { Err(Errno::MFILE.into()) } else { Ok(received) }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = descriptor.as_slice();
    if !rights.is_empty() && !control.push(SendAncillaryMessage::ScmRights(rights)) {
        unreachable!("the buffer has room for one descriptor");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))?)
}

/// As below, if nothing has to be waited for. `None`: something has.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<Option<Socket>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(Some(socket)),
        // There is no room in the queue of those who wait to be let in.
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Connects to the broker's socket at `path`. Waits while as many clients as the broker's socket takes are waiting, and
/// until the deadline at most; then the error is `TimedOut`.
pub(crate) fn connect(path: &Path, deadline: Instant) -> io::Result<Socket> {
    let address = SocketAddrUnix::new(path)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The kernel wakes who waits for room in the queue, and takes this as the time to wait.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // A signal, or the time is over.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Doorbells that are slept on without an allocation.
const FEW_BELLS: usize = 16;

/// Sleeps until one of the doorbells rings or is closed at the other end, or the time is over, and says which in `rung`.
pub(crate) fn wait<'a>(
    mut doorbells: impl ExactSizeIterator<Item = &'a Doorbell>,
    longest: Option<Duration>,
    rung: &mut Vec<bool>,
) {
    rung.clear();
    let count = doorbells.len();
    let Some(first) = doorbells.next() else { return };
    if count <= FEW_BELLS {
        let mut rest = std::iter::once(first).chain(doorbells);
        let mut few: [_; FEW_BELLS] =
            std::array::from_fn(|_| PollFd::new(rest.next().unwrap_or(first), PollFlags::IN));
        poll(&mut few[..count], longest, rung);
    } else {
        let all = std::iter::once(first).chain(doorbells);
        let mut many: Vec<_> = all.map(|doorbell| PollFd::new(doorbell, PollFlags::IN)).collect();
        poll(&mut many, longest, rung);
    }
}

fn poll(polled: &mut [PollFd<'_>], longest: Option<Duration>, rung: &mut Vec<bool>) {
    let longest = longest.map(|longest| Timespec {
        tv_sec: longest.as_secs().cast_signed(),
        tv_nsec: longest.subsec_nanos().into(),
    });
    match rustix::event::poll(polled, longest.as_ref()) {
        Ok(_) => rung.extend(polled.iter().map(|descriptor| !descriptor.revents().is_empty())),
        Err(Errno::INTR | Errno::AGAIN | Errno::NOMEM) => rung.resize(polled.len(), false),
        // More descriptors than the process may have by now: all may have something, and looking is never wrong.
        Err(Errno::INVAL) => rung.resize(polled.len(), true),
        Err(errno) => unreachable!("poll refuses nothing but bad arguments: {errno}"),
    }
}

/// A doorbell of somebody else, to be waited for by a runtime. Waiting takes nothing in.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn of(doorbell: &Doorbell) -> io::Result<Self> {
        doorbell.as_fd().try_clone_to_owned().map(Self)
    }
}

/// Resolves when one of the doorbells rings or is closed at the other end; at once, if the host can't watch them.
pub(crate) async fn first_ring(bells: Vec<Bell>) -> io::Result<()> {
    let watch = |bell: Bell| AsyncFd::with_interest(bell.0, Interest::READABLE);
    let watched = bells.into_iter().map(watch).collect::<io::Result<Vec<_>>>()?;
    std::future::poll_fn(|context| {
        let rung = watched.iter().any(|bell| bell.poll_read_ready(context).is_ready());
        if rung { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    Ok(())
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which all processes of a host share.
pub(crate) fn monotonic_nanos() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).expect("the monotonic clock starts at 0");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are 0 to 999,999,999");
    seconds * 1_000_000_000 + nanos
}

//! Linux: streams with descriptors, credentials from the kernel, `poll`.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use interprocess::local_socket::{ConnectOptions, GenericFilePath, ToFsName as _};
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::PidfdFlags;
use rustix::time::{ClockId, Timespec, clock_gettime};
use shm::{Descriptor, Doorbell, Received};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Bytes taken from a socket at once.
const READ_BYTES: usize = 16 << 10;

/// A connection that no runtime has taken in yet.
pub(crate) type Socket = OwnedFd;

/// A connected control socket.
#[derive(Debug)]
pub(crate) struct Stream(UnixStream);

impl Stream {
    /// Takes a connected socket into the current runtime.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        UnixStream::from_std(socket.into()).map(Self)
    }

    /// A buffer of the size that [`receive`](Self::receive) likes best.
    pub(crate) fn buffer() -> Box<[u8]> {
        vec![0; READ_BYTES].into_boxed_slice()
    }

    /// Waits for bytes. Cancel-safe: nothing is taken before it is returned.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.0.async_io(Interest::READABLE, || receive(self.0.as_fd(), buffer)).await
    }

    /// Sends all of `bytes`, the descriptor with the first of them. Not cancel-safe: a part may have been sent.
    pub(crate) async fn send(&self, bytes: &[u8], descriptor: Option<&Descriptor>) -> io::Result<()> {
        let mut sent = 0;
        let mut descriptor = descriptor.map(AsFd::as_fd);
        while sent < bytes.len() {
            let count = self
                .0
                .async_io(Interest::WRITABLE, || send(self.0.as_fd(), &bytes[sent..], descriptor))
                .await?;
            sent += count;
            descriptor = None;
        }
        Ok(())
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

/// Connects to the broker's socket at `path`.
pub(crate) fn connect(path: &Path) -> io::Result<Socket> {
    loop {
        let name = path.to_fs_name::<GenericFilePath>()?;
        match ConnectOptions::new().name(name).connect_sync() {
            Ok(interprocess::local_socket::Stream::UdSocket(stream)) => return Ok(stream.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The user at the other end of a socket, as the kernel recorded it when the connection was made.
pub(crate) fn uid_of_peer(stream: &Stream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(&stream.0)?.uid.as_raw())
}

/// The user that this process acts as.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Who is at the other end of a socket, as the kernel recorded it when the connection was made.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    process: Option<OwnedFd>,
}

impl Credentials {
    /// Asks the kernel.
    pub(crate) fn of(stream: &Stream) -> io::Result<Self> {
        let peer = rustix::net::sockopt::socket_peercred(&stream.0)?;
        let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
        let process = rustix::process::pidfd_open(peer.pid, PidfdFlags::empty());
        let process = process.map_err(|errno| unwatched(pid, &errno.into())).ok();
        Ok(Self { pid, uid: peer.uid.as_raw(), process })
    }

    /// Whether the process has ended, though its socket may live on in a child of it.
    pub(crate) fn is_dead(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        let mut ended = [PollFd::new(process, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut ended, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Resolves when the process has ended. Never, where the kernel can't tell.
    pub(crate) fn death(&self) -> impl Future<Output = ()> + use<> {
        let watch = |process: &OwnedFd| AsyncFd::with_interest(process.try_clone()?, Interest::READABLE);
        let watched = self.process.as_ref().and_then(|process| {
            let watched = watch(process);
            watched.map_err(|error| unwatched(self.pid, &error)).ok()
        });
        async {
            match watched {
                Some(process) => drop(process.readable().await),
                None => std::future::pending().await,
            }
        }
    }
}

/// Says that the end of a process will be seen by its socket alone.
fn unwatched(pid: u32, error: &io::Error) {
    tracing::warn!(pid, %error, "the end of a client's process can't be watched, only that of its socket");
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

//! Linux: who is at the other end of a socket, and whether that process still lives.
//!
//! The kernel records the credentials when the connection is made, and they stay those of who made it, whoever the
//! socket is handed to. Of a pair of sockets that is the process that made the pair, so who speaks over one is known by what the kernel
//! says of its first message.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, getsockopt, recvmsg, setsockopt, sockopt,
};
use rustix::event::{PollFd, PollFlags};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags};
use rustix::time::Timespec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::linux::Stream;

/// Who is at the other end of a socket.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// `None`: the process has no number here, since it is in another namespace.
    pub(crate) pid: Option<u32>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    process: Process,
}

/// The process itself, which its number is not: that may be another's by now.
#[derive(Debug)]
enum Process {
    Watched(Arc<AsyncFd<OwnedFd>>),
    Gone,
    /// The host does not tell.
    Unknown,
}

impl Credentials {
    /// Asks the kernel who connected.
    pub(crate) fn of(stream: &Stream) -> io::Result<Self> {
        let peer = peer_of(stream.socket())?;
        let pid = number(peer.pid());
        let process = match getsockopt(stream.socket(), sockopt::PeerPidfd) {
            Ok(process) => Process::watched(process, pid),
            // Before 6.16 the kernel does not open who has died and been reaped.
            Err(Errno::ESRCH | Errno::EINVAL) => Process::Gone,
            // Before 6.5 it opens nobody.
            Err(Errno::ENOPROTOOPT) => Process::of(pid),
            Err(errno) => Process::unwatched(pid, &errno.into()),
        };
        Ok(Self { pid, uid: peer.uid(), gid: peer.gid(), process })
    }

    /// Waits until somebody speaks at the other end of a pair, and asks the kernel who that is; nothing of what was said is taken.
    /// `None`: the other end was closed, by all who had it. Cancel-safe.
    pub(crate) async fn of_first_speaker(stream: &Stream) -> io::Result<Option<Self>> {
        let socket = stream.socket();
        let Some(speaker) = socket.async_io(Interest::READABLE, peek).await? else {
            return Ok(None);
        };
        setsockopt(&socket, sockopt::PassCred, &false)?;
        let pid = number(speaker.pid());
        let process = Process::of(pid);
        Ok(Some(Self { pid, uid: speaker.uid(), gid: speaker.gid(), process }))
    }

    /// Whether the process has ended, though its socket may live on in a child of it.
    pub(crate) fn is_dead(&self) -> bool {
        let process = match &self.process {
            Process::Watched(process) => process.get_ref(),
            Process::Gone => return true,
            Process::Unknown => return false,
        };
        let mut ended = [PollFd::new(process, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut ended, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Resolves when the process has ended. Never, where the kernel can't tell.
    pub(crate) fn death(&self) -> impl Future<Output = ()> + use<> {
        let watched = match &self.process {
            Process::Watched(process) => Some(Arc::clone(process)),
            Process::Gone | Process::Unknown => None,
        };
        let gone = matches!(self.process, Process::Gone);
        async move {
            match watched {
                Some(process) => drop(process.readable().await),
                None if gone => {}
                None => std::future::pending().await,
            }
        }
    }
}

impl Process {
    /// The one that has this number now.
    fn of(pid: Option<u32>) -> Self {
        let open = |pid| retry_on_intr(|| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        match pid.and_then(|pid| Pid::from_raw(pid.cast_signed())).map(open) {
            Some(Ok(process)) => Self::watched(process, pid),
            Some(Err(rustix::io::Errno::SRCH)) => Self::Gone,
            Some(Err(errno)) => Self::unwatched(pid, &errno.into()),
            None => {
                Self::unwatched(pid, &io::Error::other("it has no number here: it is in another namespace"))
            }
        }
    }

    fn watched(process: OwnedFd, pid: Option<u32>) -> Self {
        match AsyncFd::with_interest(process, Interest::READABLE) {
            Ok(process) => Self::Watched(Arc::new(process)),
            Err(error) => Self::unwatched(pid, &error),
        }
    }

    /// Says that the end of a process will be seen by its socket alone.
    fn unwatched(pid: Option<u32>, error: &io::Error) -> Self {
        tracing::warn!(name: "process_unwatched", target: "daemoneye_eventbus::broker", pid, %error, "the end of a client's process can't be watched, only that of its socket");
        Self::Unknown
    }
}

/// The user at the other end of a socket, as the kernel recorded it when the connection was made.
pub(crate) fn uid_of_peer(stream: &Stream) -> io::Result<u32> {
    Ok(peer_of(stream.socket())?.uid())
}

/// Who is at the other end of a socket, as the kernel recorded it when the connection was made.
fn peer_of(socket: &impl AsFd) -> io::Result<UnixCredentials> {
    Ok(getsockopt(socket, sockopt::PeerCredentials)?)
}

/// As above, of a connection that no runtime has.
pub(super) fn uid_and_pid_of_peer(socket: &OwnedFd) -> io::Result<(u32, Option<u32>)> {
    let peer = peer_of(socket)?;
    Ok((peer.uid(), number(peer.pid())))
}

/// The user that this process acts as.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Has the kernel say of each message who sent it. To be called before the other end is anybody's.
pub(super) fn name_speakers(socket: &OwnedFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::PassCred, &true)?)
}

/// Who sent what waits in the socket; `None`: it is at its end.
fn peek(socket: &impl AsFd) -> io::Result<Option<UnixCredentials>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(UnixCredentials);
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let descriptor = socket.as_fd().as_raw_fd();
    let message = loop {
        match recvmsg::<()>(descriptor, &mut parts, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            peeked => break peeked?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    // Where descriptors came along there is no room for them, and this fails: a first message carries none.
    let speaker = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmCredentials(speaker) => Some(speaker),
        _ => None,
    });
    speaker.map(Some).ok_or_else(|| io::Error::other("the kernel does not say who speaks"))
}

fn number(pid: i32) -> Option<u32> {
    u32::try_from(pid).ok().filter(|&pid| pid != 0)
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read as _, Write as _};
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixStream as StdStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    use super::*;
    use crate::sys::pair;

    fn ends() -> (Stream, StdStream) {
        let (ours, theirs) = pair().expect("descriptors");
        (ours, OwnedFd::from(theirs).into())
    }

    #[tokio::test]
    async fn who_speaks_first_is_known_and_nothing_of_it_is_taken() {
        let (ours, mut theirs) = ends();
        theirs.write_all(b"hello").expect("it is connected");
        let speaker = Credentials::of_first_speaker(&ours).await.expect("it spoke").expect("it spoke");
        assert_eq!((speaker.pid, speaker.uid), (Some(std::process::id()), own_uid()));
        assert!(!speaker.is_dead());
        let mut buffer = Stream::buffer();
        let received = ours.receive(&mut buffer).await.expect("it is there");
        assert_eq!(&buffer[..received.bytes], b"hello");
    }

    #[tokio::test]
    async fn an_end_that_is_closed_without_a_word_was_nobodys() {
        let (ours, theirs) = ends();
        drop(theirs);
        assert!(Credentials::of_first_speaker(&ours).await.expect("the end of the stream").is_none());
    }

    #[tokio::test]
    async fn a_first_word_with_descriptors_is_refused_and_they_are_closed() {
        let (ours, theirs) = ends();
        let (passed, mut watched) = StdStream::pair().expect("descriptors");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [passed.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)), "there is room");
        rustix::net::sendmsg(&theirs, &[IoSlice::new(b"hello")], &mut control, SendFlags::empty())
            .expect("it is connected");
        let refused = Credentials::of_first_speaker(&ours).await;
        assert!(refused.is_err(), "{refused:?}");
        drop((ours, passed));
        watched.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a socket");
        assert_eq!(watched.read(&mut [0]).ok(), Some(0), "nobody has it any more");
    }
}

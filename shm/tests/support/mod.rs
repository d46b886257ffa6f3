//! Two processes and the descriptors of a ring between them.
//!
//! A child is this very program, told by an environment variable what to be. Its standard input is a socket over which
//! both sides hand descriptors to each other, as a broker would do for them: nothing is inherited by accident.

use std::env;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use shm::{
    Backing, Consumer, ConsumerSegment, ConsumerView, Descriptor, Doorbell, Handle, Producer,
    ProducerSegment, ProducerView, SegmentError, SegmentName,
};

/// Nothing here takes a hundredth of it; what takes longer will never happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

const ROLE: &str = "SHM_ROLE";

/// What this process was started as, if it is a child.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Starts this program again, as `role`.
pub(crate) fn spawn(role: &str, arguments: &[&str]) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(DEADLINE))?;
    let child = Command::new(env::current_exe()?)
        .args(arguments)
        .env(ROLE, role)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()?;
    Ok((child, ours))
}

/// The child's end of the socket to its parent.
pub(crate) fn parent() -> io::Result<UnixStream> {
    let parent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    parent.set_read_timeout(Some(DEADLINE))?;
    Ok(parent)
}

/// Hands over a segment, and an end of a doorbell.
fn hand_over_segment(socket: &UnixStream, handle: &Handle, doorbell: BorrowedFd<'_>) -> io::Result<()> {
    match handle {
        Handle::Descriptor(descriptor) => hand_over(socket, b"-", [descriptor.as_fd(), doorbell]),
        Handle::Name(name) => hand_over(socket, name.as_str().as_bytes(), [doorbell, doorbell]),
    }
}

/// Waits for a segment, and an end of a doorbell.
fn receive_segment(socket: &UnixStream) -> io::Result<(Handle, OwnedFd)> {
    let (text, [segment, doorbell]) = receive(socket)?;
    let handle = text.parse::<SegmentName>().map_or_else(|_| Handle::from(segment), Handle::Name);
    Ok((handle, doorbell))
}

/// Hands over two descriptors, and at least one byte.
pub(crate) fn hand_over(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: [BorrowedFd<'_>; 2],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is space for two");
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for two descriptors, and the bytes that came with them: descriptors keep later bytes from being read with these.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<(String, [OwnedFd; 2])> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    let message =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = rights.flatten().collect();
    let text = String::from_utf8_lossy(&bytes[..message.bytes]).into_owned();
    Ok((text, descriptors.try_into().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?))
}

/// The producing end of a ring whose consuming end is made at the other end of `socket`.
pub(crate) fn producer(
    socket: &UnixStream,
    capacity: usize,
    backing: Backing,
) -> Result<(Producer, Doorbell), SegmentError> {
    let failed = |source| SegmentError::Host { step: "exchange", source };
    let own = ProducerSegment::create(capacity, backing)?;
    let (ours, theirs) = Doorbell::ends().map_err(failed)?;
    hand_over_segment(socket, own.handle(), theirs.as_fd()).map_err(failed)?;
    drop(theirs);
    let (marks, _again) = receive_segment(socket).map_err(failed)?;
    Ok((Producer::new(own, ConsumerView::attach(marks)?), Doorbell::from(ours)))
}

/// The consuming end of a ring whose producing end is made at the other end of `socket`.
pub(crate) fn consumer(
    socket: &UnixStream,
    capacity: usize,
    backing: Backing,
) -> Result<(Consumer, Doorbell), SegmentError> {
    let failed = |source| SegmentError::Host { step: "exchange", source };
    let own = ConsumerSegment::create(backing)?;
    let (data, doorbell) = receive_segment(socket).map_err(failed)?;
    hand_over_segment(socket, own.handle(), doorbell.as_fd()).map_err(failed)?;
    Ok((
        Consumer::new(ProducerView::attach(data, capacity)?, own),
        Doorbell::from(Descriptor::from(doorbell)),
    ))
}

/// Sleeps on `doorbell` until it rings, or its other end is closed.
///
/// # Panics
/// If that takes longer than any wake-up can.
pub(crate) fn sleep(doorbell: &Doorbell) {
    let since = Instant::now();
    loop {
        let left = DEADLINE.saturating_sub(since.elapsed());
        assert!(!left.is_zero(), "a wake-up was lost");
        let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(doorbell, PollFlags::IN)], Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return,
            Err(errno) => panic!("poll: {errno}"),
        }
    }
}

//! Messages over a stream, or within one process: what lies between the wire and the two loops that speak over it.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use shm::Descriptor;
use tokio::sync::mpsc;

use crate::config::{DESCRIPTORS_WAITING_MAX, PART_BYTES};
use crate::hidden::Hidden;
use crate::sys::Stream;
use crate::wire::codec::{Undecodable, decode, encode};
use crate::wire::frames::{BadLength, Deframer, frame};
use crate::wire::{Handle, Notice, Request};

/// How long who waits for an answer that takes the broker a moment does not sleep.
const ANSWER_SOON: Duration = Duration::from_micros(200);

/// Why no more messages can be had from a link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the connection is closed")]
    Closed,
    #[error("the connection failed: {0}")]
    Host(io::Error),
    #[error("the peer broke the protocol: {0}")]
    Length(#[from] BadLength),
    #[error("the peer broke the protocol: {0}")]
    Undecodable(#[from] Undecodable),
    #[error("the peer broke the protocol: a descriptor where none belongs, or none where one does")]
    Descriptor,
    #[error("the peer broke the protocol: the first message is a hello")]
    NoHello,
}

impl LinkError {
    /// Whether it is the peer's fault.
    pub(crate) fn is_breach(&self) -> bool {
        matches!(self, Self::Length(_) | Self::Undecodable(_) | Self::Descriptor | Self::NoHello)
    }
}

impl From<io::Error> for LinkError {
    /// A connection that the other end has cut is closed, however the kernel puts it.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Host(error),
        }
    }
}

/// A message that says whether a descriptor travels with it.
pub(crate) trait Message: Serialize + DeserializeOwned {
    fn carries_descriptor(&self) -> bool;
}

impl Message for Request {
    fn carries_descriptor(&self) -> bool {
        let (Self::ProducerSegment { handle, .. } | Self::ConsumerSegment { handle, .. }) = self else {
            return false;
        };
        *handle == Handle::Descriptor
    }
}

impl Message for Notice {
    fn carries_descriptor(&self) -> bool {
        match self {
            Self::MakeProducerSegment { .. } | Self::MakeConsumerSegment { .. } => true,
            Self::AttachProducer { handle, .. } | Self::AttachConsumer { handle, .. } => {
                *handle == Handle::Descriptor
            }
            _ => false,
        }
    }
}

/// Reads messages from a stream.
#[derive(Debug)]
pub(crate) struct MessageReader {
    frames: Deframer,
    descriptors: VecDeque<Descriptor>,
    buffer: Hidden<Box<[u8]>>,
    /// What came last ended within a message, and there was no more.
    in_parts: bool,
    pause: Duration,
}

impl MessageReader {
    /// Of a peer that sends its messages in parts it reads one part in each `pause`: else each byte costs as much as a message.
    pub(crate) fn new(pause: Duration) -> Self {
        let (frames, descriptors) = (Deframer::default(), VecDeque::new());
        Self { frames, descriptors, buffer: Hidden(Stream::buffer()), in_parts: false, pause }
    }

    /// The next message, and the descriptor that came with it; after an error there is no other. Cancel-safe.
    pub(crate) async fn next<M: Message>(
        &mut self,
        stream: &Stream,
    ) -> Result<(M, Option<Descriptor>), LinkError> {
        self.next_soon(stream, None).await
    }

    /// The same of one that is about to come, if there is a time until which to look for it before sleeping.
    async fn next_soon<M: Message>(
        &mut self,
        stream: &Stream,
        until: Option<Instant>,
    ) -> Result<(M, Option<Descriptor>), LinkError> {
        let next = self.read(stream, until).await;
        if next.is_err() {
            // The peer may be kept for a while yet, what it has sent may not.
            self.close_descriptors();
        }
        next
    }

    /// Closes what has come, and belongs to no message yet.
    pub(crate) fn close_descriptors(&mut self) {
        shm::close_together(self.descriptors.drain(..));
    }

    async fn read<M: Message>(
        &mut self,
        stream: &Stream,
        until: Option<Instant>,
    ) -> Result<(M, Option<Descriptor>), LinkError> {
        loop {
            if let Some(bytes) = self.frames.next()? {
                let message: M = decode(bytes)?;
                let descriptor = if message.carries_descriptor() {
                    Some(self.descriptors.pop_front().ok_or(LinkError::Descriptor)?)
                } else {
                    None
                };
                self.in_parts &= !self.frames.is_empty();
                // Each descriptor belongs to a frame that is here, or has begun.
                if self.frames.is_empty() && !self.descriptors.is_empty() {
                    return Err(LinkError::Descriptor);
                }
                return Ok((message, descriptor));
            }
            if std::mem::take(&mut self.in_parts) && !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
            let received = match until {
                Some(until) => stream.receive_soon(&mut self.buffer, until).await?,
                None => stream.receive(&mut self.buffer).await?,
            };
            self.in_parts = received.bytes < PART_BYTES;
            if received.bytes == 0 {
                return Err(LinkError::Closed);
            }
            self.frames.push(&self.buffer[..received.bytes]);
            self.descriptors.extend(received.descriptors);
            if self.descriptors.len() > DESCRIPTORS_WAITING_MAX {
                return Err(LinkError::Descriptor);
            }
        }
    }
}

impl Drop for MessageReader {
    /// What is left over one peer has sent.
    fn drop(&mut self) {
        self.close_descriptors();
    }
}

/// Writes one message to a stream, with its descriptor. Not cancel-safe.
pub(crate) async fn write<M: Message>(
    stream: &Stream,
    message: &M,
    descriptor: Option<&Descriptor>,
) -> io::Result<()> {
    debug_assert_eq!(message.carries_descriptor(), descriptor.is_some(), "a message has what it carries");
    stream.send(&frame(&encode(message)), descriptor).await
}

/// Requests on their way to a broker in the same process.
pub(crate) type LocalRequests = mpsc::UnboundedSender<(Request, Option<Descriptor>)>;
/// Notices on their way from it.
pub(crate) type LocalNotices = mpsc::Receiver<(Notice, Option<Descriptor>)>;

/// A client's session with its broker.
#[derive(Debug)]
pub(crate) enum Link {
    Socket { stream: Stream, reader: MessageReader },
    Local { requests: LocalRequests, notices: LocalNotices },
}

impl Link {
    pub(crate) fn over(stream: Stream) -> Self {
        Self::Socket { stream, reader: MessageReader::new(Duration::ZERO) }
    }

    /// The next notice. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<(Notice, Option<Descriptor>), LinkError> {
        match self {
            Self::Socket { stream, reader } => reader.next(stream).await,
            Self::Local { notices, .. } => notices.recv().await.ok_or(LinkError::Closed),
        }
    }

    /// The same of an answer that takes the broker a moment: looks for it that long before it sleeps, which costs more than the moment. To be
    /// called by a thread that has nobody else to serve.
    pub(crate) async fn next_soon(&mut self) -> Result<(Notice, Option<Descriptor>), LinkError> {
        match self {
            Self::Socket { stream, reader } => {
                reader.next_soon(stream, Some(Instant::now() + ANSWER_SOON)).await
            }
            Self::Local { .. } => self.next().await,
        }
    }

    /// Ends it, and waits until the broker has taken note: until it hangs up. What it says by then is not heard.
    pub(crate) async fn end(self, longest: Duration) {
        if let Self::Socket { stream, mut reader } = self {
            stream.say_end();
            let hung_up = async { while reader.next::<Notice>(&stream).await.is_ok() {} };
            // A broker that takes longer hears of it when it can.
            let _ = tokio::time::timeout(longest, hung_up).await;
        }
    }

    /// Sends a request. Not cancel-safe.
    pub(crate) async fn send(
        &mut self,
        request: Request,
        descriptor: Option<Descriptor>,
    ) -> Result<(), LinkError> {
        match self {
            Self::Socket { stream, .. } => Ok(write(stream, &request, descriptor.as_ref()).await?),
            Self::Local { requests, .. } => {
                requests.send((request, descriptor)).map_err(|_| LinkError::Closed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read as _, Write as _};
    use std::mem::MaybeUninit;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    use super::*;
    use crate::config::FRAME_BYTES_MAX;
    use crate::wire::{OrderId, RingId};

    /// A peer that sends whatever it likes, and a reader of requests.
    fn pair() -> (UnixStream, Stream, MessageReader) {
        let (peer, ours) = UnixStream::pair().expect("a socket pair");
        (peer, Stream::new(ours.into()).expect("a runtime"), MessageReader::new(Duration::ZERO))
    }

    fn send(peer: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "room for 253");
        }
        let sent = rustix::net::sendmsg(peer, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
        assert_eq!(sent.expect("a socket pair takes it"), bytes.len());
    }

    fn bytes_of(request: &Request) -> Vec<u8> {
        frame(&encode(request))
    }

    fn segment(ring: u64) -> Request {
        Request::ProducerSegment { ring: RingId(ring), handle: Handle::Descriptor }
    }

    fn done(order: u64) -> Request {
        Request::Done { order: OrderId(order) }
    }

    /// Descriptors to pass on, and their other ends: they read the end of the stream once all copies are closed. That is
    /// robust where other tests open and close descriptors meanwhile.
    fn watched(count: usize) -> (Vec<UnixStream>, Vec<UnixStream>) {
        (0..count).map(|_| UnixStream::pair().expect("descriptors")).unzip()
    }

    fn borrowed(descriptors: &[UnixStream]) -> Vec<BorrowedFd<'_>> {
        descriptors.iter().map(AsFd::as_fd).collect()
    }

    /// Our copies are closed here; nobody else has any.
    fn assert_closed(passed: Vec<UnixStream>, other_ends: Vec<UnixStream>) {
        drop(passed);
        for mut end in other_ends {
            end.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a socket");
            assert_eq!(end.read(&mut [0]).ok(), Some(0), "a passed descriptor is still open");
        }
    }

    async fn next(
        stream: &Stream,
        reader: &mut MessageReader,
    ) -> Result<(Request, Option<Descriptor>), LinkError> {
        tokio::time::timeout(std::time::Duration::from_secs(20), reader.next(stream))
            .await
            .expect("an answer")
    }

    /// Which of the watched descriptors this is.
    fn assert_is(descriptor: Descriptor, other_end: &mut UnixStream) {
        UnixStream::from(OwnedFd::from(descriptor)).write_all(b"!").expect("the other end is open");
        let mut byte = [0];
        other_end.set_nonblocking(true).expect("a socket");
        other_end.read_exact(&mut byte).expect("it is this one");
        assert_eq!(&byte, b"!");
    }

    #[tokio::test]
    async fn a_descriptor_arrives_with_its_frame() {
        let (peer, stream, mut reader) = pair();
        let (passed, mut other_ends) = watched(2);
        let fds = borrowed(&passed);
        send(&peer, &bytes_of(&done(1)), &[]);
        send(&peer, &bytes_of(&segment(2)), &fds[..1]);
        send(&peer, &bytes_of(&done(3)), &[]);
        send(&peer, &bytes_of(&segment(4)), &fds[1..]);
        for (order, ring, other_end) in [(1, 2, 0), (3, 4, 1)] {
            let (request, descriptor) = next(&stream, &mut reader).await.expect("a frame");
            assert!(request == done(order) && descriptor.is_none());
            let (request, descriptor) = next(&stream, &mut reader).await.expect("a frame");
            assert_eq!(request, segment(ring));
            assert_is(descriptor.expect("it carries one"), &mut other_ends[other_end]);
        }
    }

    #[tokio::test]
    async fn who_ends_a_session_waits_until_the_broker_has_taken_note() {
        let (mut peer, stream, _) = pair();
        peer.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a socket");
        let mut end = std::pin::pin!(Link::over(stream).end(std::time::Duration::MAX));
        for _ in 0..2 {
            tokio::select! {
                biased;
                () = &mut end => panic!("the broker has not hung up"),
                () = tokio::task::yield_now() => {}
            }
            assert_eq!(peer.read(&mut [0]).ok(), Some(0), "it is told");
        }
        drop(peer);
        tokio::time::timeout(std::time::Duration::from_secs(20), end).await.expect("it has hung up");
    }

    #[tokio::test]
    async fn a_frame_that_lacks_its_descriptor_is_an_error() {
        let (peer, stream, mut reader) = pair();
        send(&peer, &bytes_of(&segment(1)), &[]);
        assert!(matches!(next(&stream, &mut reader).await, Err(LinkError::Descriptor)));
    }

    #[tokio::test]
    async fn surplus_descriptors_are_an_error_and_closed() {
        for (request, descriptors) in [(done(1), 1), (segment(1), 2), (segment(1), DESCRIPTORS_WAITING_MAX)] {
            let (peer, stream, mut reader) = pair();
            let (passed, other_ends) = watched(descriptors);
            send(&peer, &bytes_of(&request), &borrowed(&passed));
            let error = next(&stream, &mut reader).await;
            assert!(matches!(error, Err(LinkError::Descriptor)), "{request:?} {descriptors}: {error:?}");
            assert_closed(passed, other_ends);
        }
    }

    #[tokio::test]
    async fn forty_descriptors_with_one_message_are_an_error_and_closed() {
        for count in [DESCRIPTORS_WAITING_MAX + 1, 40, 253] {
            let (peer, stream, mut reader) = pair();
            let (passed, other_ends) = watched(count);
            send(&peer, &bytes_of(&segment(1)), &borrowed(&passed));
            let error = next(&stream, &mut reader).await;
            assert!(matches!(error, Err(LinkError::Descriptor)), "{count}: {error:?}");
            assert_closed(passed, other_ends);
        }
    }

    #[tokio::test]
    async fn descriptors_that_trickle_in_without_a_frame_are_an_error_and_closed() {
        let (peer, stream, mut reader) = pair();
        let (passed, other_ends) = watched(DESCRIPTORS_WAITING_MAX + 1);
        let mut bytes = vec![];
        bytes.extend_from_slice(&u32::try_from(FRAME_BYTES_MAX).expect("64 KiB").to_le_bytes());
        bytes.resize(passed.len(), 0);
        for (byte, fd) in bytes.iter().zip(borrowed(&passed)) {
            send(&peer, std::slice::from_ref(byte), &[fd]);
        }
        assert!(matches!(next(&stream, &mut reader).await, Err(LinkError::Descriptor)));
        assert_closed(passed, other_ends);
    }

    #[tokio::test]
    async fn frames_in_parts_keep_their_descriptors_and_their_order() {
        let (peer, stream, mut reader) = pair();
        let (passed, mut other_ends) = watched(2);
        let fds = borrowed(&passed);
        let bytes = [bytes_of(&segment(1)), bytes_of(&segment(2)), bytes_of(&done(3))].concat();
        // Both descriptors ahead of the frames that they belong to, and one byte at a time.
        for (index, byte) in bytes.iter().enumerate() {
            let fd = fds.get(index).copied();
            send(&peer, std::slice::from_ref(byte), fd.as_slice());
        }
        for (ring, other_end) in [(1, 0), (2, 1)] {
            let (request, descriptor) = next(&stream, &mut reader).await.expect("a frame");
            assert_eq!(request, segment(ring));
            assert_is(descriptor.expect("it carries one"), &mut other_ends[other_end]);
        }
        assert_eq!(next(&stream, &mut reader).await.expect("a frame").0, done(3));
    }

    /// A connection whose last copy can't be closed without waiting, and its other end, which never reads.
    fn lingering(linger: std::time::Duration) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback");
        let mut connection =
            TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (unread, _) = listener.accept().expect("it is connected");
        connection.set_nonblocking(true).expect("a socket");
        while connection.write(&[0; 1 << 16]).is_ok() {}
        rustix::net::sockopt::set_socket_linger(&connection, Some(linger)).expect("a socket");
        (connection, unread)
    }

    #[tokio::test]
    async fn a_descriptor_that_lingers_keeps_nobody_who_closes_it() {
        let since = std::time::Instant::now();
        let linger = std::time::Duration::from_secs(20);
        let (peer, stream, mut reader) = pair();
        let (first, _unread) = lingering(linger);
        send(&peer, &bytes_of(&done(1)), &[first.as_fd()]);
        drop(first);
        assert!(matches!(next(&stream, &mut reader).await, Err(LinkError::Descriptor)));
        // The one that belongs to its frame, where another does not.
        let (own, _unread_own) = lingering(linger);
        send(&peer, &bytes_of(&segment(1)), &[own.as_fd(), peer.as_fd()]);
        drop(own);
        assert!(matches!(next(&stream, &mut reader).await, Err(LinkError::Descriptor)));
        // One is with the reader now, and one still waits in the socket.
        let (second, _unread_too) = lingering(linger);
        send(&peer, &bytes_of(&done(2)), &[second.as_fd()]);
        drop((second, reader, stream));
        assert!(since.elapsed() < linger / 2, "it waited for {:?}", since.elapsed());
    }

    #[tokio::test]
    async fn a_reader_that_is_given_up_midway_loses_nothing() {
        let (peer, stream, mut reader) = pair();
        let (passed, mut other_ends) = watched(1);
        let bytes = bytes_of(&segment(1));
        send(&peer, &bytes[..3], &borrowed(&passed));
        let unfinished =
            tokio::time::timeout(std::time::Duration::from_millis(20), reader.next::<Request>(&stream));
        assert!(unfinished.await.is_err(), "the frame is not there");
        send(&peer, &bytes[3..], &[]);
        let (request, descriptor) = next(&stream, &mut reader).await.expect("a frame");
        assert_eq!(request, segment(1));
        assert_is(descriptor.expect("it carries one"), &mut other_ends[0]);
    }

    #[tokio::test]
    async fn an_answer_that_takes_more_than_a_moment_is_waited_for_and_others_go_on() {
        let (mut peer, stream, _) = pair();
        let mut link = Link::over(stream);
        let finish = frame(&encode(&Notice::Finish));
        peer.write_all(&finish).expect("it is connected");
        assert_eq!(link.next_soon().await.expect("it is there").0, Notice::Finish);
        let mut answer = std::pin::pin!(link.next_soon());
        tokio::select! {
            biased;
            answer = &mut answer => panic!("nothing was said: {answer:?}"),
            () = std::future::ready(()) => {}
        }
        peer.write_all(&finish).expect("it is connected");
        let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answer).await;
        assert_eq!(answer.expect("it is heard").expect("a frame").0, Notice::Finish);
    }

    #[tokio::test]
    async fn of_a_message_in_parts_one_is_read_in_each_pause_and_whole_ones_wait_for_none() {
        let (peer, stream, _) = pair();
        let hour = Duration::from_secs(3600);
        let mut reader = MessageReader::new(hour);
        let large = Request::NoRing { ring: RingId(1), cause: "x".repeat(FRAME_BYTES_MAX - 100) };
        send(&peer, &[bytes_of(&done(1)), bytes_of(&done(2))].concat(), &[]);
        for order in [1, 2] {
            assert_eq!(next(&stream, &mut reader).await.expect("a frame").0, done(order));
        }
        send(&peer, &bytes_of(&large), &[]);
        assert_eq!(next(&stream, &mut reader).await.expect("a frame").0, large);

        let pause = Duration::from_millis(200);
        let mut reader = MessageReader::new(pause);
        let (since, bytes) = (std::time::Instant::now(), bytes_of(&done(3)));
        send(&peer, &bytes[..1], &[]);
        let mut begun = std::pin::pin!(next(&stream, &mut reader));
        let unfinished = tokio::time::timeout(pause / 10, &mut begun).await;
        assert!(unfinished.is_err(), "the frame is not there");
        send(&peer, &bytes[1..], &[]);
        assert_eq!(begun.await.expect("a frame").0, done(3));
        assert!(since.elapsed() >= pause, "it was read after {:?}", since.elapsed());
    }

    #[tokio::test]
    async fn a_peer_that_goes_within_a_frame_has_closed() {
        let (peer, stream, mut reader) = pair();
        let (passed, other_ends) = watched(1);
        send(&peer, &bytes_of(&segment(1))[..5], &borrowed(&passed));
        drop(peer);
        assert!(matches!(next(&stream, &mut reader).await, Err(LinkError::Closed)));
        assert_closed(passed, other_ends);
    }

    #[tokio::test]
    async fn lengths_and_messages_that_can_not_be_are_errors() {
        for bytes in [&u32::MAX.to_le_bytes(), &0_u32.to_le_bytes()] {
            let (peer, stream, mut reader) = pair();
            send(&peer, bytes, &[]);
            assert!(matches!(next(&stream, &mut reader).await, Err(LinkError::Length(_))));
        }
        let (peer, stream, mut reader) = pair();
        send(&peer, &frame(&[0xff; 9]), &[]);
        assert!(matches!(next(&stream, &mut reader).await, Err(LinkError::Undecodable(_))));
    }

    #[tokio::test]
    async fn what_is_written_is_read_with_its_descriptor_however_large() {
        let (peer, stream, mut reader) = pair();
        peer.set_nonblocking(true).expect("a socket");
        let peer = Stream::new(peer.into()).expect("a runtime");
        let (mut passed, mut other_ends) = watched(1);
        let large = Request::NoRing { ring: RingId(1), cause: "x".repeat(FRAME_BYTES_MAX - 100) };
        let passed = Descriptor::from(OwnedFd::from(passed.remove(0)));
        let writes = async {
            for _ in 0..20 {
                write(&peer, &large, None).await.expect("it is read");
            }
            write(&peer, &segment(2), Some(&passed)).await.expect("it is read");
        };
        let reads = async {
            for _ in 0..20 {
                assert_eq!(next(&stream, &mut reader).await.expect("a frame").0, large);
            }
            next(&stream, &mut reader).await.expect("a frame").1.expect("it carries one")
        };
        let ((), descriptor) = tokio::join!(writes, reads);
        assert_is(descriptor, &mut other_ends[0]);
    }

    #[tokio::test]
    async fn a_descriptor_is_sent_once_however_many_parts_its_bytes_are_sent_in() {
        let (sender, receiver) = UnixStream::pair().expect("a socket pair");
        let (sender, receiver) = (Stream::new(sender.into()), Stream::new(receiver.into()));
        let (sender, receiver) = (sender.expect("a runtime"), receiver.expect("a runtime"));
        let (mut passed, _other_ends) = watched(1);
        let passed = Descriptor::from(OwnedFd::from(passed.remove(0)));
        let bytes = vec![7; 4 << 20];
        let sends = async {
            sender.send(&bytes, Some(&passed)).await.expect("it is read");
        };
        let receives = async {
            let (mut buffer, mut left, mut descriptors) = (Stream::buffer(), bytes.len(), 0);
            while left > 0 {
                let received = receiver.receive(&mut buffer).await.expect("the rest");
                left -= received.bytes;
                descriptors += received.descriptors.len();
            }
            descriptors
        };
        assert_eq!(tokio::join!(sends, receives), ((), 1));
    }
}

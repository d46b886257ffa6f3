//! Messages over a stream, or within one process: what lies between the wire and the two loops that speak over it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::config::DESCRIPTORS_WAITING_MAX;
use crate::sys::Stream;
use crate::wire::codec::{Undecodable, decode, encode};
use crate::wire::frames::{BadLength, Deframer, frame};
use crate::wire::{Notice, Request};

/// Why no more messages can be had from a link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the connection is closed")]
    Closed,
    #[error("the connection failed: {0}")]
    Host(#[from] io::Error),
    #[error("the peer broke the protocol: {0}")]
    Length(#[from] BadLength),
    #[error("the peer broke the protocol: {0}")]
    Undecodable(#[from] Undecodable),
    #[error("the peer broke the protocol: a descriptor where none belongs, or none where one does")]
    Descriptor,
}

/// A message that says whether a descriptor travels with it.
pub(crate) trait Message: Serialize + DeserializeOwned {
    fn carries_descriptor(&self) -> bool;
}

impl Message for Request {
    fn carries_descriptor(&self) -> bool {
        matches!(self, Self::ProducerSegment { .. } | Self::ConsumerSegment { .. })
    }
}

impl Message for Notice {
    fn carries_descriptor(&self) -> bool {
        matches!(
            self,
            Self::MakeProducerSegment { .. }
                | Self::MakeConsumerSegment { .. }
                | Self::AttachProducer { .. }
                | Self::AttachConsumer { .. }
        )
    }
}

/// Reads messages from a stream.
#[derive(Debug)]
pub(crate) struct MessageReader {
    frames: Deframer,
    descriptors: VecDeque<OwnedFd>,
    buffer: Box<[u8]>,
}

impl MessageReader {
    pub(crate) fn new() -> Self {
        Self { frames: Deframer::default(), descriptors: VecDeque::new(), buffer: Stream::buffer() }
    }

    /// The next message, and the descriptor that came with it. Cancel-safe.
    pub(crate) async fn next<M: Message>(
        &mut self,
        stream: &Stream,
    ) -> Result<(M, Option<OwnedFd>), LinkError> {
        loop {
            if let Some(bytes) = self.frames.next()? {
                let message: M = decode(bytes)?;
                let descriptor = if message.carries_descriptor() {
                    Some(self.descriptors.pop_front().ok_or(LinkError::Descriptor)?)
                } else {
                    None
                };
                // Each descriptor belongs to a frame that is here, or has begun.
                if self.frames.is_empty() && !self.descriptors.is_empty() {
                    return Err(LinkError::Descriptor);
                }
                return Ok((message, descriptor));
            }
            let received = stream.receive(&mut self.buffer).await?;
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

/// Writes one message to a stream, with its descriptor. Not cancel-safe.
pub(crate) async fn write<M: Message>(
    stream: &Stream,
    message: &M,
    descriptor: Option<&OwnedFd>,
) -> io::Result<()> {
    debug_assert_eq!(message.carries_descriptor(), descriptor.is_some(), "a message has what it carries");
    stream.send(&frame(&encode(message)), descriptor.map(AsFd::as_fd)).await
}

/// Requests on their way to a broker in the same process.
pub(crate) type LocalRequests = mpsc::UnboundedSender<(Request, Option<OwnedFd>)>;
/// Notices on their way from it.
pub(crate) type LocalNotices = mpsc::Receiver<(Notice, Option<OwnedFd>)>;

/// A client's session with its broker.
#[derive(Debug)]
pub(crate) enum Link {
    Socket { stream: Stream, reader: MessageReader },
    Local { requests: LocalRequests, notices: LocalNotices },
}

impl Link {
    pub(crate) fn over(stream: Stream) -> Self {
        Self::Socket { stream, reader: MessageReader::new() }
    }

    /// The next notice. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<(Notice, Option<OwnedFd>), LinkError> {
        match self {
            Self::Socket { stream, reader } => reader.next(stream).await,
            Self::Local { notices, .. } => notices.recv().await.ok_or(LinkError::Closed),
        }
    }

    /// Sends a request. Not cancel-safe.
    pub(crate) async fn send(
        &mut self,
        request: Request,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), LinkError> {
        match self {
            Self::Socket { stream, .. } => Ok(write(stream, &request, descriptor.as_ref()).await?),
            Self::Local { requests, .. } => {
                requests.send((request, descriptor)).map_err(|_| LinkError::Closed)
            }
        }
    }
}

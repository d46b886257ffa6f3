//! A ring between two processes: `cargo run -p daemoneye-eventbus-shm --example two_processes`.
//!
//! The parent starts this program once more, with a socket for its standard input. Over it go the handles of both segments and one end of a
//! doorbell. Then the child publishes a thousand records through the ring, and the parent reads them, asleep whenever there are none.

use std::error::Error;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use shm::{
    Backing, Consumer, ConsumerSegment, ConsumerView, Descriptor, Doorbell, Handle, Heard, Producer,
    ProducerSegment, ProducerView, PushError,
};

const CAPACITY: usize = 1 << 16;
const RECORDS: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).as_deref() == Some("child") {
        return publish(&UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?));
    }
    let (ours, theirs) = UnixStream::pair()?;
    let program = std::env::current_exe()?;
    let mut child = Command::new(program).arg("child").stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    let (received, lost) = read(&ours)?;
    println!("{received} records received, {lost} lost");
    assert!(child.wait()?.success() && received + lost == RECORDS);
    Ok(())
}

/// The child: creates the producer's segment, and pushes.
fn publish(socket: &UnixStream) -> Result<(), Box<dyn Error>> {
    let own = ProducerSegment::create(CAPACITY, Backing::Memfd)?;
    let (doorbell, other_end) = Doorbell::ends()?;
    send(socket, descriptor(own.handle()))?;
    send(socket, other_end.as_fd())?;
    drop(other_end);
    let doorbell = Doorbell::from(doorbell);
    let peer = ConsumerView::attach(Handle::from(receive(socket)?))?;
    let mut producer = Producer::new(own, peer);
    for number in 0..RECORDS {
        match producer.push(0, 0, 1, &[&number.to_le_bytes()]) {
            Ok(()) | Err(PushError::Full) => {}
            Err(error) => return Err(error.into()),
        }
        if producer.flush() {
            doorbell.ring()?;
        }
    }
    if producer.close() {
        doorbell.ring()?;
    }
    Ok(())
}

/// The parent: creates the consumer's segment, and reads to the end.
fn read(socket: &UnixStream) -> Result<(u64, u64), Box<dyn Error>> {
    let own = ConsumerSegment::create(Backing::Memfd)?;
    let peer = ProducerView::attach(Handle::from(receive(socket)?), CAPACITY)?;
    let doorbell = Doorbell::from(receive(socket)?);
    send(socket, descriptor(own.handle()))?;
    let mut consumer = Consumer::new(peer, own);
    let (mut payload, mut received, mut lost) = (Vec::new(), 0, 0);
    let mut producer_gone = false;
    loop {
        while let Some(record) = consumer.read(&mut payload)? {
            lost += consumer.settle(&record, 1)?;
            received += 1;
        }
        consumer.tail_loss(|_slot, events| lost += events)?;
        let _nobody_waits = consumer.release();
        if producer_gone || consumer.ended()? {
            return Ok((received, lost));
        }
        if consumer.arm(1)? {
            poll(&mut [PollFd::new(&doorbell, PollFlags::IN)], None)?;
            consumer.disarm();
            if doorbell.hear() == Heard::PeerGone {
                // What it left is all there will ever be: one more turn reads it.
                consumer.freeze();
                producer_gone = true;
            }
        }
    }
}

/// The memfd behind a handle.
fn descriptor(handle: &Handle) -> BorrowedFd<'_> {
    match handle {
        Handle::Descriptor(descriptor) => descriptor.as_fd(),
        Handle::Name(_) => unreachable!("this example asks for sealed memory, which has no name"),
    }
}

fn send(socket: &UnixStream, descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = [descriptor];
    assert!(control.push(SendAncillaryMessage::ScmRights(&rights)), "there is space for one");
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: &UnixStream) -> std::io::Result<Descriptor> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut rights) = message
            && let Some(descriptor) = rights.next()
        {
            return Ok(descriptor.into());
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

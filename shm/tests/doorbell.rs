//! The doorbell: never waits, and tells who is gone.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg};
use shm::{Doorbell, Heard, PeerGone};

/// How long the last copy of a descriptor keeps whoever closes it, where nothing is done about it.
const LINGER: Duration = Duration::from_secs(20);

#[test]
fn a_doorbell_that_nobody_hears_never_makes_the_ringer_wait() {
    let (ringing, hearing) = Doorbell::pair().unwrap();
    for _ in 0..100_000 {
        assert_eq!(ringing.ring(), Ok(true));
    }
    assert_eq!(hearing.hear(), Heard::PeerThere);
    assert_eq!(ringing.hear(), Heard::PeerThere, "silence is not death");
}

#[test]
fn either_side_learns_that_the_other_is_gone() {
    let (ringing, hearing) = Doorbell::pair().unwrap();
    drop(hearing);
    assert_eq!(ringing.ring(), Err(PeerGone));
    assert_eq!(ringing.hear(), Heard::PeerGone);
    let (ringing, hearing) = Doorbell::pair().unwrap();
    assert_eq!(hearing.hear(), Heard::PeerThere);
    drop(ringing);
    assert_eq!(hearing.hear(), Heard::PeerGone);
}

#[test]
fn what_was_rung_before_the_death_is_heard_before_it() {
    let (ringing, hearing) = Doorbell::pair().unwrap();
    assert_eq!(ringing.ring(), Ok(true));
    drop(ringing);
    assert_eq!(hearing.hear(), Heard::PeerThere);
    assert_eq!(hearing.hear(), Heard::PeerGone);
}

#[test]
fn a_peer_that_died_with_rings_unheard_is_gone_all_the_same() {
    let (ringing, hearing) = Doorbell::pair().unwrap();
    assert_eq!(ringing.ring(), Ok(true));
    drop(hearing);
    assert_eq!(ringing.ring(), Err(PeerGone));
    assert_eq!(ringing.hear(), Heard::PeerGone);
}

#[test]
fn it_rings_both_ways() {
    let (one, other) = Doorbell::pair().unwrap();
    for (ringing, hearing) in [(&one, &other), (&other, &one)] {
        assert_eq!(ringing.ring(), Ok(true));
        let mut heard = [PollFd::new(hearing, PollFlags::IN)];
        assert_eq!(poll(&mut heard, Some(&Timespec::default())), Ok(1));
        assert_eq!(hearing.hear(), Heard::PeerThere);
    }
}

#[test]
fn a_peer_that_shuts_its_end_down_is_gone() {
    for how in [Shutdown::Read, Shutdown::Both] {
        let (ringing, hearing) = Doorbell::pair().unwrap();
        rustix::net::shutdown(&hearing, how).unwrap();
        assert_eq!(ringing.ring(), Err(PeerGone));
    }
    for how in [Shutdown::Write, Shutdown::Both] {
        let (ringing, hearing) = Doorbell::pair().unwrap();
        rustix::net::shutdown(&ringing, how).unwrap();
        assert_eq!(hearing.hear(), Heard::PeerGone);
    }
}

/// A connection whose last copy can't be closed without waiting, and its other end, which never reads.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (unread, _) = listener.accept().unwrap();
    connection.set_nonblocking(true).unwrap();
    while connection.write(&[0; 1 << 16]).is_ok() {}
    connection.set_nonblocking(false).unwrap();
    set_socket_linger(&connection, Some(LINGER)).unwrap();
    (connection, unread)
}

#[test]
fn a_descriptor_that_is_dropped_lingers_no_longer() {
    let (connection, _unread) = lingering();
    drop(shm::Descriptor::from(OwnedFd::from(connection.try_clone().unwrap())));
    let since = Instant::now();
    while rustix::net::sockopt::socket_linger(&connection).unwrap().is_some() {
        assert!(since.elapsed() < LINGER / 2, "it lingers on");
        std::thread::yield_now();
    }
}

#[test]
fn a_descriptor_that_takes_long_to_close_keeps_nobody_who_drops_it() {
    let since = Instant::now();
    // More than there are threads for. In each socket waits another that lingers, out of reach of whoever closes the outer one.
    for _ in 0..20 {
        let (connection, unread) = lingering();
        let (outer, other_end) = UnixStream::pair().unwrap();
        pass(&other_end, connection);
        drop(other_end);
        // Never read as long as somebody is to wait for it.
        std::mem::forget(unread);
        drop(shm::Descriptor::from(OwnedFd::from(outer)));
        assert!(since.elapsed() < LINGER / 2, "it waited for {:?}", since.elapsed());
    }
}

fn pass(socket: impl AsFd, passed: TcpStream) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [passed.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(socket, &[IoSlice::new(&[1])], &mut ancillary, SendFlags::empty()).unwrap();
}

#[test]
fn a_descriptor_that_lingers_keeps_neither_the_hearer_nor_who_closes_the_bell() {
    let since = Instant::now();
    let (connection, _unread) = lingering();
    let (ringing, hearing) = Doorbell::pair().unwrap();
    pass(&ringing, connection);
    assert_eq!(hearing.hear(), Heard::PeerGone, "an honest peer passes none");

    let (connection, _unread_too) = lingering();
    let (ringing, hearing) = Doorbell::pair().unwrap();
    assert_eq!(ringing.ring(), Ok(true));
    pass(&ringing, connection);
    drop(hearing);
    assert!(since.elapsed() < LINGER / 2, "it waited for {:?}", since.elapsed());
}

//! What a hostile process does to its end of a doorbell.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg, sockopt};
use serde_json::{Value, json};

use super::descriptors::lingering;
use super::ring::Ring;

pub(super) fn attack(ring: &mut Ring, name: &str) -> Value {
    match name {
        "once" => drop(ring.ring()),
        "bell-without-end" => {
            for _ in 0..200_000 {
                ring.ring();
            }
        }
        "unread" => {
            let bytes = rustix::io::ioctl_fionread(&ring.bell).expect("it is ours");
            return json!({ "unread": bytes });
        }
        "bell-blocking" => rustix::io::ioctl_fionbio(&ring.bell, false).expect("it is ours"),
        "bell-tiny" => {
            sockopt::set_socket_recv_buffer_size(&ring.bell, 1).expect("it is ours");
            sockopt::set_socket_send_buffer_size(&ring.bell, 1).expect("it is ours");
        }
        "bell-shut-for-writing" => rustix::net::shutdown(&ring.bell, Shutdown::Write).expect("it is ours"),
        "bell-shut-for-reading" => rustix::net::shutdown(&ring.bell, Shutdown::Read).expect("it is ours"),
        "bell-shut" => rustix::net::shutdown(&ring.bell, Shutdown::Both).expect("it is ours"),
        "bell-closed" => {
            let (other, _) = std::os::unix::net::UnixStream::pair().expect("descriptors");
            ring.bell = other.into();
        }
        "bell-with-descriptors" => {
            let passed = lingering();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors = [passed.as_fd()];
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is space");
            let flags = SendFlags::NOSIGNAL;
            let sent = sendmsg(&ring.bell, &[IoSlice::new(&[1])], &mut ancillary, flags);
            // Where it was not taken, this would be the last copy.
            std::mem::forget(passed);
            return json!({ "said": sent.err().map(super::name) });
        }
        other => panic!("no attack {other}"),
    }
    json!({})
}

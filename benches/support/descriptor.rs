//! A descriptor from a bench to its child, which is the same user's: taken from the parent's table.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::support::{Part, Peer};

pub(crate) fn hand_over(peer: &mut Peer, descriptor: BorrowedFd<'_>) {
    peer.tell(std::process::id().into());
    peer.tell(descriptor.as_raw_fd().unsigned_abs().into());
}

/// What the parent [hands over](hand_over).
pub(crate) fn take_over(part: &Part) -> OwnedFd {
    let (process, number) = (part.hear(), part.hear());
    let path = format!("/proc/{process}/fd/{number}");
    OpenOptions::new().read(true).write(true).open(path).expect("the parent has it open").into()
}

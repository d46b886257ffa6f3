//! Signals as a host program may have them.

use std::fs::File;
use std::os::fd::AsRawFd;

unsafe extern "C" {
    /// Of the C library that std is linked to.
    safe fn signal(number: i32, action: usize) -> usize;
    fn fcntl(descriptor: i32, command: i32, ...) -> i32;
}

const SIGPIPE: i32 = 13;
const SIGIO: i32 = 29;
const DEFAULT: usize = 0;
const IGNORED: usize = 1;
/// `F_SETLEASE`, of the numbers that are Linux's own.
const SET_LEASE: i32 = 1024;
const READ_LEASE: i32 = 0;

/// Has SIGPIPE end this process, as it does in a program whose runtime is not Rust's: that ignores it from the start, whatever
/// the process inherits.
pub(super) fn sigpipe_kills() {
    signal(SIGPIPE, DEFAULT);
    let status = std::fs::read_to_string("/proc/self/status").expect("it is readable");
    let ignored =
        status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("each process has it");
    let ignored = u64::from_str_radix(ignored, 16).expect("a mask");
    assert_eq!(ignored & 1 << (SIGPIPE - 1), 0, "it is at its default");
}

/// Takes a lease on a file that this process has open to read: who opens it to write then waits until the lease is given up, and
/// it never is, though the kernel sends SIGIO to ask for it.
pub(super) fn lease(file: &File) {
    signal(SIGIO, IGNORED);
    // SAFETY: the descriptor is open, and this command takes a number and no pointer.
    let taken = unsafe { fcntl(file.as_raw_fd(), SET_LEASE, READ_LEASE) };
    assert_eq!(taken, 0, "the file system has leases: {}", std::io::Error::last_os_error());
}

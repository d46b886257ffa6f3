//! Signals as a host program may have them.

unsafe extern "C" {
    /// Of the C library that std is linked to.
    safe fn signal(number: i32, action: usize) -> usize;
}

const SIGPIPE: i32 = 13;
const DEFAULT: usize = 0;

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

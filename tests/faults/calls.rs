//! Which call can fail in which way.

/// A call of the kernel that the bus makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// Those of EMFILE, ENOMEM, EINTR, EAGAIN and ENOSPC that the kernel gives for it; see below for what is left out.
    pub(crate) errnos: &'static [&'static str],
    /// Fails on segments alone: elsewhere the call is the allocator's, or the start of a thread, and a Rust program aborts there.
    pub(crate) segments_only: bool,
}

const fn any(name: &'static str, errnos: &'static [&'static str]) -> Call {
    Call { name, errnos, segments_only: false }
}

const fn on_segments(name: &'static str, errnos: &'static [&'static str]) -> Call {
    Call { name, errnos, segments_only: true }
}

/// Left out, since the kernel does not do it:
/// - EAGAIN for `recvmsg`, `recvfrom`, `sendmsg`, `sendto`, `accept4`: it says that there is nothing, or no room. Said where there is
///   something, it would be a lie that nobody who waits for edges can see through.
/// - EAGAIN for `flock`, where it says that a live broker has the lock.
/// - EINTR for what never waits (`memfd_create`, `socketpair`, `fcntl`, …).
///
/// Left out, since the failure that is made here differs from the kernel's: `close` and `munmap` close and unmap even if they fail, while
/// a call that is made to fail is not carried out; `read` and `write`, which are mostly the harness's own.
pub(crate) const CALLS: &[Call] = &[
    any("accept4", &["EMFILE", "ENOMEM", "EINTR"]),
    // The name of a socket is a file.
    any("bind", &["ENOMEM", "ENOSPC"]),
    // A thread: too many, or no memory.
    any("clone3", &["EAGAIN", "ENOMEM"]),
    // EAGAIN: the time to wait for room is over.
    any("connect", &["ENOMEM", "EINTR", "EAGAIN"]),
    any("epoll_create1", &["EMFILE", "ENOMEM"]),
    // ENOSPC: more than the user may watch.
    any("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    any("epoll_wait", &["EINTR"]),
    any("eventfd2", &["EMFILE", "ENOMEM"]),
    // EINTR: a signal came while pages were being allocated.
    any("fallocate", &["ENOSPC", "ENOMEM", "EINTR"]),
    any("fchmod", &["ENOMEM"]),
    // EMFILE is that of duplication.
    any("fcntl", &["EMFILE", "ENOMEM"]),
    any("flock", &["EINTR", "ENOMEM"]),
    any("fstat", &["ENOMEM"]),
    any("fstatfs", &["ENOMEM", "EINTR"]),
    any("ftruncate", &["ENOMEM", "EINTR"]),
    any("getrandom", &["EINTR"]),
    // EMFILE is that of the process at the other end.
    any("getsockopt", &["EMFILE", "ENOMEM"]),
    any("listen", &["ENOMEM"]),
    // What a forked child does not inherit; the C library's own calls are hints.
    any("madvise", &["EAGAIN", "ENOMEM"]),
    any("memfd_create", &["EMFILE", "ENOMEM"]),
    any("mkdir", &["ENOSPC", "ENOMEM"]),
    // EAGAIN: more locked memory than allowed, where all memory of a process is.
    on_segments("mmap", &["EAGAIN", "ENOMEM"]),
    any("newfstatat", &["ENOMEM"]),
    any("open", &["EMFILE", "ENOMEM", "EINTR"]),
    any("openat", &["EMFILE", "ENOMEM", "ENOSPC", "EINTR"]),
    any("pidfd_open", &["EMFILE", "ENOMEM"]),
    any("poll", &["ENOMEM", "EINTR"]),
    any("ppoll", &["ENOMEM", "EINTR"]),
    any("recvfrom", &["ENOMEM", "EINTR"]),
    any("recvmsg", &["ENOMEM", "EINTR"]),
    any("sendmsg", &["ENOMEM", "EINTR"]),
    any("sendto", &["ENOMEM", "EINTR"]),
    any("setsockopt", &["ENOMEM"]),
    any("socket", &["EMFILE", "ENOMEM"]),
    any("socketpair", &["EMFILE", "ENOMEM"]),
    any("statx", &["ENOMEM"]),
    any("unlink", &["ENOMEM"]),
];

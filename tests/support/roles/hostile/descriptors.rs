//! What a hostile process hands over where its segment is due.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use super::segment::{SEALS, Segment};
use super::{GO, TAIL, names};
use crate::support::{DEADLINE, ROLE};

/// How long a socket keeps whoever closes it last, where nothing is done about it.
const LINGER: Duration = Duration::from_secs(60);

/// A segment of ours, and what is sent for it or in its place.
pub(super) struct Offer {
    pub(super) own: Segment,
    pub(super) name: Option<String>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// What is offered where a memfd is due.
pub(super) fn offer(kind: &str, bytes: usize, magic: u64) -> Offer {
    let honest = || Segment::honest(bytes, magic);
    let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    let sent = match kind {
        "descriptor-none" => vec![],
        "descriptor-forty" => {
            let own = honest();
            let forty = (0..40).map(|_| own.descriptor.try_clone().expect("a descriptor")).collect();
            return Offer { own, name: None, descriptors: forty };
        }
        "descriptor-dev-null" => vec![open("/dev/null", OFlags::RDWR).expect("it is there")],
        "descriptor-file" => vec![open("/proc/self/exe", OFlags::RDONLY).expect("it is there")],
        "descriptor-socket" => vec![UnixStream::pair().expect("descriptors").0.into()],
        "descriptor-lingers" => vec![lingering().into()],
        "descriptor-huge-pages" => vec![huge()],
        "descriptor-short" => vec![honest_of(bytes / 2, magic)],
        "descriptor-long" => vec![honest_of(bytes * 2, magic)],
        "descriptor-magic" => vec![honest_of(bytes, u64::MAX)],
        "descriptor-sparse" => return own_is(sparse(bytes, magic)),
        "descriptor-unfillable" => {
            let own = Segment::sparse(bytes);
            own.fill_behind();
            own.set(0, magic);
            own.seal(&SEALS);
            let path = format!("/proc/self/fd/{}", own.descriptor.as_raw_fd());
            let unwritable = open(&path, OFlags::RDONLY).expect("it is ours");
            return Offer { own, name: None, descriptors: vec![unwritable] };
        }
        "third-writer" => {
            let made = Segment::sparse(bytes);
            share(&made, magic);
            made.seal(&SEALS);
            return own_is(made);
        }
        "handle-a-name" => {
            let name = Some(names::fresh(names::kind(magic)));
            return Offer { own: honest(), name, descriptors: vec![] };
        }
        other => match other.strip_prefix("descriptor-lacks-") {
            Some(missing) => return own_is(lacking(missing, bytes, magic)),
            None => return own_is(honest()),
        },
    };
    Offer { own: honest(), name: None, descriptors: sent }
}

fn own_is(own: Segment) -> Offer {
    let copy = own.descriptor.try_clone().expect("a descriptor");
    Offer { own, name: None, descriptors: vec![copy] }
}

fn honest_of(bytes: usize, magic: u64) -> OwnedFd {
    Segment::honest(bytes, magic).descriptor
}

fn sparse(bytes: usize, magic: u64) -> Segment {
    let made = Segment::sparse(bytes);
    made.set(0, magic);
    made.seal(&SEALS);
    made
}

fn lacking(missing: &str, bytes: usize, magic: u64) -> Segment {
    let made = Segment::sparse(bytes);
    made.set(0, magic);
    let missing = match missing {
        "shrink" => vec![SealFlags::SHRINK],
        "grow" => vec![SealFlags::GROW],
        "future-write" => vec![SealFlags::FUTURE_WRITE],
        "seal" => vec![SealFlags::SEAL],
        "all" => SEALS.to_vec(),
        other => panic!("no seal {other}"),
    };
    let rest: Vec<SealFlags> = SEALS.into_iter().filter(|seal| !missing.contains(seal)).collect();
    made.seal(&rest);
    made
}

/// Never mapped here, since the host may have no huge page to give; the broker need not get that far.
fn huge() -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let made = rustix::fs::memfd_create(c"huge", flags).expect("a kernel with huge pages");
    rustix::fs::fcntl_add_seals(&made, SEALS.into_iter().collect()).expect("it is ours");
    made
}

/// A connection with a full window, whose last copy can't be closed without waiting.
pub(super) fn lingering() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback");
    let mut connection = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (unread, _) = listener.accept().expect("it is connected");
    connection.set_nonblocking(true).expect("a socket");
    while connection.write(&[0; 1 << 16]).is_ok() {}
    rustix::net::sockopt::set_socket_linger(&connection, Some(LINGER)).expect("a socket");
    // Open for as long as this process lives.
    std::mem::forget(unread);
    connection
}

/// Has another process map a segment writable.
pub(super) fn share(made: &Segment, magic: u64) {
    made.fill();
    made.set(0, magic);
    let memory = made.descriptor.try_clone().expect("a descriptor");
    let mut third = Command::new(std::env::current_exe().expect("this binary has a path"))
        .args(["--exact", "role_entry", "--nocapture", "--test-threads=1"])
        .env(ROLE, r#"{"role":"third"}"#)
        .stdin(Stdio::from(memory))
        .stdout(Stdio::null())
        .spawn()
        .expect("the third process starts");
    std::thread::spawn(move || third.wait());
    wait_for(|| made.word(GO) == 1);
}

/// The third process: says that it has mapped the segment, and breaks the ring once it is told to. Ends with its parent.
pub(crate) fn third() {
    let killed = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    killed.expect("the kernel has death signals");
    let stdin = std::io::stdin();
    let bytes = rustix::fs::fstat(stdin.as_fd()).expect("it is open").st_size;
    let mapped = Segment::of_writable(
        stdin.as_fd().try_clone_to_owned().expect("a descriptor"),
        usize::try_from(bytes).expect("a size"),
    );
    mapped.set(GO, 1);
    wait_for(|| mapped.word(GO) == 2);
    mapped.set(TAIL, u64::MAX);
}

pub(super) fn wait_for(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "the other process does not answer");
        std::thread::sleep(Duration::from_millis(1));
    }
}

//! What a collector does whose owner has changed: it writes into its own segment what the bus never would.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::net::{SendFlags, SocketAddrAny};
use serde_json::{Value, json};
use shm::layout::{PRODUCER_HEADER_BYTES, RECORD_HEADER_BYTES};

const TAIL: usize = 128 / 8;
const HEAD: usize = 128 / 8;

/// Copies the first record of this process's one ring behind the last, with another slot and generation, and rings all
/// doorbells. Needs a ring with at least one record that has not wrapped.
pub(crate) fn forge(command: &Value) -> Value {
    let words = own_segment('p');
    let records = &words[PRODUCER_HEADER_BYTES / 8..];
    let tail = words[TAIL].load(Ordering::Acquire);
    let at = usize::try_from(tail / 8).expect("it has not wrapped");
    let length = records[0].load(Ordering::Relaxed) & 0xFFFF_FFFF;
    let size = RECORD_HEADER_BYTES + length.next_multiple_of(8);
    let slot = command["slot"].as_u64().expect("the slot to forge");
    let generation = command["generation"].as_u64().unwrap_or(0);
    records[at].store(length | slot << 32 | generation << 48, Ordering::Relaxed);
    records[at + 1].store(command["sequence"].as_u64().unwrap_or(0), Ordering::Relaxed);
    for word in 2..usize::try_from(size / 8).expect("a small record") {
        records[at + word].store(records[word].load(Ordering::Relaxed), Ordering::Relaxed);
    }
    words[TAIL].store(tail + size, Ordering::Release);
    json!({ "rung": ring_all_doorbells() })
}

/// Says of this process's one ring that all of it, and far more, was read.
pub(crate) fn forge_head() -> Value {
    own_segment('c')[HEAD].store(u64::MAX - 7, Ordering::Release);
    json!({})
}

/// The writable segment of this kind that the kernel lists for this process. Named memory says who made it; the peer's is
/// mapped writable, too.
fn own_segment(kind: char) -> &'static [AtomicU64] {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("it is readable");
    let sealed = format!("memfd:eventbus-{kind}");
    let named = format!("/dev/shm/deeb{kind}");
    let line = maps
        .lines()
        .find(|line| (line.contains(&sealed) || line.contains(&named)) && line.contains("rw-s"))
        .expect("this process has a ring to write to");
    let (start, rest) = line.split_once('-').expect("a range");
    let (end, _) = rest.split_once(' ').expect("a range");
    let start = usize::from_str_radix(start, 16).expect("an address");
    let end = usize::from_str_radix(end, 16).expect("an address");
    // SAFETY: the kernel says that these pages are mapped readable and writable; the ring is never dropped while a role forges;
    // all accesses to it, the bus's own too, are atomic words.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), (end - start) / 8) }
}

/// Sends a byte to each socket that is connected to a nameless one. The broker's has a name.
fn ring_all_doorbells() -> u64 {
    let mut rung = 0;
    for entry in std::fs::read_dir("/proc/self/fd").expect("it is readable").flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // SAFETY: the descriptor was just listed, and no thread of this role closes any while it forges.
        let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let nameless = match rustix::net::getpeername(descriptor) {
            Ok(Some(SocketAddrAny { .. })) | Ok(None) => !names_a_path(descriptor),
            Err(_) => false,
        };
        if nameless && rustix::net::send(descriptor, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
        {
            rung += 1;
        }
    }
    rung
}

fn names_a_path(descriptor: std::os::fd::BorrowedFd<'_>) -> bool {
    let peer = rustix::net::getpeername(descriptor).ok().flatten();
    let peer = peer.and_then(|address| rustix::net::SocketAddrUnix::try_from(address).ok());
    peer.is_some_and(|address| address.path().is_some_and(|path| !path.is_empty()))
}

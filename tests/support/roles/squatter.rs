//! Another user who was there first: listens at the path, or keeps its lock, and says what it is told over it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{BufRead, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use serde_json::{Value, json};

use super::answer;

/// What came over a connection, once that is over.
type Heard = Arc<Mutex<Vec<usize>>>;

pub(crate) fn live(role: &Value) {
    let path = Path::new(role["path"].as_str().expect("the harness names the path"));
    let heard = Heard::default();
    let lock_mode = role["lock"].as_u64().map(|mode| u32::try_from(mode).expect("a mode"));
    let _lock = lock_mode.map(|mode| lock(&path.with_added_extension("lock"), mode));
    let _on_their_way = role["in_flight"].as_u64().map(leave_descriptors);
    if role["listen"] == true {
        listen(path, Arc::clone(&heard));
    }
    answer(&json!({}));
    for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
        answer(&json!({ "heard": *heard.lock().expect("no thread panics") }));
    }
}

/// Has so many descriptors of this user wait for somebody to receive them.
fn leave_descriptors(count: u64) -> (OwnedFd, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a pair");
    let many = [ours.as_fd(); 200];
    for _ in 0..count.div_ceil(200) {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)), "there is room");
        sendmsg(&ours, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("it is not that many");
    }
    (ours, theirs)
}

fn lock(path: &Path, mode: u32) -> File {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("it was first");
    file.set_permissions(Permissions::from_mode(mode)).expect("its own");
    flock(&file, FlockOperation::NonBlockingLockExclusive).expect("it was first");
    file
}

fn listen(path: &Path, heard: Heard) {
    let listener = UnixListener::bind(path).expect("it was first");
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).expect("its own");
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut bytes = Vec::new();
            // A connection that is cut has brought what it has brought.
            let _ = connection.read_to_end(&mut bytes);
            heard.lock().expect("no thread panics").push(bytes.len());
        }
    });
}

//! What attackers do, as in the tests.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

#[expect(dead_code, reason = "the tests end them")]
#[path = "../../tests/support/roles/hostile/floods.rs"]
mod floods;
#[expect(dead_code, reason = "other attackers need more of it")]
#[path = "../../tests/support/roles/hostile/wire.rs"]
mod wire;

/// Floods that need a session.
const SESSIONS: [&str; 4] = ["drip", "never-reads", "requests", "subscriptions"];

/// A flood of the tests, and over again where the broker has ended it.
pub(super) fn flood(name: &str, path: &Path) {
    let at = path.to_str().expect("a path of ours");
    loop {
        let stream = match SESSIONS.contains(&name) {
            true => session(path, name != "never-reads"),
            false => UnixStream::connect(path).expect("the broker listens"),
        };
        floods::run(name, at, &stream, &|| true);
        // Whoever reads from it ends.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// A session that nobody minds any more, but that what the broker says is read.
fn session(path: &Path, reads: bool) -> UnixStream {
    loop {
        let stream = UnixStream::connect(path).expect("the broker listens");
        let mut notices = wire::Reader::new(stream.try_clone().expect("a descriptor"));
        let key = crate::support::proof::key_beside(path);
        // The session before may still have the name.
        let welcomed = std::iter::from_fn(|| notices.next()).any(|(notice, _)| {
            if let wire::Notice::Greeting { nonce } = &notice {
                wire::hello("exporter", &key, nonce).send(&stream, &[]).expect("the broker reads");
            }
            matches!(notice, wire::Notice::Welcome { .. })
        });
        if welcomed {
            if reads {
                std::thread::spawn(move || while notices.next().is_some() {});
            }
            return stream;
        }
    }
}

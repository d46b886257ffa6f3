//! A broker of another build, made by hand: it speaks the versions that it is told, and grants whatever it is asked for. There are no rings.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::answer;
use super::hostile::wire::{Cursor, Frame, request};

/// Notices by their places in the protocol's enum.
mod notice {
    pub(super) const WELCOME: u64 = 0;
    pub(super) const REFUSED: u64 = 1;
    pub(super) const DECLARED: u64 = 2;
    pub(super) const SUBSCRIBED: u64 = 3;
    pub(super) const GREETING: u64 = 14;
    pub(super) const STATISTICS: u64 = 17;
}

#[derive(Clone)]
struct Build {
    oldest: u64,
    newest: u64,
    /// The version that it welcomes with, whatever it was offered.
    insists: Option<u64>,
    /// The places of all requests that it was sent.
    heard: Arc<Mutex<Vec<u64>>>,
}

/// Options: `path`, `oldest`, `newest`, `insists`. Each line of input is answered with what it has heard.
pub(crate) fn live(role: &Value) {
    let path = Path::new(role["path"].as_str().expect("the harness names the path"));
    let number = |key: &str| role[key].as_u64();
    let (oldest, newest) = (number("oldest").expect("a version"), number("newest").expect("a version"));
    let build = Build { oldest, newest, insists: number("insists"), heard: Arc::default() };
    let heard = Arc::clone(&build.heard);
    let listener = UnixListener::bind(path).expect("it was first");
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let build = build.clone();
            std::thread::spawn(move || build.serve(&connection));
        }
    });
    answer(&json!({}));
    for _ in std::io::stdin().lines().map_while(Result::ok) {
        answer(&json!({ "heard": *heard.lock().expect("no thread panics") }));
    }
}

impl Build {
    /// Answers until the client goes, or is refused.
    fn serve(&self, connection: &UnixStream) {
        // A client that has gone says so at the next look.
        let _ = Frame::new(notice::GREETING).raw(&[7; 32]).send(connection, &[]);
        while let Some(message) = read_frame(connection) {
            let mut fields = Cursor(&message);
            let place = fields.number();
            self.heard.lock().expect("no thread panics").push(place);
            let reply = match place {
                request::HELLO => self.hello(&mut fields),
                request::DECLARE => Frame::new(notice::DECLARED).number(fields.number()).number(1),
                request::SUBSCRIBE => {
                    let (asked, _subscription) = (fields.number(), fields.number());
                    let count = fields.number();
                    let granted = Frame::new(notice::SUBSCRIBED).number(asked).number(count);
                    let granted = (0..count).fold(granted, |frame, _| frame.text(&fields.text()));
                    granted.number(0).number(0)
                }
                // No facts, and no more of them.
                request::STATISTICS => {
                    Frame::new(notice::STATISTICS).number(fields.number()).number(0).number(0)
                }
                _ => continue,
            };
            let _ = reply.send(connection, &[]);
            if place == request::HELLO && self.insists.is_none() && self.common(&message).is_none() {
                return;
            }
        }
    }

    /// The newest version of both, from a hello.
    fn common(&self, hello: &[u8]) -> Option<u64> {
        let mut fields = Cursor(&hello[1..]);
        let (oldest, newest) = (fields.number(), fields.number().min(self.newest));
        (newest >= oldest.max(self.oldest)).then_some(newest)
    }

    fn hello(&self, fields: &mut Cursor<'_>) -> Frame {
        let hello = [&[0], fields.0].concat();
        let (oldest, newest, _features) = (fields.number(), fields.number(), fields.number());
        match self.insists.or_else(|| self.common(&hello)) {
            // Of its first life, with rings of 1 MiB in sealed memory. It knows no key.
            Some(version) => {
                let welcome = Frame::new(notice::WELCOME).number(version).number(1).text(&fields.text());
                welcome.number(1 << 20).number(0).number(0)
            }
            // To request 0, for its version.
            None => {
                let refused = Frame::new(notice::REFUSED).number(0).number(0);
                refused.number(self.oldest).number(self.newest).number(oldest).number(newest)
            }
        }
    }
}

fn read_frame(mut connection: &UnixStream) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut length = [0; 4];
    connection.read_exact(&mut length).ok()?;
    let mut message = vec![0; u32::from_le_bytes(length) as usize];
    connection.read_exact(&mut message).ok()?;
    Some(message)
}

//! Input that no correct peer or caller produces: a typed error, and everybody else goes on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::support::{DEADLINE, Folder, Role, proof};

/// Sends bytes as a client of its own making, and yields what comes back before the broker hangs up.
pub(crate) fn provoke(folder: &Folder, bytes: &[u8]) -> Vec<u8> {
    let mut socket = UnixStream::connect(folder.socket()).expect("the broker listens");
    greeting(&mut socket);
    socket.write_all(bytes).expect("the broker reads");
    until_hung_up(socket)
}

/// The broker's number for a connection.
pub(crate) fn greeting(socket: &mut UnixStream) -> [u8; 32] {
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline is set");
    // Its length, and its place in the protocol's enum.
    let mut greeting = [0; 4 + 1 + 32];
    socket.read_exact(&mut greeting).expect("it is greeted");
    assert_eq!(greeting[..5], [33, 0, 0, 0, 14]);
    *greeting.last_chunk().expect("it is longer")
}

/// The same from a client that has proven who it is, to the bytes behind its proof.
pub(crate) fn provoke_as(folder: &Folder, id: &str, bytes: &[u8]) -> Vec<u8> {
    let mut socket = UnixStream::connect(folder.socket()).expect("the broker listens");
    let nonce = greeting(&mut socket);
    let key = proof::key_beside(&folder.socket());
    let hello = hello_proving(id, &[1], &key, &nonce);
    socket.write_all(&[&hello, bytes].concat()).expect("the broker reads");
    let answer = until_hung_up(socket);
    let welcome = u32::from_le_bytes(answer[..4].try_into().expect("it is welcome")) as usize;
    assert_eq!(answer[4], 0, "it is welcome");
    answer[4 + welcome..].to_vec()
}

fn until_hung_up(mut socket: UnixStream) -> Vec<u8> {
    let mut answer = Vec::new();
    // A broker that hangs up with bytes of ours unread resets the connection.
    let ended = socket.read_to_end(&mut answer);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    answer
}

pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a small message");
    [&length.to_le_bytes(), message].concat()
}

/// The end of a hello: the client's own number, a large one, and no session before.
pub(crate) const LIFE: [u8; 10] = [253, 7, 7, 7, 7, 7, 7, 7, 7, 0];

/// A hello as version 1 has it, but for the proof: oldest and newest version, features, client id, nonce, what it knows, and its life.
fn said(oldest: u8, newest: u8, id: &str, credential: &[u8]) -> Vec<u8> {
    let length = u8::try_from(id.len()).expect("a short id");
    [&[oldest, newest, 0, length], id.as_bytes(), &[7; 32], credential, &LIFE].concat()
}

/// Of one who says that he knows the key, and proves nothing.
pub(crate) fn hello(oldest: u8, newest: u8, id: &str) -> Vec<u8> {
    hello_offering(id, oldest, newest, &[1], &[0])
}

/// Of one who says that he knows this, with this in place of a proof.
pub(crate) fn hello_offering(id: &str, oldest: u8, newest: u8, credential: &[u8], proof: &[u8]) -> Vec<u8> {
    frame(&[&[0], &said(oldest, newest, id, credential)[..], proof].concat())
}

/// Of one who proves that he knows the secret of this credential, to who has greeted him with this number.
pub(crate) fn hello_proving(id: &str, credential: &[u8], secret: &[u8; 32], nonce: &[u8; 32]) -> Vec<u8> {
    let proof = proof::of_client(secret, nonce, &said(1, 1, id, credential));
    hello_offering(id, 1, 1, credential, &[&[1], &proof[..]].concat())
}

/// The bus works: one collector's events arrive.
fn unharmed(agent: &mut Role, procmond: &mut Role, tag: &str) {
    procmond.must(&json!({"do": "batch", "tag": tag, "from": 0, "count": 10}));
    let before = agent.must(&json!({"do": "tally"}))["received"].as_u64().expect("a count");
    let report = agent.must(&json!({"do": "await", "total": before.next_multiple_of(10).max(10)}));
    assert_eq!(report["lost"], 0, "{report}");
}

#[test]
fn malformed_frames_end_their_own_session_only() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let named = |name: &str| frame(&[&[5, 1, 1, 30], name.as_bytes()].concat());
    let strangers: [(&str, Vec<u8>); 10] = [
        ("zero length", vec![0, 0, 0, 0]),
        ("the largest length", vec![0xFF; 4]),
        ("one above the limit", (65_537_u32).to_le_bytes().to_vec()),
        ("no message", frame(&[200])),
        ("bytes behind the message", {
            let mut bytes = hello(1, 1, "detector");
            bytes[0] += 1;
            [bytes, vec![0]].concat()
        }),
        ("a string longer than the frame", frame(&[0, 1, 1, 0, 250, b'x'])),
        ("a name that is not UTF-8", frame(&[0, 1, 1, 0, 2, 0xFF, 0xFE])),
        ("a request before the hello", frame(&[4, 0])),
        ("a request behind a hello that proves nothing", [hello(1, 1, "detector"), frame(&[4, 0])].concat()),
        ("half a proof", hello_offering("detector", 1, 1, &[1], &[1, 7, 7])),
    ];
    let welcomed = [
        ("a second hello", hello(1, 1, "detector")),
        ("a segment without a descriptor", frame(&[5, 1, 0])),
        ("a segment's name that leads elsewhere", named("/deebp/../../../etc/passwd0000")),
        ("a segment's name of another alphabet", named("/deebp0001000000000000000000AB")),
        ("a topic number out of turn", frame(&[1, 1, 0, 7, 1, b'a'])),
    ];
    let strangers = strangers.map(|(what, bytes)| (what, provoke(&folder, &bytes)));
    let welcomed = welcomed.map(|(what, bytes)| (what, provoke_as(&folder, "detector", &bytes)));
    for (what, answer) in strangers.into_iter().chain(welcomed) {
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.is_empty(), "{what}: the broker says why it hangs up");
        assert!(!text.contains("panicked"), "{what}");
        unharmed(&mut agent, &mut procmond, what);
    }
}

#[test]
fn a_client_that_hangs_up_in_the_middle_of_a_frame_harms_nobody() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let whole = hello(1, 1, "detector");
    for cut in 0..whole.len() {
        let mut socket = UnixStream::connect(folder.socket()).expect("the broker listens");
        socket.write_all(&whole[..cut]).expect("the broker reads");
    }
    unharmed(&mut agent, &mut procmond, "after");
    assert_eq!(agent.must(&json!({"do": "components"})), json!({"components": ["agent", "procmond"]}));
}

#[test]
fn an_event_above_the_limit_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    let mut procmond = Role::client(&folder, "procmond").up();
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let limit = (8 << 20) / 8 - 16;
    let refusal = procmond.call(&json!({"do": "large", "bytes": limit}));
    assert_eq!(refusal["kind"], "TooLarge", "{refusal}");
    let delivery = procmond.must(&json!({"do": "large", "bytes": limit - 1000}));
    assert_eq!(delivery["reached"], 1, "what is just below it passes: {delivery}");
    assert_eq!(procmond.must(&json!({"do": "totals"}))["events"], 1, "the refused event was not published");
    let report = agent.must(&json!({"do": "await", "total": 1}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(1), &json!(0)), "{report}");
}

#[test]
fn topics_and_patterns_that_can_not_be_are_typed_errors() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    let long = format!("events.process.{}", "x".repeat(65));
    for topic in ["", "events..batch", "a.b.c.d.e", "Events.process.batch", "events.process.+", "#", &long] {
        let refusal = procmond.call(&json!({"do": "declare", "topic": topic}));
        assert_eq!(refusal["kind"], "Topic", "{topic:?}: {refusal}");
        let refusal = procmond.call(&json!({"do": "publish", "topic": topic, "from": 0, "count": 1}));
        assert!(refusal.get("error").is_some(), "{topic:?}: {refusal}");
    }
    for pattern in ["", "a.#.b", "a.b+", "a..b", "A.b", "#.#", &long] {
        for role in [&mut agent, &mut procmond] {
            let refusal = role.call(&json!({"do": "subscribe", "patterns": [pattern]}));
            assert_eq!(refusal["kind"], "Pattern", "{pattern:?}: {refusal}");
        }
    }
    let answer: Value = procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    assert_eq!(answer, json!({}));
}

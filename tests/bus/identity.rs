//! Who is who: the broker's key, launch tokens, and those who have neither.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bad_input::{frame, greeting, hello_offering, hello_proving, provoke};
use crate::support::{Folder, Role, STRANGER, look, proof, reachable, wait_until};

fn key_of(folder: &Folder) -> PathBuf {
    folder.socket().with_added_extension("key")
}

fn open_agent(folder: &Folder, options: Value) -> Role {
    let mut all = json!({"socket_mode": 0o666});
    all.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
    Role::agent(folder, all).up()
}

/// A token of the agent's in a file of its own, for this user to read.
fn issue(agent: &mut Role, folder: &Folder, name: &str, owner: u32, terms: Value) -> String {
    let file = folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let mut command = json!({"do": "issue", "component": "procmond", "file": file, "owner": owner});
    command.as_object_mut().expect("an object").extend(terms.as_object().expect("an object").clone());
    agent.must(&command);
    file
}

fn assert_unproven(refusal: &Value, needed: &str) {
    let text = refusal["error"].as_str().unwrap_or_default();
    assert!(text.contains("has to prove that it knows") && text.contains(needed), "{refusal}");
}

const TOKEN: &str = "a launch token of this name";
const KEY: &str = "the broker's key file";

#[test]
fn those_who_may_connect_can_read_the_key_and_nobody_else() {
    for (mode, readers) in [(0o600, 0o400), (0o660, 0o440), (0o666, 0o444)] {
        let folder = Folder::new();
        let mut agent = Role::agent(&folder, json!({"socket_mode": mode})).up();
        let found = fs::metadata(key_of(&folder)).expect("it is there");
        assert_eq!((found.mode() & 0o777, found.len()), (readers, 32));
        let first = fs::read(key_of(&folder)).expect("we are root");
        agent.must(&json!({"do": "shutdown"}));
        assert!(!key_of(&folder).exists());
        drop(agent);
        let _agent = Role::agent(&folder, json!({"socket_mode": mode})).up();
        assert_ne!(fs::read(key_of(&folder)).expect("we are root"), first, "each broker has its own");
    }
}

const WELCOME: u8 = 0;
const REFUSED: u8 = 1;

/// 32 bytes as a proof that is there.
fn proof_of(bytes: [u8; 32]) -> Vec<u8> {
    [&[1], &bytes[..]].concat()
}

#[test]
fn who_does_not_know_the_key_is_not_let_in_and_takes_no_name() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    // A hello that offers nothing, one that proves nothing, and one that proves what is wrong.
    for (credential, proof) in [([0], vec![0]), ([1], vec![0]), ([1], proof_of([0; 32]))] {
        let refused = provoke(&folder, &hello_offering("procmond", 1, 1, &credential, &proof));
        assert_eq!(refused[4], REFUSED, "{refused:?}");
    }
    assert_eq!(agent.must(&json!({"do": "components"})), json!({"components": ["agent"]}));
    let _procmond = Role::client(&folder, "procmond").up();
}

/// A handshake, as far as the broker goes: what it answers to this hello.
fn shake(folder: &Folder, hello: impl FnOnce(&[u8; 32]) -> Vec<u8>) -> Vec<u8> {
    let mut socket = UnixStream::connect(folder.socket()).expect("the broker listens");
    let nonce = greeting(&mut socket);
    socket.write_all(&hello(&nonce)).expect("the broker reads");
    let mut length = [0; 4];
    socket.read_exact(&mut length).expect("it is answered");
    let mut answer = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut answer).expect("it is answered");
    answer
}

#[test]
fn a_proof_serves_once_and_the_brokers_own_serves_nobody_else() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let key = proof::key_beside(&folder.socket());
    let is_free = |agent: &mut Role| {
        wait_until("the name is free again", || {
            agent.must(&json!({"do": "components"})) == json!({"components": ["agent"]})
        });
    };
    let mut said = Vec::new();
    let welcome = shake(&folder, |nonce| {
        said = hello_proving("procmond", &[1], &key, nonce);
        said.clone()
    });
    assert_eq!(welcome[0], WELCOME);
    is_free(&mut agent);
    assert_eq!(shake(&folder, |_| said)[0], REFUSED, "the same hello again");
    // The broker's own for that handshake is the end of its welcome.
    let of_broker = *welcome.last_chunk().expect("it is longer");
    let own = hello_offering("procmond", 1, 1, &[1], &proof_of(of_broker));
    assert_eq!(shake(&folder, |_| own)[0], REFUSED, "the broker's own, sent back");
    assert_eq!(shake(&folder, |nonce| hello_proving("procmond", &[1], &key, nonce))[0], WELCOME);
}

#[test]
fn a_token_is_not_used_up_by_who_knows_its_name_alone() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let path = issue(&mut agent, &folder, "token", 0, json!({}));
    let token = fs::read(&path).expect("we are root");
    let credential = [&[2], &token[..16]].concat();
    for proof in [vec![0], proof_of([0; 32])] {
        let refused = provoke(&folder, &hello_offering("procmond", 1, 1, &credential, &proof));
        assert_eq!(refused[4], REFUSED, "{refused:?}");
    }
    let _procmond = Role::client_with(&folder, "procmond", json!({"token": path})).up();
}

#[test]
fn a_name_for_which_a_token_is_issued_goes_to_nobody_who_was_greeted_before() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let key = proof::key_beside(&folder.socket());
    let verdict = shake(&folder, |nonce| {
        issue(&mut agent, &folder, "token", 0, json!({}));
        hello_proving("procmond", &[1], &key, nonce)
    });
    assert_eq!(verdict[0], REFUSED);
    let token = folder.path().join("token");
    let token = token.to_str().expect("UTF-8");
    let _procmond = Role::client_with(&folder, "procmond", json!({"token": token})).up();
}

/// What listens in the broker's place, as the same user, greets, and answers the hello with these bytes. Yields what it heard.
fn pose(path: &Path, answer: Vec<u8>) -> std::thread::JoinHandle<Vec<u8>> {
    let listener = UnixListener::bind(path).expect("a free path");
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.write_all(&frame(&[&[14], &[3; 32][..]].concat())).expect("it listens");
        let mut heard = vec![0; hello_proving("procmond", &[1], &[0; 32], &[3; 32]).len()];
        client.read_exact(&mut heard).expect("it says hello");
        client.write_all(&answer).expect("it listens");
        client.read_to_end(&mut heard).expect("it goes");
        heard
    })
}

#[test]
fn a_client_that_knows_the_key_believes_nobody_who_does_not() {
    let welcome = |proof: &[u8]| {
        frame(&[&[0, 1, 7, 8], b"procmond".as_slice(), &[252, 0, 0, 128, 0, 0], proof].concat())
    };
    for (answer, expected) in [(welcome(&[0]), "Protocol"), (welcome(&proof_of([9; 32])), "UnprovenBroker")] {
        let folder = Folder::new();
        fs::write(key_of(&folder), [1; 32]).expect("our folder");
        let posing = pose(&folder.socket(), answer);
        let refusal = Role::client(&folder, "procmond").hello();
        assert_eq!(refusal["kind"], expected, "{refusal}");
        let heard = posing.join().expect("it does not panic");
        let hello = hello_proving("procmond", &[1], &[0; 32], &[3; 32]);
        assert_eq!(heard.len(), hello.len(), "it says nothing after its hello");
        // What he heard is of no use at the broker.
        fs::remove_file(folder.socket()).expect("our folder");
        fs::remove_file(key_of(&folder)).expect("our folder");
        let mut agent = Role::agent(&folder, json!({})).up();
        assert_eq!(shake(&folder, |_| heard)[0], REFUSED);
        assert_eq!(agent.must(&json!({"do": "components"})), json!({"components": ["agent"]}));
    }
}

#[test]
fn a_client_believes_no_welcome_before_it_was_greeted() {
    let folder = Folder::new();
    let listener = UnixListener::bind(folder.socket()).expect("a free path");
    let posing = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let welcome = [&[0, 1, 7, 8], b"procmond".as_slice(), &[252, 0, 0, 128, 0, 0, 0]].concat();
        client.write_all(&frame(&welcome)).expect("it listens");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("it goes");
        heard
    });
    assert_eq!(Role::client(&folder, "procmond").hello()["kind"], "Protocol");
    assert!(posing.join().expect("it does not panic").is_empty(), "it says nothing");
}

#[test]
fn a_key_file_that_is_not_the_brokers_is_a_typed_error() {
    let folder = Folder::new();
    let _agent = open_agent(&folder, json!({}));
    let other = folder.path().join("other");
    fs::write(&other, [1; 32]).expect("our folder");
    let with = |key: &Path| {
        let path = key.to_str().expect("UTF-8");
        Role::client_with(&folder, "procmond", json!({"key": path})).hello()
    };
    assert_unproven(&with(&other), KEY);
    std::os::unix::fs::chown(&other, Some(STRANGER), None).expect("we are root");
    let foreign = with(&other);
    assert!(
        foreign["error"].as_str().is_some_and(|text| text.contains("belongs to uid 65534, not 0")),
        "{foreign}"
    );
    let missing = with(&folder.path().join("missing"));
    assert_eq!(missing["kind"], "KeyFile", "{missing}");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(key_of(&folder), &link).expect("our folder");
    assert_eq!(with(&link)["kind"], "KeyFile", "it leads elsewhere");
}

#[test]
fn a_token_makes_a_stranger_the_component_that_it_was_issued_for() {
    let folder = Folder::new();
    let mut agent = open_agent(&folder, json!({}));
    let before = Role::strange_client(&folder, "procmond", json!({})).up();
    assert_eq!(agent.must(&json!({"do": "members"}))["procmond"], json!([STRANGER, before.pid(), "Weak"]));
    drop(before);
    let token = issue(&mut agent, &folder, "token", STRANGER, json!({"uid": STRANGER}));
    assert_eq!(fs::metadata(&token).expect("it is there").permissions().mode() & 0o777, 0o400);
    let by_key = Role::strange_client(&folder, "procmond", json!({})).hello();
    assert_unproven(&by_key, TOKEN);
    let foreign = Role::client_with(&folder, "procmond", json!({"token": token})).hello();
    assert_eq!(
        foreign["kind"],
        "Custom { kind: PermissionDenied, error: \"others can read it: it has mode 400, of uid 65534\" }"
    );
    let mut procmond = Role::strange_client(&folder, "procmond-7", json!({"token": token})).up();
    assert_eq!(agent.must(&json!({"do": "members"}))["procmond"], json!([STRANGER, procmond.pid(), "Token"]));
    let second = Role::strange_client(&folder, "procmond", json!({"token": token})).hello();
    assert_unproven(&second, TOKEN);
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let netmond = Role::strange_client(&folder, "netmond", json!({"token": token})).hello();
    assert_unproven(&netmond, KEY);
}

#[test]
fn a_process_that_inherits_a_token_is_who_the_agent_started() {
    let folder = Folder::new();
    let mut agent = open_agent(&folder, json!({}));
    let binary = reachable(&std::env::current_exe().expect("this binary has a path"), &folder);
    let role = json!({
        "role": "client", "id": "procmond-7", "path": folder.socket(), "stdin": "token",
        "then": [{"do": "declare", "topic": "events.process.batch"}],
    });
    let launched = agent.must(&json!({
        "do": "launch", "component": "procmond", "uid": STRANGER, "as": STRANGER, "binary": binary, "role": role,
    }));
    assert_eq!(launched["said"]["results"].as_array().map(Vec::len), Some(1), "{launched}");
    assert!(launched["said"]["results"][0].get("error").is_none(), "{launched}");
    assert_eq!(
        agent.must(&json!({"do": "members"}))["procmond"],
        json!([STRANGER, launched["pid"], "Token"])
    );
}

#[test]
fn a_token_is_good_in_time_and_for_the_process_that_it_names() {
    let folder = Folder::new();
    let mut agent = open_agent(&folder, json!({}));
    for (terms, what) in [
        (json!({"valid_ms": 0}), "it has expired"),
        (json!({"uid": 65533}), "it is for another user"),
        (json!({"pid": std::process::id()}), "it is for another process"),
    ] {
        let token = issue(&mut agent, &folder, what, STRANGER, terms);
        let refusal = Role::strange_client(&folder, "procmond", json!({"token": token})).hello();
        assert_unproven(&refusal, TOKEN);
    }
    let stale = issue(&mut agent, &folder, "stale", STRANGER, json!({}));
    let fresh = issue(&mut agent, &folder, "fresh", STRANGER, json!({}));
    let refusal = Role::strange_client(&folder, "procmond", json!({"token": stale})).hello();
    assert_unproven(&refusal, TOKEN);
    let _procmond = Role::strange_client(&folder, "procmond", json!({"token": fresh})).up();
}

#[test]
fn the_process_of_a_token_may_take_its_name_over_from_its_own_session_and_nobody_else() {
    let folder = Folder::new();
    let mut agent = open_agent(&folder, json!({}));
    let token = issue(&mut agent, &folder, "token", 0, json!({}));
    let mut procmond = Role::client_with(&folder, "procmond", json!({"token": token})).up();
    let again = json!({"do": "connect_again", "id": "procmond", "path": folder.socket(), "token": token});
    assert_eq!(
        procmond.must(&again),
        json!({"before": "the broker ended the session: another session has a better claim to the name"})
    );
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    let mut detector = Role::client(&folder, "detector").up();
    let taken = detector.call(&json!({"do": "connect_again", "id": "detector", "path": folder.socket()}));
    assert!(taken["kind"].as_str().is_some_and(|kind| kind.starts_with("NameTaken")), "{taken}");
}

#[test]
fn a_token_takes_the_name_from_who_has_it_by_the_key_alone_or_by_an_older_token() {
    let folder = Folder::new();
    let mut agent = open_agent(&folder, json!({}));
    let mut squatter = Role::strange_client(&folder, "procmond", json!({})).up();
    let mut former = None;
    for name in ["first", "second"] {
        let token = issue(&mut agent, &folder, name, 0, json!({}));
        let procmond = Role::client_with(&folder, "procmond", json!({"token": token})).up();
        let members = agent.must(&json!({"do": "members"}));
        assert_eq!(members["procmond"], json!([0, procmond.pid(), "Token"]));
        let mut before = former.replace(procmond);
        let why = before.as_mut().unwrap_or(&mut squatter).must(&json!({"do": "disconnected"}));
        assert_eq!(
            why["why"],
            "the broker ended the session: another session has a better claim to the name"
        );
    }
}

#[test]
fn the_agents_name_is_had_by_token_alone() {
    let folder = Folder::new();
    let mut agent = open_agent(&folder, json!({}));
    let by_key = Role::client(&folder, "agent").hello();
    assert_eq!(by_key["error"], "the broker refused: the name agent is taken");
    assert_eq!(agent.must(&json!({"do": "components"})), json!({"components": ["agent"]}));
}

#[test]
fn a_strict_broker_lets_nobody_in_by_its_key() {
    let folder = Folder::new();
    let mut agent = open_agent(&folder, json!({"strict": true}));
    assert_unproven(&Role::client(&folder, "tool").hello(), TOKEN);
    let token = issue(&mut agent, &folder, "token", 0, json!({}));
    let _procmond = Role::client_with(&folder, "procmond", json!({"token": token})).up();
}

#[test]
fn secrets_are_in_no_memory_that_a_core_dump_would_hold() {
    let folder = Folder::new();
    let mut agent = open_agent(&folder, json!({}));
    let detector = Role::client(&folder, "detector").up();
    let path = issue(&mut agent, &folder, "token", 0, json!({}));
    let procmond = Role::client_with(&folder, "procmond", json!({"token": path})).up();
    let key = fs::read(key_of(&folder)).expect("we are root");
    let token = fs::read(&path).expect("we are root")[16..].to_vec();
    for (process, role) in [("agent", &agent), ("detector", &detector), ("procmond", &procmond)] {
        for (name, secret) in [("the key", &key), ("the token", &token)] {
            assert!(!look::holds(role.pid(), secret), "{process} has {name} in its memory");
        }
    }
    assert!(look::holds(procmond.pid(), b"eventbus-client"), "what is there is found");
}

//! Who may connect to whom: users, groups, strangers who were there first, and connections that need no path.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Folder, Role, STRANGER, look, reachable, wait_until, wait_within};

const ROOT: u32 = 0;
const OTHER_STRANGER: u32 = 65533;
/// A group of nobody, unless a process is started with it.
const GROUP: u32 = 4711;
/// For `setpriv`: a process that can do nothing but what its user may.
const WITHOUT_RIGHTS: [&str; 5] =
    ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--"];

fn agent(folder: &Folder, uid: u32, options: Value) -> Role {
    Role::of_user(folder, "agent", "agent", uid, options)
}

fn client(folder: &Folder, uid: u32, options: Value) -> Role {
    Role::of_user(folder, "client", "procmond", uid, options)
}

/// What comes through from the one to the other.
fn assert_talk(agent: &mut Role, procmond: &mut Role) {
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
    let report = agent.must(&json!({"do": "await", "total": 100}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(100), &json!(0)), "{report}");
}

/// How an attempt to connect ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    In,
    /// The kernel keeps the client out.
    Out,
    /// The client does not trust the broker's user.
    Distrust,
}

/// One line of the matrix: a broker, and how clients fare with it.
struct Line {
    agent: u32,
    options: Value,
    clients: &'static [(u32, Option<u32>, bool, End)],
}

/// For each client: its user, which broker it expects, whether it is a member of the group, and how that ends.
fn matrix() -> Vec<Line> {
    use End::{Distrust, In, Out};
    let line = |agent, options, clients| Line { agent, options, clients };
    vec![
        line(
            ROOT,
            json!({}),
            &[(ROOT, None, false, In), (STRANGER, None, false, Out), (STRANGER, None, true, Out)],
        ),
        line(
            ROOT,
            json!({"socket_mode": 0o666}),
            &[(STRANGER, None, false, In), (STRANGER, Some(STRANGER), false, Distrust)],
        ),
        line(
            ROOT,
            json!({"socket_mode": 0o660, "socket_group": GROUP}),
            &[(STRANGER, None, true, In), (STRANGER, None, false, Out)],
        ),
        // The group alone, without the mode, lets nobody in.
        line(ROOT, json!({"socket_group": GROUP}), &[(STRANGER, None, true, Out)]),
        line(
            STRANGER,
            json!({}),
            &[
                (STRANGER, None, false, In),
                (ROOT, None, false, Distrust),
                (ROOT, Some(STRANGER), false, In),
                (OTHER_STRANGER, Some(STRANGER), false, Out),
            ],
        ),
        line(
            STRANGER,
            json!({"socket_mode": 0o660, "socket_group": GROUP, "groups": GROUP.to_string()}),
            &[
                (OTHER_STRANGER, None, true, Distrust),
                (OTHER_STRANGER, Some(STRANGER), true, In),
                (OTHER_STRANGER, Some(STRANGER), false, Out),
            ],
        ),
    ]
}

#[test]
fn who_may_connect_is_decided_by_user_mode_and_group_and_whom_to_trust_by_the_client() {
    for Line { agent: broker, options, clients } in matrix() {
        let folder = Folder::of(broker, 0o755);
        let mut agent = agent(&folder, broker, options.clone()).up();
        for &(uid, expected, member, end) in clients {
            let mut how = json!({});
            if let Some(expected) = expected {
                how["broker_uid"] = expected.into();
            }
            if member {
                how["groups"] = GROUP.to_string().into();
            }
            let mut procmond = client(&folder, uid, how);
            let hello = procmond.hello();
            let found = match hello["kind"].as_str() {
                None => End::In,
                Some("NoBroker") => End::Out,
                Some("ForeignBroker") => End::Distrust,
                Some(_) => panic!("{hello}"),
            };
            assert_eq!(found, end, "agent {broker} {options}, client {uid} {expected:?} {member}: {hello}");
            let text = hello["error"].as_str().unwrap_or_default().to_owned();
            match end {
                End::In => assert_talk(&mut agent, &mut procmond),
                End::Out => assert!(text.contains("Permission denied"), "{text}"),
                End::Distrust => assert!(text.contains(&format!("runs as uid {broker}, ")), "{text}"),
            }
            procmond.kill();
            wait_until("its name is free again", || {
                agent.must(&json!({"do": "components"}))["components"] == json!(["agent"])
            });
        }
    }
}

#[test]
fn a_broker_without_any_right_serves_whom_it_lets_in() {
    for broker in [ROOT, STRANGER] {
        let folder = Folder::of(broker, 0o755);
        let rights = json!({"rights": WITHOUT_RIGHTS, "socket_mode": 0o666});
        let mut agent = agent(&folder, broker, rights).up();
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it lives");
        for fact in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
            assert!(status.contains(fact), "{fact}: {status}");
        }
        for uid in [ROOT, STRANGER, OTHER_STRANGER] {
            let mut procmond =
                client(&folder, uid, json!({"broker_uid": broker, "rights": WITHOUT_RIGHTS})).up();
            assert_talk(&mut agent, &mut procmond);
            procmond.kill();
            wait_until("its name is free again", || {
                agent.must(&json!({"do": "components"}))["components"] == json!(["agent"])
            });
        }
    }
}

#[test]
fn where_no_descriptor_can_be_sent_any_more_events_go_over_the_broker() {
    let folder = Folder::of(STRANGER, 0o755);
    let rights = json!({"rights": WITHOUT_RIGHTS, "socket_mode": 0o666});
    let mut agent = agent(&folder, STRANGER, rights).up();
    agent.must(&json!({"do": "few_descriptors"}));
    // The kernel counts what is on its way by user. Other users have the broker's do the same by not reading what it sends them.
    let hoard = json!({"path": folder.path().join("hoard").to_str(), "in_flight": 400});
    let hoarder = Role::of_user(&folder, "squatter", "hoarder", STRANGER, hoard).up();
    let options = || json!({"broker_uid": STRANGER, "rights": WITHOUT_RIGHTS});
    let mut procmond = client(&folder, OTHER_STRANGER, options()).up();
    assert_talk(&mut agent, &mut procmond);
    let mut detector = Role::of_user(&folder, "client", "detector", OTHER_STRANGER, options()).up();
    assert_talk(&mut detector, &mut procmond);
    assert_eq!(look::rings(procmond.pid()), Vec::<u64>::new(), "the descriptors could not be sent");
    drop(hoarder);
}

#[test]
fn who_is_not_in_a_group_can_not_give_it_the_socket() {
    let folder = Folder::of(STRANGER, 0o755);
    let refusal = agent(&folder, STRANGER, json!({"socket_mode": 0o660, "socket_group": GROUP})).hello();
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("Group { group: 4711")), "{refusal}");
    assert!(
        !folder.entries().iter().any(|name| name.starts_with("bus")),
        "nothing is left: {:?}",
        folder.entries()
    );
}

/// Another user who is there before the broker, in a folder like `/tmp`.
fn squatter(options: Value) -> (Folder, Role) {
    let folder = Folder::of(ROOT, 0o1777);
    let squatter = Role::of_user(&folder, "squatter", "squatter", STRANGER, options).up();
    (folder, squatter)
}

#[test]
fn a_squatter_is_told_nothing_by_clients_and_named_by_the_broker() {
    let (folder, mut squatter) = squatter(json!({"listen": true}));
    for uid in [ROOT, OTHER_STRANGER] {
        let refusal = client(&folder, uid, json!({})).hello();
        assert_eq!(refusal["kind"], "ForeignBroker", "{refusal}");
        let text = refusal["error"].as_str().expect("a text");
        assert!(text.contains("runs as uid 65534, which is not trusted: it should be 0"), "{text}");
    }
    let pid = squatter.pid();
    for uid in [ROOT, OTHER_STRANGER] {
        let refusal = agent(&folder, uid, json!({})).hello();
        let kind = refusal["kind"].as_str().unwrap_or_default();
        assert!(
            kind.contains("Foreign {") && kind.contains(&format!("uid: 65534, pid: Some({pid})")),
            "{refusal}"
        );
        assert!(folder.entries().contains(&"bus.sock".into()), "it was left alone");
    }
    let mut heard = Value::Null;
    wait_until("all have gone", || {
        heard = squatter.must(&json!({}))["heard"].clone();
        heard.as_array().is_some_and(|connections| connections.len() == 4)
    });
    assert_eq!(heard, json!([0, 0, 0, 0]), "bytes that came over each connection");
}

#[test]
fn a_lock_that_a_stranger_keeps_is_an_error_that_names_the_stranger() {
    // Others come as far as the lock itself, or can't even open its file.
    for lock_mode in [0o666, 0o600] {
        let (folder, squatter) = squatter(json!({"lock": lock_mode}));
        let stranger = format!("uid: 65534, pid: Some({})", squatter.pid());
        for uid in [ROOT, OTHER_STRANGER] {
            let refusal = agent(&folder, uid, json!({})).hello();
            let kind = refusal["kind"].as_str().unwrap_or_default();
            assert!(kind.contains("Foreign {") && kind.contains(&stranger), "{lock_mode:o}: {refusal}");
            assert!(folder.entries().contains(&"bus.sock.lock".into()), "it was left alone");
        }
    }
}

#[test]
fn what_a_stranger_has_left_is_removed_by_who_may_and_named_by_who_may_not() {
    let (folder, mut squatter) = squatter(json!({"lock": 0o666, "listen": true}));
    squatter.kill();
    let refusal = agent(&folder, OTHER_STRANGER, json!({})).hello();
    let kind = refusal["kind"].as_str().unwrap_or_default();
    assert!(kind.contains("Foreign {") && kind.contains("uid: 65534, pid: None"), "{refusal}");
    let mut agent = agent(&folder, ROOT, json!({})).up();
    let mut procmond = client(&folder, ROOT, json!({})).up();
    assert_talk(&mut agent, &mut procmond);
    for name in ["bus.sock", "bus.sock.lock"] {
        let found = std::fs::metadata(folder.path().join(name)).expect("it is there");
        use std::os::unix::fs::MetadataExt;
        assert_eq!((found.uid(), found.mode() & 0o777), (ROOT, 0o600), "{name}");
    }
}

/// A socket whose queue takes one client, and has it.
fn full(path: &Path) -> (UnixListener, Vec<rustix::fd::OwnedFd>) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = || rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let address = SocketAddrUnix::new(path).expect("a short path");
    let listener = socket().expect("descriptors");
    rustix::net::bind(&listener, &address).expect("a free path");
    rustix::net::listen(&listener, 0).expect("it is bound");
    let mut waiting = Vec::new();
    loop {
        let client = socket().expect("descriptors");
        match rustix::net::connect(&client, &address) {
            Ok(()) => waiting.push(client),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                return (listener.into(), waiting);
            }
        }
    }
}

#[test]
fn connecting_to_a_broker_that_accepts_nobody_ends_at_the_deadline() {
    let folder = Folder::new();
    let (_listener, _waiting) = full(&folder.socket());
    let before = Instant::now();
    let refusal = Role::client_with(&folder, "procmond", json!({"deadline_ms": 300})).hello();
    assert_eq!(refusal["kind"], "Timeout", "{refusal}");
    assert!(before.elapsed() >= Duration::from_millis(300), "it waited for room");
}

#[test]
fn a_path_that_no_socket_can_have_is_an_error_that_says_so_on_both_sides() {
    let folder = Folder::new();
    let path = folder.path().join("x".repeat(100));
    let path = json!({"path": path.to_str().expect("UTF-8")});
    for refusal in [agent(&folder, ROOT, path.clone()).hello(), client(&folder, ROOT, path).hello()] {
        assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("PathTooLong")), "{refusal}");
        let text = refusal["error"].as_str().expect("a text");
        assert!(text.contains("bytes, at most 107 are possible"), "{text}");
    }
    assert_eq!(folder.entries(), ["role"]);
}

#[test]
fn who_waits_for_room_in_the_queue_gets_it() {
    let folder = Folder::new();
    let (listener, waiting) = full(&folder.socket());
    let procmond = Role::client(&folder, "procmond");
    wait_until("it waits in connect", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", procmond.pid())).expect("it lives").flatten();
        tasks
            .map(|task| std::fs::read_to_string(task.path().join("wchan")).unwrap_or_default())
            .any(|place| place.contains("unix_wait_for_peer"))
    });
    listener.set_nonblocking(false).expect("a socket");
    for _ in 0..=waiting.len() {
        drop(listener.accept().expect("somebody waits"));
    }
    // It was hung up on, and has said hello before.
    assert_eq!(procmond.hello()["kind"], "Protocol");
}

#[test]
fn a_client_of_another_pid_namespace_is_served_and_its_death_seen() {
    let folder = Folder::new();
    let apart = ["unshare", "--pid", "--fork", "--kill-child"];
    let mut agent = Role::agent(&folder, json!({"within": apart})).up();
    let mut procmond = Role::client(&folder, "procmond").up();
    assert_talk(&mut agent, &mut procmond);
    procmond.kill();
    wait_until("its session ends", || components(&mut agent) == json!(["agent"]));
}

#[test]
fn who_has_died_before_it_was_accepted_has_no_session_though_its_child_holds_the_connection() {
    let folder = Folder::new();
    let mut agent = Role::agent(&folder, json!({})).up();
    let mut orphaner = Role::orphaner(&folder);
    agent.stop();
    let heir = orphaner.leave_connection();
    assert!(orphaner.end().success());
    assert!(look::is_alive(heir));
    agent.go_on();
    // Less than a process has that lives and says nothing.
    wait_within(Duration::from_secs(4), "the heir is hung up on", || !look::is_alive(heir));
    assert_eq!(components(&mut agent), json!(["agent"]));
}

#[test]
fn the_default_socket_and_those_of_instances_are_each_a_bus_of_its_own() {
    let folder = Folder::of(ROOT, 0o1777);
    let binary = std::env::current_exe().expect("this binary has a path");
    reachable(&binary, &folder);
    // The folder stands in for /tmp, and the copy for the binary that is told.
    let script = "mount --bind \"$0\" /tmp && shift && exec /tmp/role \"$@\"";
    let within = ["unshare", "--mount", "sh", "-c", script, folder.path().to_str().expect("UTF-8")];
    let instances = ["", "a", "a-b"];
    let mut agents =
        instances.map(|name| Role::agent(&folder, json!({"within": within, "instance": name})).up());
    let id = |name: &str| format!("tool{}", name.len());
    let _clients = instances
        .map(|name| Role::client_with(&folder, &id(name), json!({"within": within, "instance": name})).up());
    for (agent, name) in agents.iter_mut().zip(instances) {
        assert_eq!(components(agent), json!(["agent", id(name)]), "{name:?}");
    }
    let sockets = ["daemoneye-a-b.sock", "daemoneye-a.sock", "daemoneye.sock"];
    let here = || -> Vec<String> {
        let entries = folder.entries().into_iter();
        entries.filter(|name| name.contains(".sock")).collect()
    };
    let and_locks = |sockets: &[&str]| -> Vec<String> {
        let with_its_own = |name: &&str| ["", ".key", ".lock"].map(|end| format!("{name}{end}"));
        sockets.iter().flat_map(with_its_own).collect()
    };
    assert_eq!(here(), and_locks(&sockets));
    let refusal = Role::agent(&folder, json!({"within": within, "instance": "a"})).hello();
    assert!(refusal["kind"].as_str().is_some_and(|kind| kind.contains("Live {")), "{refusal}");
    for (agent, left) in agents.iter_mut().zip([&sockets[..2], &sockets[..1], &[]]) {
        agent.must(&json!({"do": "shutdown"}));
        assert_eq!(here(), and_locks(left), "each takes its own along");
    }
}

/// An agent whose socket nobody else can reach, and the binary that a collector of another user starts from.
fn hidden_agent() -> (Folder, Role, String) {
    let folder = Folder::new();
    let path = folder.path().join("hidden/bus.sock");
    let agent = agent(&folder, ROOT, json!({"path": path.to_str().expect("UTF-8")})).up();
    let binary = std::env::current_exe().expect("this binary has a path");
    let binary = reachable(&binary, &folder).to_str().expect("UTF-8").to_owned();
    (folder, agent, binary)
}

fn launch(component: &str, uid: Option<u32>, role: Value, binary: &str) -> Value {
    let mut role = role;
    role["role"] = "client".into();
    role["stdin"] = true.into();
    role["path"] = "".into();
    json!({
        "do": "launch", "component": component, "uid": uid, "as": STRANGER, "binary": binary, "role": role,
    })
}

/// Ends a process that is nobody's child here.
fn kill(pid: &Value) {
    let pid = pid.as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it lives");
}

fn components(agent: &mut Role) -> Value {
    agent.must(&json!({"do": "components"}))["components"].clone()
}

#[test]
fn a_process_that_reaches_no_path_works_over_the_connection_that_it_was_started_with() {
    let (folder, mut agent, binary) = hidden_agent();
    let path = folder.path().join("hidden/bus.sock");
    let out = client(&folder, STRANGER, json!({"path": path.to_str().expect("UTF-8")})).hello();
    assert_eq!(out["kind"], "NoBroker", "{out}");
    agent.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    for uid in [Some(STRANGER), None] {
        let then = json!([
            {"do": "declare", "topic": "events.process.batch"},
            {"do": "batch", "from": 0, "count": 1000},
            // Over the broker, what was not sent yet would go with the process.
            {"do": "flush", "within_ms": 60_000},
        ]);
        let launched =
            agent.must(&launch("procmond", uid, json!({"id": "procmond-7", "then": then}), &binary));
        let results = &launched["said"]["results"];
        assert_eq!((&results[1]["reached"], &results[2]["unread"]), (&json!(1000), &json!(0)), "{launched}");
        assert_eq!(components(&mut agent), json!(["agent", "procmond"]));
        kill(&launched["pid"]);
        wait_until("it is gone", || components(&mut agent) == json!(["agent"]));
    }
    let report = agent.must(&json!({"do": "await", "total": 2000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(2000), &json!(0)), "{report}");
}

#[test]
fn a_connection_that_was_made_for_a_component_and_user_is_no_others() {
    let (_folder, mut agent, binary) = hidden_agent();
    for (uid, id, text) in [
        (None, "netmond", "this connection was made for procmond, not for netmond"),
        (Some(OTHER_STRANGER), "procmond", "this connection was made for procmond as uid 65533, not 65534"),
        (None, "agent", "this connection was made for procmond, not for agent"),
    ] {
        let launched = agent.must(&launch("procmond", uid, json!({"id": id}), &binary));
        assert_eq!(launched["said"]["kind"], "Dismissed", "{launched}");
        assert!(launched["said"]["error"].as_str().is_some_and(|error| error.ends_with(text)), "{launched}");
        assert_eq!(components(&mut agent), json!(["agent"]));
    }
}

#[test]
fn the_death_of_who_was_started_with_a_connection_is_seen_though_its_child_holds_it() {
    let (_folder, mut agent, binary) = hidden_agent();
    let launched =
        agent.must(&launch("procmond", Some(STRANGER), json!({"id": "procmond", "heir": true}), &binary));
    assert_eq!(components(&mut agent), json!(["agent", "procmond"]));
    kill(&launched["pid"]);
    wait_until("its session ends", || components(&mut agent) == json!(["agent"]));
    let heir = &launched["said"]["heir"];
    let held = std::fs::read_link(format!("/proc/{heir}/fd/0")).expect("the heir lives");
    kill(heir);
    assert!(held.to_string_lossy().starts_with("socket:"), "and has the connection: {held:?}");
}

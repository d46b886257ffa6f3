//! Hosts that lack a facility altogether, or have little of it.

use std::time::Duration;

use serde_json::json;

use crate::exchange::{Stage, Told, exchange, with_data_thread};
use crate::strace::Strace;
use crate::support::look::{Held, descriptors, is_alive, limit_descriptors};
use crate::support::{Role, WITH_LITTLE_MEMORY, wait_until, wait_within};

/// Descriptors that a process may have where they are short.
const DESCRIPTORS_MAX: u64 = 64;

/// A call that does not work.
struct Missing {
    call: &'static str,
    segments_only: bool,
    errno: &'static str,
}

impl Missing {
    /// What an exchange comes to where the publisher's host lacks it, and where the agent's does. Others must notice nothing, and
    /// the next exchange of whoever has it must work.
    fn told(&self) -> [Told; 2] {
        let Self { call, segments_only, errno } = *self;
        let stage = Stage::new();
        let mut agent = stage.agent(false);
        let [of_publisher, of_agent] = [true, false].map(|in_publisher| {
            let mut detector = stage.client("detector", false);
            let mut procmond = stage.client("procmond", true);
            let victim = if in_publisher { procmond.pid() } else { agent.pid() };
            let strace = Strace::failing(&stage.folder, victim, call, segments_only, errno, None);
            let mut told = Told::default();
            if told.begin("procmond", &mut procmond) {
                told.0.extend(exchange(&mut agent, &mut procmond, &mut detector).0);
            }
            assert!(strace.detach().injected() > 0, "{call} was made");
            assert!(procmond.end().success() && detector.end().success());
            let [mut detector, mut procmond] = ["detector", "procmond"].map(|id| stage.client(id, false));
            assert_eq!(exchange(&mut agent, &mut procmond, &mut detector), Told::default());
            assert!(procmond.end().success() && detector.end().success());
            stage.nobody_panicked();
            told
        });
        [of_publisher, of_agent]
    }
}

#[test]
fn without_memfd_create_events_go_over_the_broker() {
    let missing = Missing { call: "memfd_create", segments_only: false, errno: "ENOSYS" };
    assert_eq!(missing.told(), [Told::default(), Told::default()]);
}

#[test]
fn without_seals_events_of_a_publisher_go_over_the_broker_if_that_sees_any() {
    let missing = Missing { call: "fcntl", segments_only: true, errno: "EINVAL" };
    let [of_publisher, of_agent] = missing.told();
    assert_eq!(of_publisher, Told::default());
    // Its broker can't see any seals either, so who comes first with a segment is taken for one that has none: as it declares, as it
    // subscribes, or as soon as it has.
    let [only] = of_agent.0.as_slice() else { panic!("{of_agent:?}") };
    let told = ["procmond: declare: ", "detector: subscribe: ", "detector: "]
        .map(|who| format!("{who}the broker ended the session"));
    assert!(told.iter().any(|told| only.starts_with(told)), "{only}");
}

#[test]
fn without_so_peercred_a_client_is_told_that_there_is_no_session() {
    let missing = Missing { call: "getsockopt", segments_only: false, errno: "ENOPROTOOPT" };
    let [of_publisher, of_agent] = missing.told();
    let [only] = of_publisher.0.as_slice() else { panic!("{of_publisher:?}") };
    assert!(only.contains("no broker can be reached"), "{only}");
    assert!(only.ends_with("Protocol not available (os error 92)"), "{only}");
    let [only] = of_agent.0.as_slice() else { panic!("{of_agent:?}") };
    assert!(only.ends_with("the connection is closed"), "{only}");
}

#[test]
fn without_pidfds_the_end_of_a_client_is_seen_by_its_socket_and_the_log_says_so() {
    let stage = Stage::new();
    let mut agent = stage.agent(false);
    let strace = Strace::without_pidfds(&stage.folder, agent.pid());
    let mut detector = stage.client("detector", false);
    let mut procmond = stage.client("procmond", false);
    assert_eq!(exchange(&mut agent, &mut procmond, &mut detector), Told::default());
    let logged = stage.logged("agent");
    let what = "the end of a client's process can't be watched, only that of its socket";
    let of_procmond = |line: &str| {
        line.contains(what)
            && line.contains(&format!("pid={} ", procmond.pid()))
            && line.contains("Function not implemented")
    };
    assert!(logged.lines().any(of_procmond), "{logged}");
    procmond.kill();
    wait_until("the broker noticed", || {
        agent.must(&json!({"do": "components"})) == json!({"components": ["agent", "detector"]})
    });
    let mut procmond = stage.client("procmond", false);
    assert_eq!(exchange(&mut agent, &mut procmond, &mut detector), Told::default());
    assert!(strace.detach().injected() >= 6);
    stage.nobody_panicked();
}

#[test]
fn without_peer_pidfds_the_process_that_has_the_number_is_watched() {
    let stage = Stage::new();
    let agent = stage.agent(false);
    let strace = Strace::without_peer_pidfds(&stage.folder, agent.pid());
    let before = descriptors(agent.pid());
    let mut orphaner = Role::orphaner(&stage.folder);
    let heir = orphaner.leave_connection();
    wait_until("it is accepted", || descriptors(agent.pid()) > before);
    assert!(is_alive(heir));
    assert!(orphaner.end().success());
    // Less than a process has that lives and says nothing.
    wait_within(Duration::from_secs(4), "the heir is hung up on", || !is_alive(heir));
    assert_eq!(strace.detach().injected(), 1);
    stage.nobody_panicked();
}

#[test]
fn an_agent_with_few_descriptors_keeps_newcomers_out_and_serves_the_rest() {
    let stage = Stage::new();
    let mut agent = stage.agent(false);
    let held = with_data_thread(Held::by(&agent));
    limit_descriptors(agent.pid(), DESCRIPTORS_MAX);
    let options = || json!({"held": true});
    let mut crowd: Vec<Role> =
        (0..40).map(|number| stage.client_with(&format!("tool{number}"), options())).collect();
    for client in &mut crowd {
        client.tell(&json!({"do": "begin"}));
    }
    let hellos: Vec<_> = crowd.iter().map(Role::hello).collect();
    let (let_in, kept_out): (Vec<_>, Vec<_>) = hellos.iter().partition(|hello| **hello == json!({}));
    assert!(let_in.len() > 10, "{hellos:?}");
    assert!(!kept_out.is_empty(), "{hellos:?}");
    for hello in kept_out {
        let kind = hello["kind"].as_str().expect("an error has a kind");
        assert!(["Timeout", "Protocol"].contains(&kind), "{hello}");
    }
    assert!(stage.logged("agent").contains("could not be accepted"), "{}", stage.logged("agent"));
    assert!(stage.logged("agent").contains("Too many open files"), "{}", stage.logged("agent"));
    drop(crowd);
    let (mut procmond, mut detector) = (stage.client("procmond", false), stage.client("detector", false));
    assert_eq!(exchange(&mut agent, &mut procmond, &mut detector), Told::default());
    drop((procmond, detector));
    held.again_by(&agent);
    stage.nobody_panicked();
}

#[test]
fn a_publisher_with_few_descriptors_goes_over_the_broker_or_is_told_and_its_subscribers_go_on() {
    let stage = Stage::new();
    let mut agent = stage.agent(false);
    let (mut detector, mut exporter) = (stage.client("detector", false), stage.client("exporter", false));
    for can_be_handed_any in [false, true] {
        let mut procmond = stage.client("procmond", false);
        let held = Held::by(&procmond);
        // Or can't have all of what it is asked to make: below 3 all are taken, whatever was closed meanwhile.
        limit_descriptors(procmond.pid(), if can_be_handed_any { held.descriptors as u64 + 2 } else { 3 });
        let subscribe = json!({"do": "subscribe", "patterns": ["events.process.#"]});
        for subscriber in [&mut agent, &mut detector, &mut exporter] {
            subscriber.must(&subscribe);
        }
        let declared = procmond.call(&json!({"do": "declare", "topic": "events.process.batch"}));
        if can_be_handed_any {
            assert!(declared.get("error").is_none(), "{declared}");
            procmond.must(&json!({"do": "batch", "from": 0, "count": 100}));
            for subscriber in [&mut agent, &mut detector, &mut exporter] {
                let report = subscriber.must(&json!({"do": "await", "total": 100}));
                assert_eq!((&report["received"], &report["lost"]), (&json!(100), &json!(0)), "{report}");
            }
        } else {
            let why = declared["error"].as_str().expect("three rings need more");
            assert!(why.ends_with("Too many open files (os error 24)"), "{why}");
            // All but the connection to the broker.
            Held { descriptors: held.descriptors - 1, ..held }.again_by(&procmond);
        }
        for subscriber in [&mut agent, &mut detector, &mut exporter] {
            subscriber.must(&json!({"do": "unsubscribe"}));
        }
    }
    let mut procmond = stage.client("procmond", false);
    assert_eq!(exchange(&mut agent, &mut procmond, &mut detector), Told::default());
    stage.nobody_panicked();
}

#[test]
fn a_dev_shm_of_one_mebibyte_changes_nothing() {
    let stage = Stage::new();
    let within = json!(WITH_LITTLE_MEMORY);
    let mut agent = stage.agent_with(json!({"within": within}));
    let mut detector = stage.client_with("detector", json!({"within": within}));
    let mut procmond = stage.client_with("procmond", json!({"within": within}));
    for role in [&agent, &detector, &procmond] {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", role.pid())).expect("it lives");
        let small = |line: &str| line.contains(" /dev/shm ") && line.contains("size=1024k");
        assert!(mounts.lines().any(small), "{mounts}");
    }
    assert_eq!(exchange(&mut agent, &mut procmond, &mut detector), Told::default());
    // More than would fit there waits in one ring.
    detector.must(&json!({"do": "subscribe", "patterns": ["events.process.#"]}));
    procmond.must(&json!({"do": "declare", "topic": "events.process.batch"}));
    detector.stop();
    let delivery = procmond.must(&json!({"do": "batch", "from": 0, "count": 10_000}));
    assert_eq!((&delivery["reached"], &delivery["dropped"]), (&json!(10_000), &json!(0)), "{delivery}");
    detector.go_on();
    let report = detector.must(&json!({"do": "await", "total": 10_000}));
    assert_eq!((&report["received"], &report["lost"]), (&json!(10_000), &json!(0)), "{report}");
    agent.must(&json!({"do": "components"}));
    stage.nobody_panicked();
}

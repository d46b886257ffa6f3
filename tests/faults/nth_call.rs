//! Each call of an exchange fails once, at each place, in each way: the application is told, or notices nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::json;

use crate::calls::{CALLS, Call};
use crate::exchange::{Stage, Told, exchange, with_connection, with_data_thread};
use crate::strace::{Seen, Strace};
use crate::support::chance::Chance;
use crate::support::look::{self, Held};
use crate::support::{Role, wait_until};

/// `full`: each place of each call; else one of them, by chance.
const EXTENT: &str = "EVENTBUS_FAULTS";

/// What is not to be told of a host's failure: that a deadline has passed, since it can be told at once; and that somebody else
/// did wrong.
const UNTRUE: [&str; 3] = ["in time", "within the deadline", "the protocol was not followed"];

/// One failure.
#[derive(Clone, Copy)]
struct Fault {
    call: Call,
    errno: &'static str,
    /// At which time in a thread.
    nth: u64,
}

impl Fault {
    fn strike(self, stage: &Stage, victim: &Role) -> Strace {
        let Self { call, errno, nth } = self;
        Strace::failing(&stage.folder, victim.pid(), call.name, call.segments_only, errno, Some(nth))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at time {}", self.call.name, self.errno, self.nth)
    }
}

/// Says which failure it was, if a test ends with it.
struct Named(Fault);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("with {:?}", self.0);
        }
    }
}

/// All failures that the calls of an undisturbed exchange give room for. `counted` has it take place twice, seen by the given strace.
fn faults(mut counted: impl FnMut(&dyn Fn(&Stage, &Role) -> Strace) -> Seen) -> Vec<Fault> {
    let mut chance = Chance::new();
    let full = std::env::var(EXTENT).is_ok_and(|extent| extent == "full");
    let mut faults = Vec::new();
    for segments_only in [false, true] {
        let calls: Vec<Call> =
            CALLS.iter().filter(|call| call.segments_only == segments_only).copied().collect();
        let names: Vec<&str> = calls.iter().map(|call| call.name).collect();
        let seen =
            counted(&|stage, victim| Strace::counting(&stage.folder, victim.pid(), &names, segments_only));
        let counts = seen.most_by_one_thread();
        println!("{counts:?}");
        for call in calls {
            let count = counts.get(call.name).copied().unwrap_or(0);
            for errno in call.errnos {
                let places = match count {
                    0 => 0..0,
                    _ if full => 1..count + 1,
                    _ => {
                        let nth = 1 + chance.below(count);
                        nth..nth + 1
                    }
                };
                faults.extend(places.map(|nth| Fault { call, errno, nth }));
            }
        }
    }
    faults
}

/// What came of all failures together.
#[derive(Debug, Default)]
struct Outcomes {
    exchanges: usize,
    struck: usize,
    told: BTreeMap<String, usize>,
    complaints: Vec<String>,
}

impl Outcomes {
    fn add(&mut self, fault: Fault, injected: usize, told: &Told) {
        let Fault { call, errno, .. } = fault;
        if errno == "EINTR" && *told != Told::default() {
            self.complaints.push(format!("{fault:?}: what a signal interrupts is done again, but {told:?}"));
        }
        if let Some(told) = told.0.iter().find(|told| UNTRUE.iter().any(|words| told.contains(words))) {
            self.complaints.push(format!("{fault:?}: that is not why: {told}"));
        }
        self.exchanges += 1;
        self.struck += usize::from(injected > 0);
        for told in &told.0 {
            *self.told.entry(format!("{} {errno}: {told}", call.name)).or_default() += 1;
        }
    }

    fn end(&self, victim: &str) {
        println!("{victim}: {} exchanges, in {} of them a call failed", self.exchanges, self.struck);
        for (told, times) in &self.told {
            println!("{times:5} {told}");
        }
        // How often somebody is woken, say, differs from time to time.
        assert!(self.struck * 2 > self.exchanges, "most failures took place");
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
    }
}

/// Whose calls fail, and who else takes part beside the agent.
struct Cast {
    victim: &'static str,
    other: &'static str,
    /// Has the agent, the victim and the other take part in an exchange.
    exchange: fn(&mut Role, &mut Role, &mut Role) -> Told,
}

/// An agent and a client that outlive each failure of another client, and what they held before it.
struct Survivors {
    cast: Cast,
    stage: Stage,
    agent: Role,
    other: Role,
    held: [Held; 2],
}

impl Survivors {
    fn new(cast: Cast) -> Self {
        let stage = Stage::new();
        let agent = stage.agent(false);
        // Before others come, so that nothing of theirs is counted.
        let agent_held = with_data_thread(Held::by(&agent));
        let other = stage.client(cast.other, false);
        let held = Held::by(&other);
        let other_held = if cast.other == "detector" { with_data_thread(held) } else { held };
        let mut survivors =
            Self { cast, stage, agent, other, held: [with_connection(agent_held), other_held] };
        survivors.undisturbed();
        survivors.assert_unharmed();
        survivors
    }

    /// One exchange with a fresh victim, seen by this strace.
    fn exchange(&mut self, strike: impl FnOnce(&Stage, &Role) -> Strace) -> (Seen, Told) {
        let mut client = self.stage.client(self.cast.victim, true);
        let strace = strike(&self.stage, &client);
        let told = self.take_part(&mut client);
        let seen = strace.detach();
        wait_until("the victim has unmapped its rings", || look::segments(client.pid()) == 0);
        assert_ends(client);
        (seen, told)
    }

    fn undisturbed(&mut self) {
        let mut client = self.stage.client(self.cast.victim, true);
        assert_eq!(self.take_part(&mut client), Told::default());
        assert_ends(client);
    }

    fn take_part(&mut self, client: &mut Role) -> Told {
        let Cast { victim, exchange, .. } = self.cast;
        let mut told = Told::default();
        if told.begin(victim, client) {
            told.0.extend(exchange(&mut self.agent, client, &mut self.other).0);
        }
        told
    }

    fn assert_unharmed(&self) {
        self.held[0].again_by(&self.agent);
        self.held[1].again_by(&self.other);
        self.stage.nobody_panicked();
        assert_eq!(look::named_segments(&[self.agent.pid(), self.other.pid()]), Vec::<String>::new());
    }
}

/// Whatever happened to it, a process comes to its own end.
fn assert_ends(role: Role) {
    let status = role.end();
    assert!(status.success(), "{status}");
}

/// Each call of a client fails.
fn each_call_fails(cast: Cast) {
    let victim = cast.victim;
    let mut survivors = Survivors::new(cast);
    let faults = faults(|counting| {
        let (seen, told) = survivors.exchange(counting);
        assert_eq!(told, Told::default());
        seen
    });
    let mut outcomes = Outcomes::default();
    for fault in faults {
        let _named = Named(fault);
        let (seen, told) = survivors.exchange(|stage, victim| fault.strike(stage, victim));
        outcomes.add(fault, seen.injected(), &told);
        assert!(!told.0.iter().any(|told| told.contains("the broker is gone")), "it is not: {told:?}");
        let by_others = |told: &&String| !told.starts_with(victim) && !told.contains("missed");
        assert_eq!(told.0.iter().find(by_others), None, "others notice nothing");
        survivors.assert_unharmed();
        survivors.undisturbed();
    }
    outcomes.end(victim);
}

#[test]
fn each_call_of_a_publisher_may_fail() {
    each_call_fails(Cast {
        victim: "procmond",
        other: "detector",
        exchange: |agent, victim, other| exchange(agent, victim, other),
    });
}

#[test]
fn each_call_of_a_subscriber_may_fail() {
    each_call_fails(Cast {
        victim: "detector",
        other: "procmond",
        exchange: |agent, victim, other| exchange(agent, other, victim),
    });
}

/// A broker's start, and what it holds to serve others.
#[test]
fn each_call_of_a_starting_agent_may_fail() {
    let stage = Stage::new();
    let begin = |strike: &dyn Fn(&Stage, &Role) -> Strace| {
        let mut agent = stage.agent(true);
        let strace = strike(&stage, &agent);
        let mut told = Told::default();
        let begun = told.begin("agent", &mut agent);
        let seen = strace.detach();
        if begun {
            told.0.extend(serve(&stage, &mut agent).0);
        }
        assert_ends(agent);
        (seen, told)
    };
    let faults = faults(|counting| begin(counting).0);
    let mut outcomes = Outcomes::default();
    for fault in faults {
        let _named = Named(fault);
        let (seen, told) = begin(&|stage, agent| fault.strike(stage, agent));
        outcomes.add(fault, seen.injected(), &told);
        stage.nobody_panicked();
        let left = stage.left();
        assert!(left.is_empty() || left == ["bus.sock.lock"], "a failed start leaves {left:?}");
        let mut agent = stage.agent(false);
        assert_eq!(serve(&stage, &mut agent), Told::default(), "the next one starts");
        assert_ends(agent);
        assert_eq!(stage.left(), Vec::<String>::new());
    }
    outcomes.end("starting agent");
}

/// An exchange of fresh clients.
fn serve(stage: &Stage, agent: &mut Role) -> Told {
    let mut publisher = stage.client("procmond", false);
    let mut subscriber = stage.client("detector", false);
    let told = exchange(agent, &mut publisher, &mut subscriber);
    assert_ends(publisher);
    assert_ends(subscriber);
    told
}

/// An agent while clients come, exchange events with it and go.
#[test]
fn each_call_of_a_serving_agent_may_fail() {
    let stage = Stage::new();
    let mut agent = stage.agent(false);
    let held = with_data_thread(Held::by(&agent));
    assert_eq!(serve(&stage, &mut agent), Told::default());
    let faults = faults(|counting| {
        let strace = counting(&stage, &agent);
        assert_eq!(visit(&stage, &mut agent), Told::default());
        strace.detach()
    });
    let mut outcomes = Outcomes::default();
    for fault in faults {
        let _named = Named(fault);
        let strace = fault.strike(&stage, &agent);
        let told = visit(&stage, &mut agent);
        outcomes.add(fault, strace.detach().injected(), &told);
        held.again_by(&agent);
        stage.nobody_panicked();
        assert_eq!(serve(&stage, &mut agent), Told::default(), "it goes on, for itself and others");
    }
    outcomes.end("serving agent");
}

/// A broker's clean end.
#[test]
fn each_call_of_an_ending_agent_may_fail() {
    let stage = Stage::new();
    let end = |strike: &dyn Fn(&Stage, &Role) -> Strace| {
        let mut agent = stage.agent(false);
        let strace = strike(&stage, &agent);
        agent.must(&json!({"do": "shutdown"}));
        let seen = strace.detach();
        assert_ends(agent);
        seen
    };
    let faults = faults(end);
    let mut outcomes = Outcomes::default();
    for fault in faults {
        let _named = Named(fault);
        let seen = end(&|stage, agent| fault.strike(stage, agent));
        outcomes.add(fault, seen.injected(), &Told::default());
        stage.nobody_panicked();
        let mut agent = stage.agent(false);
        assert_eq!(serve(&stage, &mut agent), Told::default(), "the next one starts");
        assert_ends(agent);
        assert_eq!(stage.left(), Vec::<String>::new());
    }
    outcomes.end("ending agent");
}

/// Clients connect, and take part in an exchange if they can.
fn visit(stage: &Stage, agent: &mut Role) -> Told {
    let mut told = Told::default();
    let mut publisher = stage.client("procmond", true);
    let mut subscriber = stage.client("detector", true);
    if told.begin("procmond", &mut publisher) & told.begin("detector", &mut subscriber) {
        told.0.extend(exchange(agent, &mut publisher, &mut subscriber).0);
    }
    assert_ends(publisher);
    assert_ends(subscriber);
    told
}

//! The processes of a schedule, what each was told to do, and what follows from that for each subscription.

use std::collections::BTreeMap;
use std::time::Duration;

use daemoneye_eventbus::{Topic, TopicPattern};
use serde_json::{Value, json};

use super::account::{Entry, Span, Verdict, entries, judge};
use crate::support::chance::Chance;
use crate::support::{DEADLINE, Folder, Role, wait_until};

/// Beyond what any stop takes on a loaded machine: nobody is to lose its session.
const ROUTE_DEADLINE_MS: u64 = 60_000;

/// Who publishes what. The agent is the first, and has all topics.
const SEATS: [(&str, &[&str]); 5] = [
    ("agent", &["events.process.batch", "events.network.event"]),
    ("procmond", &["events.process.batch", "events.process.lifecycle", "events.process.metadata"]),
    ("netmond", &["events.network.event", "events.network.flow"]),
    ("detector", &[]),
    ("exporter", &[]),
];
pub(super) const AGENT: usize = 0;
pub(super) const DETECTOR: usize = 3;
pub(super) const PUBLISHERS: std::ops::Range<usize> = 0..3;
pub(super) const SUBSCRIBERS: [usize; 4] = [AGENT, 1, 3, 4];

/// What a world is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) ring_bytes: u64,
    /// Of the agent, procmond, netmond, the detector and the exporter.
    pub(super) queue_bytes: [u64; 5],
}

pub(super) const PLANS: [Plan; 3] = [
    Plan { ring_bytes: 1 << 16, queue_bytes: [100_000, 1 << 20, 1 << 20, 20_000, 16 << 20] },
    Plan { ring_bytes: 1 << 16, queue_bytes: [16 << 20; 5] },
    Plan { ring_bytes: 1 << 20, queue_bytes: [70_000, 1, 70_000, 200_000, 16 << 20] },
];

/// One component, in one process after the other.
#[derive(Debug)]
pub(super) struct Seat {
    id: &'static str,
    options: Value,
    role: Role,
    pub(super) stopped: bool,
    pub(super) busy: Option<Burst>,
    pub(super) watched: Vec<Watched>,
}

/// Calls of a publisher that are under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    stream: usize,
    end: u64,
    size: u64,
    /// Its first call waits for subscribers: the Publisher has to be told of the topic.
    waits: bool,
}

/// What one Publisher publishes on one topic, numbered from 0.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) seat: usize,
    topic: Topic,
    /// The Publisher's name in its role; `None`: the one that all threads of the client share.
    pub(super) handle: Option<String>,
    pub(super) open: bool,
    published: u64,
    /// More may have been, by a call that was cut.
    cut: u64,
}

/// A subscription whose account is kept.
#[derive(Debug)]
pub(super) struct Watched {
    name: String,
    patterns: Vec<TopicPattern>,
    pub(super) halted: bool,
    /// The streams that were there when it was made, and where it may have joined them.
    joined: BTreeMap<usize, (u64, u64)>,
    /// The first stream that came later.
    first_new: usize,
}

#[derive(Debug)]
pub(super) struct World {
    folder: Folder,
    pub(super) seats: Vec<Seat>,
    pub(super) streams: Vec<Stream>,
    names: u64,
    /// What was done, to be read when it went wrong.
    pub(super) steps: Vec<String>,
    pub(super) sums: Sums,
}

/// What came of the subscriptions that were judged, in events, and how many processes were killed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sums {
    pub(super) accounts: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) killed: u64,
}

impl Sums {
    pub(super) fn add(&mut self, other: Self) {
        self.accounts += other.accounts;
        self.received += other.received;
        self.lost += other.lost;
        self.killed += other.killed;
    }

    fn count(&mut self, entries: &[Entry]) {
        self.accounts += 1;
        for entry in entries {
            match entry {
                Entry::Run { count, .. } => self.received += count,
                Entry::Lost(events) => self.lost += events,
            }
        }
    }
}

impl Watched {
    fn is_for(&self, stream: &Stream) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(&stream.topic))
    }
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let folder = Folder::new();
        let mut seats: Vec<Seat> = Vec::new();
        for ((id, _), queue_bytes) in SEATS.into_iter().zip(plan.queue_bytes) {
            let mut options = json!({"queue_bytes": queue_bytes});
            let role = if id == "agent" {
                options["ring_bytes"] = plan.ring_bytes.into();
                options["route_deadline_ms"] = ROUTE_DEADLINE_MS.into();
                Role::agent(&folder, options.clone()).up()
            } else {
                Role::client_with(&folder, id, options.clone()).up()
            };
            seats.push(Seat { id, options, role, stopped: false, busy: None, watched: Vec::new() });
        }
        Self { folder, seats, streams: Vec::new(), names: 0, steps: Vec::new(), sums: Sums::default() }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    pub(super) fn step(&mut self, what: String) {
        self.steps.push(what);
    }

    // Processes.

    pub(super) fn stop(&mut self, seat: usize) {
        self.step(format!("stop {}", self.seats[seat].id));
        self.seats[seat].role.stop();
        self.seats[seat].stopped = true;
    }

    pub(super) fn go_on(&mut self, seat: usize) {
        if self.seats[seat].stopped {
            self.step(format!("{} goes on", self.seats[seat].id));
            self.seats[seat].role.go_on();
            self.seats[seat].stopped = false;
        }
    }

    /// Whatever needs the control plane may need all of them.
    pub(super) fn all_go_on(&mut self) {
        for seat in 0..self.seats.len() {
            self.go_on(seat);
        }
    }

    /// Kills whoever has this seat, and has another take it under the same name.
    pub(super) fn kill(&mut self, seat: usize) {
        self.step(format!("kill {}: {:?}", self.seats[seat].id, self.seats[seat].busy));
        self.seats[seat].role.kill();
        self.sums.killed += 1;
        if let Some(burst) = self.seats[seat].busy.take() {
            let next = self.progress(burst.stream);
            let stream = &mut self.streams[burst.stream];
            stream.published = next;
            // The call that was cut counts on neither side.
            stream.cut = burst.size.min(burst.end - next);
        }
        self.streams.iter_mut().filter(|stream| stream.seat == seat).for_each(|stream| stream.open = false);
        self.seats[seat].watched.clear();
        self.seats[seat].stopped = false;
        self.go_on(AGENT);
        let Self { folder, seats, .. } = self;
        let Seat { id, options, role, .. } = &mut seats[seat];
        wait_until("its name is free again", || {
            *role = Role::client_with(folder, id, options.clone());
            role.hello() == json!({})
        });
    }

    /// Waits until a role has done what it was told.
    pub(super) fn idle(&mut self, seat: usize) {
        let Some(burst) = self.seats[seat].busy else { return };
        if burst.waits {
            self.all_go_on();
        }
        self.go_on(seat);
        let answer = self.seats[seat].role.answer(DEADLINE);
        assert_eq!(answer, json!({"next": burst.end}), "{}", self.seats[seat].id);
        self.streams[burst.stream].published = burst.end;
        self.seats[seat].busy = None;
    }

    // Publishers.

    /// Has a role make a Publisher, whose answer is still to come.
    pub(super) fn tell_declare(&mut self, seat: usize, chance: &mut Chance) {
        let name = self.name();
        let topic = topic_of(seat, chance);
        self.step(format!("{} declares {topic}, stream {}", self.seats[seat].id, self.streams.len()));
        self.seats[seat].role.tell(&json!({"do": "declare", "name": name, "topic": topic}));
        self.add_stream(seat, topic, Some(name));
    }

    fn add_stream(&mut self, seat: usize, topic: &str, handle: Option<String>) -> usize {
        let topic = Topic::new(topic).expect("a topic");
        self.streams.push(Stream { seat, topic, handle, open: true, published: 0, cut: 0 });
        self.streams.len() - 1
    }

    pub(super) fn close(&mut self, stream: usize) {
        self.step(format!("close stream {stream}"));
        self.go_on(self.streams[stream].seat);
        let Stream { seat, handle, open, .. } = &mut self.streams[stream];
        *open = false;
        self.seats[*seat].role.must(&json!({"do": "close", "name": handle}));
    }

    pub(super) fn open_handles(&self, seat: usize) -> Vec<usize> {
        let own = |stream: &Stream| stream.seat == seat && stream.open && stream.handle.is_some();
        (0..self.streams.len()).filter(|&at| own(&self.streams[at])).collect()
    }

    /// The stream of the Publisher that the client shares among its threads.
    pub(super) fn shared_stream(&mut self, seat: usize, chance: &mut Chance) -> usize {
        let topic = topic_of(seat, chance);
        let is_it = |stream: &Stream| {
            stream.seat == seat && stream.open && stream.handle.is_none() && stream.topic.as_str() == topic
        };
        let known = self.streams.iter().position(is_it);
        known.unwrap_or_else(|| self.add_stream(seat, topic, None))
    }

    /// Has a stream's publisher begin to publish.
    pub(super) fn burst(&mut self, stream: usize, calls: u64, size: u64, bytes: u64, rest_ms: u64) {
        let Stream { seat, topic, handle, published: from, .. } = &self.streams[stream];
        let seat = *seat;
        let size = if handle.is_some() { size } else { 1 };
        let tag = format!("{stream}|{}|{topic}", self.seats[seat].id);
        let waits = handle.is_none() && *from == 0;
        let burst = Burst { stream, end: from + calls * size, size, waits };
        std::fs::write(self.progress_file(stream), from.to_le_bytes()).expect("there is room");
        let command = json!({
            "do": "burst", "name": handle, "topic": topic.as_str(), "tag": tag, "from": from, "calls": calls,
            "size": size, "bytes": bytes, "rest_ms": rest_ms, "progress": self.progress_file(stream),
        });
        self.step(format!(
            "{tag}: {calls} calls of {size} from {from}, {bytes} bytes more, rests {rest_ms} ms"
        ));
        self.seats[seat].role.tell(&command);
        self.seats[seat].busy = Some(burst);
    }

    /// Waits until a stream that is being published has come to this number.
    pub(super) fn has_come_to(&self, stream: usize, number: u64) {
        wait_until("it publishes", || self.progress(stream) >= number);
    }

    fn progress_file(&self, stream: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("progress-{stream}"))
    }

    /// The number that a stream's publisher has come to.
    fn progress(&self, stream: usize) -> u64 {
        let bytes = std::fs::read(self.progress_file(stream)).expect("it was written before the first call");
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    }

    /// What of a stream is published for certain, what may be by now, and what may be before it rests.
    fn standing(&self, stream: usize) -> (u64, u64, u64) {
        let state = &self.streams[stream];
        match self.seats[state.seat].busy {
            Some(burst) if burst.stream == stream => {
                let next = self.progress(stream);
                (next, burst.end.min(next + burst.size), burst.end)
            }
            _ => (state.published, state.published + state.cut, state.published + state.cut),
        }
    }

    // Subscriptions.

    /// Has roles subscribe, all at once, while one publisher at most publishes to them; and one give another subscription up
    /// just before that. `meanwhile` happens before they answer.
    pub(super) fn subscribe(
        &mut self,
        wishes: &[(usize, &[&str])],
        given_up: Option<(usize, usize)>,
        meanwhile: impl FnOnce(&Self),
    ) {
        let mut asked = Vec::new();
        for (seat, patterns) in wishes {
            let patterns = patterns.iter().map(|text| TopicPattern::new(text).expect("a pattern")).collect();
            let (name, first_new) = (self.name(), self.streams.len());
            asked
                .push((*seat, Watched { name, patterns, halted: false, joined: BTreeMap::new(), first_new }));
        }
        let writing = PUBLISHERS.filter(|&seat| {
            let burst = self.seats[seat].busy;
            burst.is_some_and(|burst| {
                asked.iter().any(|(_, watched)| watched.is_for(&self.streams[burst.stream]))
            })
        });
        for seat in writing.skip(1).collect::<Vec<_>>() {
            self.idle(seat);
        }
        for (_, watched) in &mut asked {
            for stream in (0..self.streams.len()).filter(|&at| self.streams[at].open) {
                if watched.is_for(&self.streams[stream]) {
                    watched.joined.insert(stream, (self.standing(stream).0, 0));
                }
            }
        }
        let given_up = given_up.map(|(seat, index)| (seat, self.tell_forget(seat, index)));
        for ((seat, watched), (_, patterns)) in asked.iter().zip(wishes) {
            self.step(format!("{} subscribes to {patterns:?} as {}", self.seats[*seat].id, watched.name));
            let command =
                json!({"do": "subscribe", "witness": true, "name": watched.name, "patterns": patterns});
            self.seats[*seat].role.tell(&command);
        }
        meanwhile(self);
        self.all_go_on();
        if let Some((seat, watched)) = given_up {
            self.forgotten(seat, &watched);
        }
        for (seat, mut watched) in asked {
            let answer = self.seats[seat].role.answer(DEADLINE);
            assert_eq!(answer["missed"], json!([]), "{answer}");
            for (stream, (_, latest)) in &mut watched.joined {
                *latest = self.standing(*stream).1;
            }
            self.seats[seat].watched.push(watched);
        }
    }

    pub(super) fn answers(&mut self, seat: usize) {
        let answer = self.seats[seat].role.answer(DEADLINE);
        assert!(answer.get("error").is_none(), "{answer}");
    }

    pub(super) fn set_halted(&mut self, seat: usize, index: usize, halted: bool) {
        let name = self.seats[seat].watched[index].name.clone();
        self.step(format!("{name} is {}", if halted { "halted" } else { "read" }));
        self.seats[seat].watched[index].halted = halted;
        self.seats[seat].role.must(&json!({"do": if halted { "halt" } else { "resume" }, "name": name}));
    }

    /// Ends a subscription in the midst of all; what it has seen until then must be right.
    pub(super) fn forget(&mut self, seat: usize, index: usize) {
        let watched = self.tell_forget(seat, index);
        self.forgotten(seat, &watched);
    }

    fn tell_forget(&mut self, seat: usize, index: usize) -> Watched {
        let watched = self.seats[seat].watched.swap_remove(index);
        self.step(format!("forget {}", watched.name));
        self.seats[seat].role.tell(&json!({"do": "forget", "name": watched.name}));
        watched
    }

    fn forgotten(&mut self, seat: usize, watched: &Watched) {
        let report = self.seats[seat].role.answer(DEADLINE);
        let verdict = self.verdict(watched, &report, false);
        assert_eq!(verdict, Verdict::Exact, "{watched:?}: {report}");
        self.sums.count(&entries(&report));
    }

    /// Waits until the account of a subscription is exact. All publishers that it hears rest.
    pub(super) fn settle(&mut self, seat: usize, index: usize) {
        let watched = &self.seats[seat].watched[index];
        let command = json!({"do": "history", "name": watched.name});
        let start = std::time::Instant::now();
        loop {
            let report = self.seats[seat].role.must(&command);
            let watched = &self.seats[seat].watched[index];
            match self.verdict(watched, &report, true) {
                Verdict::Exact => return,
                Verdict::Early(_) if start.elapsed() < DEADLINE / 2 => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                fault => panic!("{fault:?}\n{watched:?}\n{report}"),
            }
        }
    }

    fn verdict(&self, watched: &Watched, report: &Value, whole: bool) -> Verdict {
        if report["errors"] != json!([]) || report["ended"] != false {
            return Verdict::Wrong(format!("it is interrupted: {} {}", report["errors"], report["ended"]));
        }
        let span = |stream: usize, (first, first_latest): (u64, u64)| {
            let (published, _, begun) = self.standing(stream);
            (stream as u64, Span { first, first_latest, published, begun })
        };
        let joined = watched.joined.iter().map(|(&stream, &first)| span(stream, first));
        let later = (watched.first_new..self.streams.len())
            .filter(|&stream| watched.is_for(&self.streams[stream]))
            .map(|stream| span(stream, (0, 0)));
        judge(&entries(report), &joined.chain(later).collect(), whole)
    }

    /// No process has accused another.
    pub(super) fn nobody_is_accused(&mut self) {
        let list = self.seats[AGENT].role.must(&json!({"do": "poisonings"}));
        assert_eq!(list, json!({"poisonings": []}));
    }
}

fn topic_of(seat: usize, chance: &mut Chance) -> &'static str {
    let topics = SEATS[seat].1;
    topics[chance.below(topics.len() as u64) as usize]
}

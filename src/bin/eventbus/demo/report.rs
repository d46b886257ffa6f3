//! What an operator, or a script, gets to read.

use std::time::Duration;

use serde_json::{Value, json};

use super::message::{Published, Received, Seen};
use crate::printable::printable;

/// Characters of a process's name, and of its command line, in a line.
const NAME_COLUMNS: usize = 20;
const COMMAND_LINE_COLUMNS: usize = 90;

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) rate: Option<u64>,
    pub(crate) interrupted: bool,
    pub(crate) collector_pid: u32,
    pub(crate) published: Published,
    pub(crate) subscribers: [Subscriber; 2],
}

#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
    pub(crate) received: Received,
}

impl Subscriber {
    fn accounts_for(&self, published: u64) -> bool {
        self.received.events.saturating_add(self.received.lost) == published
    }
}

impl Outcome {
    pub(crate) fn accounted(&self) -> bool {
        self.subscribers.iter().all(|subscriber| subscriber.accounts_for(self.published.events))
    }

    /// How events came. There is no other way than rings so far; without one there is none.
    fn transport(&self) -> &'static str {
        let ring = self.subscribers.iter().all(|subscriber| subscriber.received.ring_bytes > 0);
        if ring { "ring" } else { "none" }
    }

    pub(crate) fn to_json(&self) -> Value {
        let published = &self.published;
        let seconds = published.effort.elapsed.as_secs_f64();
        let subscribers: Vec<Value> =
            self.subscribers.iter().map(|subscriber| subscriber.to_json(published.events)).collect();
        json!({
            "seconds": rounded(seconds),
            "interrupted": self.interrupted,
            "rate": self.rate,
            "scans": published.scans,
            "processes_per_scan": published.processes.checked_div(published.scans).unwrap_or(0),
            "published_events": published.events,
            "lifecycle_events": published.lifecycle_events,
            "batches": published.batches,
            "events_per_second": rounded(per_second(published.events, published.effort.elapsed)),
            "dropped_events": published.dropped,
            "delivery": {
                "subscribers": published.subscribers,
                "reached": published.reached,
                "dropped": published.dropped,
            },
            "transport": self.transport(),
            "accounted": self.accounted(),
            "collector": {
                "pid": self.collector_pid,
                "cpu_percent": rounded(published.effort.percent_since(Default::default())),
            },
            "subscribers": subscribers,
        })
    }

    /// What is printed at the end.
    pub(crate) fn summary(&self) -> String {
        let published = &self.published;
        let elapsed = published.effort.elapsed;
        let mut text = format!(
            "\npublished {} events in {:.1} s ({}/s) as {} batches",
            grouped(published.events),
            elapsed.as_secs_f64(),
            grouped(per_second(published.events, elapsed) as u64),
            grouped(published.batches),
        );
        if let Some(processes) = published.processes.checked_div(published.scans) {
            let Published { scans, lifecycle_events, .. } = published;
            text += &format!(
                ": {scans} scans of {processes} processes, and {lifecycle_events} starts and exits between them"
            );
        }
        text += &format!(
            "\ncollector  pid {:<8} cpu {:.1} %\n",
            self.collector_pid,
            published.effort.percent_since(Default::default())
        );
        for subscriber in &self.subscribers {
            text += &subscriber.summary(published.events);
        }
        text + if self.accounted() {
            "every event is accounted for: published = received + lost, for each subscriber\n"
        } else {
            "SOME EVENTS ARE NOT ACCOUNTED FOR\n"
        }
    }
}

impl Subscriber {
    fn to_json(&self, published: u64) -> Value {
        let received = &self.received;
        let latency = received.latency_overall;
        json!({
            "name": self.name,
            "pid": self.pid,
            "received_events": received.events,
            "lost_events": received.lost,
            "accounted": self.accounts_for(published),
            "received_batches": received.batches,
            "received_text_bytes": received.text_bytes,
            "latency_us": { "p50": latency.p50, "p99": latency.p99, "max": latency.max },
            "wakeups": received.wakeups,
            "cpu_percent": rounded(received.effort.percent_since(Default::default())),
            "ring_bytes": received.ring_bytes,
            "ring_bytes_waiting_max": received.ring_bytes_waiting_max,
        })
    }

    fn summary(&self, published: u64) -> String {
        let Self { name, pid, received } = self;
        let latency = received.latency_overall;
        let unaccounted = if self.accounts_for(published) { "" } else { "  NOT ACCOUNTED FOR" };
        format!(
            "{name:<9}  pid {pid:<8} cpu {:.1} %  received {}  lost {}  latency p50 {:.0} µs, p99 {:.0} µs, max {:.0} µs  \
             wake-ups {}  ring {} MiB, at most {:.1} % full{unaccounted}\n",
            received.effort.percent_since(Default::default()),
            grouped(received.events),
            grouped(received.lost),
            latency.p50,
            latency.p99,
            latency.max,
            grouped(received.wakeups),
            received.ring_bytes >> 20,
            percent(received.ring_bytes_waiting_max, received.ring_bytes),
        )
    }
}

/// The figures of one second. Who did not answer in time has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Second {
    pub(crate) published: Option<Published>,
    pub(crate) received: [Option<Received>; 2],
}

/// What the columns of [`line()`] are.
pub(crate) fn heading() -> String {
    let heads =
        ["published/s", "received/s", "p50 µs", "p99 µs", "ring % (peak)", "lost", "wake-ups", "cpu %"];
    let mut text = "\n  time".to_owned();
    for (head, width) in heads.iter().zip(WIDTHS) {
        text += &format!("  {head:>width$}");
    }
    text + "\n        (agent/detector; cpu: collector/agent/detector)\n"
}

const WIDTHS: [usize; 8] = [11, 21, 15, 15, 15, 21, 13, 11];

pub(crate) fn line(elapsed: Duration, now: &Second, before: &Second) -> String {
    let pair = |cell: &dyn Fn(&Received, &Received) -> String| {
        let cells = now.received.iter().zip(&before.received).map(|(now, before)| {
            now.as_ref().map_or("-".to_owned(), |now| cell(now, &before.unwrap_or_default()))
        });
        cells.collect::<Vec<_>>().join("/")
    };
    let received_before =
        |before: &Received, now: &Received| now.effort.elapsed.saturating_sub(before.effort.elapsed);
    let published_before = before.published.unwrap_or_default();
    let published = now.published.map_or("-".to_owned(), |now| {
        let elapsed = now.effort.elapsed.saturating_sub(published_before.effort.elapsed);
        grouped(per_second(now.events - published_before.events, elapsed) as u64)
    });
    let collector_cpu = now
        .published
        .map_or("-".to_owned(), |now| format!("{:.0}", now.effort.percent_since(published_before.effort)));
    let cells = [
        published,
        pair(&|now, before| {
            grouped(per_second(now.events - before.events, received_before(before, now)) as u64)
        }),
        pair(&|now, _| micros(now, now.latency.p50)),
        pair(&|now, _| micros(now, now.latency.p99)),
        pair(&|now, _| {
            let part = |bytes| percent(bytes, now.ring_bytes);
            format!("{:.0} ({:.0})", part(now.ring_bytes_waiting), part(now.ring_bytes_waiting_max))
        }),
        pair(&|now, before| grouped(now.lost - before.lost)),
        pair(&|now, before| grouped(now.wakeups - before.wakeups)),
        format!(
            "{collector_cpu}/{}",
            pair(&|now, before| { format!("{:.0}", now.effort.percent_since(before.effort)) })
        ),
    ];
    let mut text = format!("{:>4.1} s", elapsed.as_secs_f64());
    for (cell, width) in cells.iter().zip(WIDTHS) {
        text += &format!("  {cell:>width$}");
    }
    text + "\n"
}

fn micros(received: &Received, quantile: f64) -> String {
    // Without a batch there is no latency.
    if received.latency.max > 0.0 { grouped(quantile as u64) } else { "-".to_owned() }
}

/// Some processes, each on a line of its own.
pub(crate) fn processes(seen: &[Seen]) -> String {
    let line = |seen: &Seen| {
        let (name, command_line) = (&seen.name, &seen.command_line);
        let name = printable(name, NAME_COLUMNS);
        let line = format!(
            "        newest  {:>8}  {name:<NAME_COLUMNS$}  {}",
            seen.pid,
            printable(command_line, COMMAND_LINE_COLUMNS)
        );
        format!("{}\n", line.trim_end())
    };
    seen.iter().map(line).collect()
}

fn per_second(events: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { events as f64 / seconds } else { 0.0 }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole > 0 { 100.0 * part as f64 / whole as f64 } else { 0.0 }
}

/// To a hundredth.
fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// With a comma after each thousand.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn what_a_process_calls_itself_stays_in_its_columns() {
        let evil = "\u{1b}]0;owned\u{7}\u{202e}".repeat(100);
        let seen = Seen { pid: 7, name: evil.clone(), command_line: evil };
        let lines = processes(&[seen]);
        assert_eq!(lines.lines().count(), 1);
        assert!(lines.trim_end().chars().count() < 140 && !lines.trim_end().contains(char::is_control));
    }

    fn outcome(received: u64, lost: u64) -> Outcome {
        let received = Received { events: received, lost, ring_bytes: 1, ..Received::default() };
        let subscriber = |name| Subscriber { name, pid: 1, received };
        Outcome {
            rate: None,
            interrupted: false,
            collector_pid: 2,
            published: Published { events: 10, ..Published::default() },
            subscribers: [subscriber("agent"), subscriber("detector")],
        }
    }

    #[test]
    fn an_event_too_few_or_too_many_is_not_accounted_for() {
        for (received, lost, accounted) in [(10, 0, true), (7, 3, true), (9, 0, false), (10, 1, false)] {
            let outcome = outcome(received, lost);
            assert_eq!(outcome.accounted(), accounted);
            assert_eq!(outcome.to_json()["accounted"], accounted);
            assert_eq!(outcome.summary().contains("NOT ACCOUNTED FOR"), !accounted);
        }
    }
}

//! What the three processes of a demo say to each other, besides the events: one line of JSON each, orders on a child's
//! stdin, messages on its stdout.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the demo asks of the collector and the subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Say how things stand.
    Sample { number: u64 },
    /// To the collector: publish no more, and say what was published.
    Stop,
    /// To a subscriber: this many events were published; once they are accounted for, or never will be, say so.
    Settle { published: u64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// The collector has its publishers, or the subscriber its subscription.
    Ready,
    /// The answer to a sample.
    Published { number: u64, published: Published },
    /// The answer to a sample.
    Received { number: u64, received: Received, newest: Vec<Seen> },
    /// The answer of the collector to a stop.
    Stopped { published: Published },
    /// The answer of a subscriber to a settle.
    Settled { received: Received },
    /// It can't go on.
    Failed { reason: String },
}

/// Totals of the collector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) scans: u64,
    /// Processes of all scans together.
    pub(crate) processes: u64,
    pub(crate) batches: u64,
    pub(crate) lifecycle_events: u64,
    /// Batches and lifecycle together.
    pub(crate) events: u64,
    /// Subscriber processes of the last call.
    pub(crate) subscribers: u64,
    /// Events that rings took, and did not take, summed over subscribers.
    pub(crate) reached: u64,
    pub(crate) dropped: u64,
    pub(crate) effort: Effort,
}

/// Totals of a subscriber.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(crate) events: u64,
    pub(crate) lost: u64,
    pub(crate) batches: u64,
    /// Bytes of text in the events that were read.
    pub(crate) text_bytes: u64,
    pub(crate) wakeups: u64,
    pub(crate) ring_bytes: u64,
    pub(crate) ring_bytes_waiting: u64,
    pub(crate) ring_bytes_waiting_max: u64,
    /// Age of batches when the application got them: since the last sample, and since the beginning.
    pub(crate) latency: Latency,
    pub(crate) latency_overall: Latency,
    pub(crate) effort: Effort,
}

/// Quantiles, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// What a process has cost since it was ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Effort {
    pub(crate) cpu: Duration,
    pub(crate) elapsed: Duration,
}

impl Effort {
    /// CPU time in percent of one core, from `earlier` to now.
    pub(crate) fn percent_since(self, earlier: Self) -> f64 {
        let cpu = self.cpu.saturating_sub(earlier.cpu).as_secs_f64();
        let elapsed = self.elapsed.saturating_sub(earlier.elapsed).as_secs_f64();
        if elapsed > 0.0 { 100.0 * cpu / elapsed } else { 0.0 }
    }
}

/// A process that a subscriber has seen. What stands in it came from the process: anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) command_line: String,
}

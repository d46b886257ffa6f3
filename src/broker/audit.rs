//! The audit stream: who was granted, refused or deprived of what, and who broke a ring; one `tracing` event each.
//!
//! The target is [`TARGET`], and names and fields are as `docs/policy.md` has them: people write rules on them. No payload is ever among
//! them. What a peer wrote is cut, and escaped, so that it can be no other line, and no other field.
//!
//! Refusals cost the one who is refused nothing, so they are told by cause, and only so many for each user; the rest is counted,
//! and the count told.

mod allowance;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Instant;

use tracing::{Level, event};

use super::statistics::Causes;
use crate::access::Component;
use crate::config::REFUSALS_MAX;
use crate::control::{Report, Right};
use crate::wire::{Payer, Refusal};
use allowance::{Allowance, Cause, Subject};

/// Of all events of the audit stream.
const TARGET: &str = "daemoneye_eventbus::audit";

/// Characters of each text in a record.
const TEXT_MAX: usize = 600;

/// How often somebody was refused something.
///
/// ```
/// use daemoneye_eventbus::{ConnectOptions, EventBusClient, Refusal};
/// # use daemoneye_eventbus::{DaemoneyeBroker, DaemoneyeEventBus};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("bus.sock");
/// # let bus = DaemoneyeBroker::new(path.to_str().expect("a path of UTF-8")).await?;
/// # let bus = DaemoneyeEventBus::from_broker(bus).await?;
/// let netmond = EventBusClient::connect(ConnectOptions::new("netmond").path(&path)).await?;
/// assert!(netmond.publisher("alerts.high").await.is_err());
///
/// let refusals = bus.broker().refusals().await;
/// assert_eq!(refusals[0].component.as_ref().map(|component| component.as_str()), Some("netmond"));
/// assert_eq!(refusals[0].count, 1);
/// assert!(matches!(refusals[0].last, Refusal::Access(_)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusalCount {
    /// Who was refused; `None`: those of this user who were not let in, and so have no name.
    pub component: Option<Component>,
    /// The user of the process, as the kernel names it.
    pub uid: u32,
    /// Refusals, since the broker was made. It starts again for one that had to give way to others: of 1024 the one whose last
    /// refusal is the oldest.
    pub count: u64,
    /// The last of them.
    pub last: Refusal,
}

/// Whom the kernel names at the other end of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) payer: Payer,
    pub(super) uid: u32,
    /// As the kernel has it, if it does.
    pub(super) pid: Option<u32>,
}

/// What is remembered between records.
#[derive(Debug, Default)]
pub(super) struct Audit {
    allowance: Allowance,
    /// The last to be refused at the end.
    refusals: VecDeque<RefusalCount>,
    causes: Causes,
}

#[derive(Debug, Clone, Copy)]
enum Decision {
    Granted,
    Refused,
    Revoked,
    Poisoned,
    Untold,
}

/// One event.
struct Record<'a> {
    component: &'a str,
    process: Process,
    right: &'a str,
    what: &'a str,
    reason: &'a str,
    untold: u64,
}

impl Audit {
    /// Writes down what a report says about rights, if it does. `process` is the one that it says it about.
    pub(super) fn record(&mut self, now: Instant, report: &Report, process: Option<Process>) {
        if let Report::Left { component, .. } = report
            && let Some((process, untold)) = self.allowance.leave(now, component)
        {
            return tell_untold(component.as_str(), process, untold);
        }
        let Some(process) = process else {
            return;
        };
        match report {
            Report::Granted { component, right, what, withheld, .. } => {
                let reason = match withheld {
                    0 => String::new(),
                    parts => format!("{parts} parts withheld"),
                };
                self.other(now, Decision::Granted, component, process, (word(*right), what, &reason));
            }
            Report::Revoked { component, right, what, .. } => {
                let reason = "the policy was changed";
                self.other(now, Decision::Revoked, component, process, (word(*right), what, reason));
            }
            Report::Poisoned { culprit, by, violation, .. } => {
                let reason = format!("{by} says: {violation}");
                self.other(now, Decision::Poisoned, culprit, process, ("", "", &reason));
            }
            Report::Refused { component, right, what, refusal, .. } => {
                self.refused(now, component.as_ref(), process, *right, what, refusal);
            }
            Report::Left { .. }
            | Report::Joined { .. }
            | Report::SmallerRing { .. }
            | Report::Relayed { .. } => {}
        }
    }

    /// The broker goes: what was counted and not told is told.
    pub(super) fn end(&mut self) {
        for (component, process, untold) in self.allowance.end() {
            tell_untold(component.as_ref().map_or("", Component::as_str), process, untold);
        }
    }

    pub(super) fn causes(&self) -> &Causes {
        &self.causes
    }

    /// Who was refused, and how often.
    pub(super) fn refusals(&self) -> Vec<RefusalCount> {
        self.refusals.iter().cloned().collect()
    }

    fn other(
        &mut self,
        now: Instant,
        decision: Decision,
        component: &Component,
        process: Process,
        (right, what, reason): (&str, &str, &str),
    ) {
        let is_grant = matches!(decision, Decision::Granted);
        let subject = if is_grant { Subject::Grant } else { Subject::Breach };
        if let Some(untold) = self.allowance.takes(now, process, Some(component), subject) {
            let component = component.as_str();
            write(decision, &Record { component, process, right, what, reason, untold });
        }
    }

    fn refused(
        &mut self,
        now: Instant,
        component: Option<&Component>,
        process: Process,
        right: Right,
        what: &str,
        refusal: &Refusal,
    ) {
        self.count(component, process.uid, refusal);
        self.causes.count(refusal);
        let cause = Cause { right, kind: std::mem::discriminant(refusal), what: what.to_owned() };
        if let Some(untold) = self.allowance.takes(now, process, component, Subject::Refusal(cause)) {
            let component = component.map_or("", Component::as_str);
            let (right, reason) = (word(right), &refusal.to_string());
            write(Decision::Refused, &Record { component, process, right, what, reason, untold });
        }
    }

    fn count(&mut self, component: Option<&Component>, uid: u32, refusal: &Refusal) {
        let is_known = |entry: &RefusalCount| entry.component.as_ref() == component && entry.uid == uid;
        let known = self.refusals.iter().position(is_known);
        let count = known.and_then(|at| self.refusals.remove(at)).map_or(0, |entry| entry.count) + 1;
        if self.refusals.len() == REFUSALS_MAX {
            self.refusals.pop_front();
        }
        let (component, last) = (component.cloned(), refusal.clone());
        self.refusals.push_back(RefusalCount { component, uid, count, last });
    }
}

fn word(right: Right) -> &'static str {
    match right {
        Right::Connect => "connect",
        Right::Publish => "publish",
        Right::Subscribe => "subscribe",
        Right::Observe => "observe",
    }
}

fn tell_untold(component: &str, process: Process, untold: u64) {
    let reason = "more of the same than are told one by one";
    write(Decision::Untold, &Record { component, process, right: "", what: "", reason, untold });
}

/// The name and the level of an event are part of the program text, so each decision has its own.
fn write(decision: Decision, record: &Record<'_>) {
    let Record { component, process: Process { uid, pid, .. }, right, untold, .. } = *record;
    let (what, reason) = (plain(record.what), plain(record.reason));
    let (what, reason, pid) = (&*what, &*reason, pid.unwrap_or(0));
    macro_rules! write {
        ($name:literal, $level:ident) => {
            event!(
                name: $name,
                target: TARGET,
                Level::$level,
                decision = $name,
                component,
                uid,
                pid,
                right,
                what,
                reason,
                untold
            )
        };
    }
    match decision {
        Decision::Granted => write!("granted", INFO),
        Decision::Refused => write!("refused", WARN),
        Decision::Revoked => write!("revoked", WARN),
        Decision::Poisoned => write!("poisoned", ERROR),
        Decision::Untold => write!("untold", WARN),
    }
}

/// The start of a text, in characters that can't be mistaken for what is around them.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len().min(TEXT_MAX));
    for character in text.chars() {
        if plain.len() >= TEXT_MAX {
            plain.push_str("...");
            break;
        }
        match character {
            ' '..='~' if character != '\\' && character != '"' => plain.push(character),
            other => write!(plain, "{}", other.escape_default()).expect("a string grows"),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_wrote_can_be_no_other_line_and_no_other_field() {
        let hostile = "a\n2026 INFO granted\r\0\u{1b}[2J\u{202e}\"x\" uid=0 \\ ü";
        let expected = "a\\n2026 INFO granted\\r\\u{0}\\u{1b}[2J\\u{202e}\\\"x\\\" uid=0 \\\\ \\u{fc}";
        assert_eq!(plain(hostile), expected);
        let long = plain(&"\u{202e}".repeat(10_000));
        assert!(long.len() < TEXT_MAX + 16 && long.ends_with("..."), "{} bytes", long.len());
    }

    #[test]
    fn who_was_refused_longest_ago_gives_way_and_nothing_grows() {
        let mut audit = Audit::default();
        let component = |n: usize| Component::from_client_id(&format!("c{n}")).expect("a legal id");
        let refusal = |bytes| Refusal::RingBytes { bytes };
        for n in 0..REFUSALS_MAX {
            audit.count(Some(&component(n)), 1, &refusal(0));
        }
        audit.count(Some(&component(0)), 1, &refusal(1));
        audit.count(None, 1, &refusal(2));
        audit.count(None, 2, &refusal(3));
        let list = audit.refusals();
        assert_eq!(list.len(), REFUSALS_MAX);
        let of = |component: Option<Component>, uid| {
            let entry = list.iter().find(|entry| entry.component == component && entry.uid == uid);
            entry.map(|entry| (entry.count, entry.last.clone()))
        };
        assert_eq!(of(Some(component(0)), 1), Some((2, refusal(1))));
        assert_eq!((of(None, 1), of(None, 2)), (Some((1, refusal(2))), Some((1, refusal(3)))));
        assert_eq!((of(Some(component(1)), 1), of(Some(component(2)), 1)), (None, None), "the oldest");
    }
}

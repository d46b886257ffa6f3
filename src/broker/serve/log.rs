//! What the broker's log says of a report. Names and fields are as `docs/operations.md` has them: people write rules on them.

use super::super::audit::Process;
use crate::control::Report;

/// Of all events of the broker that are not the audit stream's.
pub(super) const TARGET: &str = "daemoneye_eventbus::broker";

/// Says what has happened; `process` is of whom.
pub(super) fn log(report: &Report, process: Option<Process>) {
    match report {
        Report::Joined { component, identity, .. } => {
            let (uid, pid) = process.map_or((0, None), |process| (process.uid, process.pid));
            let pid = pid.unwrap_or(0);
            tracing::info!(name: "joined", target: TARGET, %component, uid, pid, %identity, "joined");
        }
        Report::Left { component, reason: None } => {
            tracing::info!(name: "left", target: TARGET, %component, "left");
        }
        Report::Left { component, reason: Some(reason) } => {
            tracing::warn!(name: "dismissed", target: TARGET, %component, %reason, "was sent away");
        }
        Report::SmallerRing { publisher, subscriber, asked_bytes, cause } => {
            tracing::warn!(
                name: "smaller_ring",
                target: TARGET,
                %publisher,
                %subscriber,
                asked_bytes,
                cause,
                "a ring has not the size asked for"
            );
        }
        Report::Relayed { publisher, subscriber, cause } => {
            tracing::warn!(name: "relayed", target: TARGET, %publisher, %subscriber, cause, "events go over the broker");
        }
        // These are the audit stream's.
        Report::Granted { .. }
        | Report::Revoked { .. }
        | Report::Refused { .. }
        | Report::Poisoned { .. } => {}
    }
}

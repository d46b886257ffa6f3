//! Claims about the bus, each between real processes.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod backing;
mod bad_input;
mod blocking;
mod config;
mod correlation;
mod crash;
mod death;
mod delivery;
mod filters;
mod flow;
mod hostile;
mod identity;
mod losses;
mod membership;
mod memory;
mod outbox;
mod overload;
mod policy;
mod raw;
mod relay;
mod requests;
mod returns;
mod rights;
mod rings;
mod schedules;
mod secrets;
mod sharing;
mod sockets;
mod statistics;
mod status;
mod versions;

/// Where a role process begins; nothing in a test run.
#[test]
fn role_entry() {
    support::roles::run_if_asked();
}

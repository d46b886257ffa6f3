//! What becomes of the bus where the host lacks a facility, or refuses a call: the reason can be seen, nobody dies of it, nothing
//! is left of it, and others notice nothing.
//!
//! Calls are made to fail by `strace`, in processes that are up already: what is tested is the bus, and not how a process starts.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the harness serves other tests, too")]
mod support;

mod calls;
mod exchange;
mod missing;
mod nth_call;
mod strace;

/// Where a role process begins; nothing in a test run.
#[test]
fn role_entry() {
    support::roles::run_if_asked();
}

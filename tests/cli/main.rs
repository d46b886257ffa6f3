//! The command line as its user has it: a broker, publishers and subscribers, each a process of its own.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the harness serves other tests, too")]
mod support;

mod broker;
mod doctor;
mod help;
mod publish;
mod subscribe;
mod tool;

/// Where a role process begins; nothing in a test run.
#[test]
fn role_entry() {
    support::roles::run_if_asked();
}

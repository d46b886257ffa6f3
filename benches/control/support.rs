//! What the attackers of the tests stand on.

#[expect(dead_code, reason = "they choose less")]
#[path = "../../tests/support/chance.rs"]
pub(crate) mod chance;
#[path = "../../tests/support/proof.rs"]
pub(crate) mod proof;

//! What a session is begun with: numbers that are used once, and proofs that a secret is known.

use std::fmt;

use constant_time_eq::constant_time_eq_32;
use serde::{Deserialize, Serialize};

/// A number that one side makes up for one handshake, so that no proof of an earlier one serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nonce(pub(crate) [u8; 32]);

/// That its maker knows a secret, for one handshake. It is compared in constant time, and not printed.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Proof(pub(crate) [u8; 32]);

impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq_32(&self.0, &other.0)
    }
}

impl Eq for Proof {}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(..)")
    }
}

/// A launch token's name, which is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct TokenId(pub(crate) [u8; 16]);

/// Which secret a client offers to prove that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Credential {
    /// It has none.
    Nothing,
    /// What stands in the broker's key file.
    Key,
    Token(TokenId),
}

/// What a client has to prove to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Needed {
    /// That it knows the broker's key file, or a launch token.
    Key,
    /// That it has a launch token of this name which is valid, and for this process.
    Token,
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "the broker's key file, or a launch token",
            Self::Token => "a launch token of this name that is valid, and for this process",
        })
    }
}

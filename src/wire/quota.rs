//! What a broker keeps for its clients, and so has to share out among them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that a broker keeps for its clients, of which each user has a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Resource {
    /// Connections, whether they have said hello or not.
    Connections,
    /// Connections that have not said hello. Above the share: the oldest goes.
    Handshakes,
    /// Subscriptions.
    Subscriptions,
    /// Bytes that patterns of subscriptions take in the broker: 1,280 for each segment of each.
    PatternBytes,
    /// Topics that publishers have declared.
    Topics,
    /// Bytes of rings, both segments of each, that lead to the user's processes.
    RingBytes,
    /// Publishers: each may cost whoever hears it a ring.
    Publishers,
}

impl Resource {
    /// How many there are.
    pub(crate) const COUNT: usize = 7;
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections",
            Self::Handshakes => "connections without a hello",
            Self::Subscriptions => "subscriptions",
            Self::PatternBytes => "bytes of patterns",
            Self::Topics => "declared topics",
            Self::RingBytes => "bytes of rings",
            Self::Publishers => "publishers",
        })
    }
}

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
    /// Bytes of events that go over the broker, and wait there for the user's processes to read them. Above the share: they are lost, and
    /// their subscribers told.
    RelayedBytes,
}

impl Resource {
    /// How many there are.
    pub(crate) const COUNT: usize = 8;

    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Connections,
        Self::Handshakes,
        Self::Subscriptions,
        Self::PatternBytes,
        Self::Topics,
        Self::RingBytes,
        Self::Publishers,
        Self::RelayedBytes,
    ];

    /// Whether one session can have many of it.
    pub(crate) fn is_many_for_a_session(self) -> bool {
        !matches!(self, Self::Connections | Self::Handshakes)
    }
}

/// Whose share of a [`Resource`] is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Sharer {
    /// Everybody's: the broker has no more.
    Everybody,
    /// That of a user, whose processes it is for.
    User {
        /// The user.
        uid: u32,
    },
    /// That of this session: as much is left for the others of its user as it has.
    Session,
}

impl fmt::Display for Sharer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("the bus"),
            Self::User { uid } => write!(f, "uid {uid}"),
            Self::Session => f.write_str("this session"),
        }
    }
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
            Self::RelayedBytes => "bytes of relayed events",
        })
    }
}

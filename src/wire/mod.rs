//! What goes over the control socket: the vocabulary, its encoding, and frames.
//!
//! A frame is a `u32` length (little-endian) and that many bytes of one encoded message. Some messages carry one file
//! descriptor; it is attached to the first byte of their frame. Variants are numbered in the order in which they stand here:
//! new ones are added at the end, and nothing is ever taken out or moved. All of it, byte by byte: `docs/wire.md`.

pub(crate) mod codec;
pub(crate) mod frames;
mod message;
mod proof;
mod quota;
pub(crate) mod relayed;
pub(crate) mod statistics;
#[cfg(test)]
mod tests;

pub(crate) use message::{
    BEGUN_SINCE, Epoch, Handle, Hello, Life, Notice, OrderId, PublisherId, RELAY_SINCE, Request, RingId,
    SlotTarget, Welcome,
};
pub use message::{GoodbyeReason, Refusal, Versions};
pub use proof::Needed;
pub(crate) use proof::{Credential, Nonce, Proof, TokenId};
pub use quota::{Resource, Sharer};
pub(crate) use relayed::RelayedRecords;
pub use statistics::{
    Answer, Identity, Latencies, Payer, ReceivedClaim, RingClaim, RingPath, RingState, RouteClaim,
    SubscriptionClaim, TopicClaim, TotalClaim,
};
pub(crate) use statistics::{Claims, Fact, STATISTICS_SINCE};

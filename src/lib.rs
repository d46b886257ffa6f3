//! The local event bus of the DaemonEye security monitor.
#![forbid(unsafe_code)]

mod access;
mod hierarchy;
mod routing;
mod topic;

pub use access::{AccessPolicy, Component, ComponentError, Denial, Narrowed, Withheld};
pub use hierarchy::TopicAccessLevel;
pub use topic::{Topic, TopicError, TopicPattern};

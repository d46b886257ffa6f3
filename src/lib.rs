//! The local event bus of the DaemonEye security monitor.
#![forbid(unsafe_code)]

mod topic;

pub use topic::{Topic, TopicError, TopicPattern};

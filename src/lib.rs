//! The local event bus of the DaemonEye security monitor.
#![forbid(unsafe_code)]

//! The wall between the bus and the operating system: sockets, descriptors that travel over them, who is at the other end,
//! clocks, and sleeping on doorbells. No other module of this crate has a `cfg` on the platform.
//!
//! A platform supplies:
//! - [`Listener`]: binds a path so that nobody but the owner can connect from the first moment on, never takes over a
//!   live broker's path, replaces a dead one's, and removes its own (and only its own) when dropped;
//! - [`connect`] and [`Stream`]: bytes and descriptors in both directions, surplus descriptors closed at once;
//! - [`Credentials`]: who the kernel says is at the other end, and whether that process still lives, and where the
//!   kernel can't say so, a warning; [`uid_of_peer`] and [`own_uid`], where the user is all that matters;
//! - [`wait`]: sleep until one of several doorbells rings;
//! - [`monotonic_nanos`]: the clock that all processes of the host share.

#[cfg(not(target_os = "linux"))]
compile_error!("daemoneye-eventbus runs on Linux only so far: other platforms have no transport yet");

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod listener;

#[cfg(target_os = "linux")]
pub(crate) use linux::{Credentials, Stream, connect, monotonic_nanos, own_uid, uid_of_peer, wait};
#[cfg(target_os = "linux")]
pub use listener::ListenError;
#[cfg(target_os = "linux")]
pub(crate) use listener::Listener;

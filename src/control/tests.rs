//! The machine, driven by hand: no socket, no clock.

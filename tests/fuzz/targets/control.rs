//! Whatever clients send the broker, whenever, and whatever becomes of them: its books are in order.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| daemoneye_eventbus::fuzzing::live(data));

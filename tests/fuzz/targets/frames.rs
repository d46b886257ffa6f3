//! What a stream of control frames may hold, however it is cut.

#![no_main]

use daemoneye_eventbus::fuzzing::{Stream, reencoded};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let (mut stream, mut taken) = (Stream::default(), 0);
    for piece in bytes.chunks(usize::from(cut) + 1) {
        stream.push(piece);
        loop {
            match stream.frame() {
                Ok(Some(frame)) => {
                    assert!(!frame.is_empty());
                    assert_eq!(frame, bytes[taken + 4..][..frame.len()], "a frame is what was sent");
                    taken += 4 + frame.len();
                    decode(&frame);
                }
                Ok(None) => break,
                // Nobody follows such a stream.
                Err(_) => return,
            }
        }
    }
    assert_eq!(stream.is_empty(), taken == bytes.len());
});

/// What a message says survives the way out and in again, and takes no more bytes than it came with.
fn decode(frame: &[u8]) {
    for (kind, bytes) in reencoded(frame).into_iter().enumerate() {
        let Some(bytes) = bytes else { continue };
        assert!(bytes.len() <= frame.len());
        assert_eq!(reencoded(&bytes)[kind].as_ref(), Some(&bytes));
    }
}

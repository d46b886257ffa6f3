//! What a publisher can send over the broker that no publisher of ours does. The broker looks at the heads of records itself.

use super::wire::{Frame, request};

/// What a frame brings of records at most.
const FRAME_RECORDS_BYTES: usize = 65_472;

/// The head of a record, as `docs/wire.md` has it.
fn head(slot: u16, generation: u16, events: u32, sequence: u64, bytes: u32) -> Vec<u8> {
    let shorts = [slot.to_le_bytes(), generation.to_le_bytes()].concat();
    [&shorts[..], &events.to_le_bytes(), &sequence.to_le_bytes(), &bytes.to_le_bytes()].concat()
}

fn frame(ring: u64, records: &[u8]) -> Frame {
    Frame::new(request::RELAY).number(ring).number(records.len() as u64).raw(records)
}

/// The first frame of a record whose payload is so large.
fn begun(bytes: u32) -> Vec<u8> {
    let mut records = head(0, 0, 1, 0, bytes);
    records.resize(FRAME_RECORDS_BYTES, 0);
    records
}

/// Sends what has this name over a ring that it was granted one slot of.
pub(super) fn attack(ring: u64, name: &str, send: impl Fn(Frame)) {
    let empty = |slot, generation| [head(slot, generation, 1, 0, 8), vec![0; 8]].concat();
    let records = match name {
        "relay-ungranted-slot" => empty(1, 0),
        "relay-ungranted-again" => empty(0, 1),
        "relay-beyond-window" => head(0, 0, 0, 0, u32::MAX),
        "relay-loss-beyond-window" => [head(0, 0, 0, 0, 0), head(0, 0, 0, 0, u32::MAX)].concat(),
        "relay-too-large" => begun(1 << 20),
        "relay-too-many-events" => [head(0, 0, 1, u64::MAX, 8), vec![0; 8]].concat(),
        "relay-cut-head" => head(0, 0, 1, 0, 8)[..19].to_vec(),
        "relay-in-crumbs" => head(0, 0, 1, 0, 8),
        "relay-unended" => begun(100_000),
        "relay-for-others" => {
            // One of them has a ring that is not this one's.
            (1..ring).for_each(|other| send(frame(other, &empty(0, 0))));
            return;
        }
        other => panic!("no attack {other}"),
    };
    send(frame(ring, &records));
}

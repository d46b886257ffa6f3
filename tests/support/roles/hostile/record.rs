//! Records made by hand: the layout of a batch, written down a second time.

const HEADER: usize = 48;
const ENTRY: usize = 48;

/// Offsets within a batch of one event, for who damages it.
pub(super) mod at {
    use super::{ENTRY, HEADER};

    pub(crate) const VERSION: usize = 0;
    pub(crate) const EVENTS: usize = 4;
    pub(crate) const OVERRIDES: usize = 6;
    pub(crate) const PAIRS: usize = 8;
    pub(crate) const BLOB_BYTES: usize = 12;
    pub(crate) const STRING_BYTES: usize = 16;
    pub(crate) const WALL_NANOS: usize = 20;
    /// The event, after the correlation.
    pub(crate) const EVENT: usize = HEADER + ENTRY;
    pub(crate) const NANOS: usize = EVENT + 16;
    pub(crate) const KIND: usize = EVENT + 20;
    pub(crate) const FLAGS: usize = EVENT + 21;
    pub(crate) const CORRELATION: usize = EVENT + 22;
    pub(crate) const STRINGS: usize = EVENT + 24;
    pub(crate) const ENDS: usize = EVENT + 28;
    pub(crate) const FIRST_PAIR: usize = EVENT + 44;
    pub(crate) const STRING_AREA: usize = EVENT + ENTRY;
}

/// A batch of one process event with this name and pid.
pub(super) fn batch(name: &str, pid: u32) -> Vec<u8> {
    correlated("x", name, pid)
}

/// The same under a correlation with this id, which is its own root.
pub(super) fn correlated(id: &str, name: &str, pid: u32) -> Vec<u8> {
    let strings = [id, id, name].concat();
    let mut bytes = Vec::new();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([1_u16, 0].map(u16::to_le_bytes).concat());
    let sections = [0, 0, u32::try_from(strings.len()).expect("a short name"), 0];
    bytes.extend(sections.map(u32::to_le_bytes).concat());
    bytes.extend([0; 24]);
    let id = u32::try_from(id.len()).expect("a short id");
    bytes.extend(entry(6, 0, [id, id, 2 * id, 2 * id], 0));
    let end = sections[2];
    bytes.extend(entry(1, pid.into(), [end; 4], 2 * id));
    bytes.extend(strings.as_bytes());
    bytes
}

fn entry(kind: u8, word_a: u64, ends: [u32; 4], strings: u32) -> Vec<u8> {
    let mut bytes = word_a.to_le_bytes().to_vec();
    bytes.extend([0; 12]);
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(strings.to_le_bytes());
    bytes.extend(ends.map(u32::to_le_bytes).concat());
    bytes.extend([0; 4]);
    assert_eq!(bytes.len(), ENTRY);
    bytes
}

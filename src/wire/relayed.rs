//! RelayedRecords that go over the broker: those of one ring in a row, as frames bring them.
//!
//! A frame holds a part of the row. It begins and ends anywhere but within a head, so a record may be larger than a frame; who reads keeps in
//! mind how much of a record is still to come ([`Row`]). Without a payload a record is a *loss*: all events of its slot below its
//! sequence that no record has brought will not come.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use crate::config::RELAYED_BYTES_MAX;

/// What stands before each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) slot: u16,
    pub(crate) generation: u16,
    /// In this record; 0: it is a loss.
    pub(crate) events: u32,
    /// Events attempted on the slot before this record, under this grant.
    pub(crate) sequence: u64,
    /// Of its payload. Of a loss: what the records would have taken that it stands for.
    pub(crate) bytes: u32,
}

/// Bytes of a head.
pub(crate) const HEAD_BYTES: usize = 20;

/// What a record takes of its ring's window beside its payload: more than its head, since a frame may hold one record alone.
pub(crate) const RECORD_COST: u64 = 64;

impl Head {
    /// What the record takes of its ring's window.
    pub(crate) fn cost(&self) -> u64 {
        RECORD_COST + u64::from(self.bytes)
    }

    /// Whether it brings no events, but says that some are lost.
    pub(crate) fn is_loss(&self) -> bool {
        self.events == 0
    }

    /// Bytes that follow it.
    fn payload_bytes(&self) -> u32 {
        if self.is_loss() { 0 } else { self.bytes }
    }

    /// Events attempted on the slot up to its end.
    pub(crate) fn end(&self) -> Option<u64> {
        self.sequence.checked_add(self.events.into())
    }

    pub(crate) fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0..2].copy_from_slice(&self.slot.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.generation.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.events.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    fn of(bytes: &[u8; HEAD_BYTES]) -> Self {
        fn part<const N: usize>(bytes: &[u8; HEAD_BYTES], at: usize) -> [u8; N] {
            std::array::from_fn(|index| bytes[at + index])
        }
        Self {
            slot: u16::from_le_bytes(part(bytes, 0)),
            generation: u16::from_le_bytes(part(bytes, 2)),
            events: u32::from_le_bytes(part(bytes, 4)),
            sequence: u64::from_le_bytes(part(bytes, 8)),
            bytes: u32::from_le_bytes(part(bytes, 16)),
        }
    }
}

/// What comes next in a row of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Head(Head),
    /// Of the payload of the record whose head came last.
    Payload(&'a [u8]),
}

/// A frame ends within the head of a record. The peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame that ends within the head of a record")]
pub(crate) struct HeadCut;

/// Where a reader stands in the records of one ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Of the payload of the last record.
    left: u32,
}

impl Row {
    /// Takes the next piece off the front.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, HeadCut> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.left > 0 {
            let (payload, rest) = bytes.split_at(bytes.len().min(self.left as usize));
            self.left -= u32::try_from(payload.len()).expect("it is not more than what is left");
            *bytes = rest;
            return Ok(Some(Piece::Payload(payload)));
        }
        let (head, rest) = bytes.split_first_chunk().ok_or(HeadCut)?;
        let head = Head::of(head);
        self.left = head.payload_bytes();
        *bytes = rest;
        Ok(Some(Piece::Head(head)))
    }

    /// Bytes of the last record's payload that are still to come.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// What the records in these bytes of ours cost, each by as much as stands in them.
    pub(crate) fn weight(mut self, mut bytes: &[u8]) -> u64 {
        let mut weight = 0;
        while let Ok(Some(piece)) = self.next(&mut bytes) {
            weight += match piece {
                Piece::Head(_) => RECORD_COST,
                Piece::Payload(payload) => payload.len() as u64,
            };
        }
        weight
    }

    /// Whether the payload of the last record is here in full.
    pub(crate) fn is_whole(&self) -> bool {
        self.left == 0
    }

    /// How many of these bytes go into a frame that has room for so many; the row goes on behind them.
    pub(crate) fn cut(&mut self, mut bytes: &[u8], room: usize) -> usize {
        let all = bytes.len();
        loop {
            let room = room - (all - bytes.len());
            if self.is_whole() && room < HEAD_BYTES {
                return all - bytes.len();
            }
            let mut visible = &bytes[..bytes.len().min(room)];
            let before = visible.len();
            match self.next(&mut visible) {
                Ok(Some(_)) => bytes = &bytes[before - visible.len()..],
                Ok(None) => return all - bytes.len(),
                Err(HeadCut) => unreachable!("rows of ours are whole, and there is room for a head"),
            }
        }
    }
}

/// A part of a row of records, as it is sent.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RelayedRecords(pub(crate) Vec<u8>);

impl std::fmt::Debug for RelayedRecords {
    /// What is in it is nobody's business who looks at a message.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RelayedRecords({} bytes)", self.0.len())
    }
}

impl Serialize for RelayedRecords {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelayedRecords {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = RelayedRecords;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<RelayedRecords, E> {
                self.visit_byte_buf(bytes.to_vec())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<RelayedRecords, E> {
                if bytes.is_empty() || bytes.len() > RELAYED_BYTES_MAX {
                    return Err(E::custom("no frame brings so many bytes of records"));
                }
                Ok(RelayedRecords(bytes))
            }
        }

        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::codec::{decode, encode};

    fn head(events: u32, bytes: u32) -> Head {
        Head { slot: 1, generation: 2, events, sequence: 3, bytes }
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in_however_they_are_cut(
            sizes in proptest::collection::vec(0_u32..2 * RELAYED_BYTES_MAX as u32, 0..8),
        ) {
            let heads: Vec<Head> = sizes.iter().map(|bytes| head(*bytes % 3, *bytes)).collect();
            let mut row = Vec::new();
            for head in &heads {
                row.extend_from_slice(&head.to_bytes());
                row.extend((0..head.payload_bytes()).map(|at| at as u8));
            }
            let (mut sent, mut received) = (Row::default(), Row::default());
            let (mut rest, mut seen) = (&row[..], Vec::new());
            while !rest.is_empty() {
                let (frame, behind) = rest.split_at(sent.cut(rest, RELAYED_BYTES_MAX));
                prop_assert!((1..=RELAYED_BYTES_MAX).contains(&frame.len()));
                rest = behind;
                let mut frame = frame;
                while let Some(piece) = received.next(&mut frame).expect("no head is cut") {
                    match piece {
                        Piece::Head(head) => seen.push((head, 0)),
                        Piece::Payload(bytes) => seen.last_mut().expect("a head comes first").1 += bytes.len(),
                    }
                }
            }
            prop_assert!(received.is_whole());
            let expected = heads.iter().map(|head| (*head, head.payload_bytes() as usize));
            prop_assert_eq!(seen, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_head_that_is_cut_is_said_to_be() {
        let bytes = head(1, 0).to_bytes();
        for length in 1..HEAD_BYTES {
            assert_eq!(Row::default().next(&mut &bytes[..length]), Err(HeadCut));
        }
    }

    #[test]
    fn a_frame_brings_some_bytes_and_no_more_than_there_may_be() {
        let sent = |bytes| decode::<RelayedRecords>(&encode(&RelayedRecords(vec![7; bytes])));
        assert!(sent(1).is_ok_and(|records| records.0 == [7]) && sent(RELAYED_BYTES_MAX).is_ok());
        assert!(sent(0).is_err() && sent(RELAYED_BYTES_MAX + 1).is_err());
    }
}

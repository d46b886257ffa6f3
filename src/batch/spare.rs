//! Memory of records that were read, kept for the next ones.
//!
//! A batch is allocated by the data thread and freed by whoever reads it last, 60 KiB at a time. Allocators give such memory
//! back to the system, which clears and maps it anew: 30 of the 95 ns that a process event cost its subscriber. So large
//! records pass their memory on. Small ones are left to the allocator, which is good at them.

use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;

use super::RECORD_BYTES_TARGET;

/// Records that pass their memory on, by their size.
const LARGE: RangeInclusive<usize> = RECORD_BYTES_TARGET / 4..=RECORD_BYTES_TARGET;

/// Records whose memory is kept: 2 MiB if they are as large as can be. Above it: given back.
const SPARES_MAX: usize = 32;

/// The memory of records that are gone. One for all rings that lead to a process.
#[derive(Debug, Default)]
pub(crate) struct Spares(Mutex<Vec<Memory>>);

/// What a record is copied to.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) head: Vec<u64>,
    pub(super) strings: String,
    /// Where it goes in the end.
    origin: Option<Arc<Spares>>,
}

impl Memory {
    /// A copy of a record's two parts, in memory of `spares` if it is large.
    pub(super) fn of(head: &[u64], strings: &str, spares: Option<&Arc<Spares>>) -> Self {
        let bytes = size_of_val(head) + strings.len();
        let Some(spares) = spares.filter(|_| LARGE.contains(&bytes)) else {
            return Self { head: head.to_vec(), strings: strings.to_owned(), origin: None };
        };
        let spare = spares.0.lock().pop();
        let mut memory = spare.filter(|memory| memory.suits(head, strings)).unwrap_or_default();
        memory.head.extend_from_slice(head);
        memory.strings.push_str(strings);
        memory.origin = Some(Arc::clone(spares));
        memory
    }

    /// Whether it is at most twice as large as it needs to be: queues count records, not what they lie in.
    fn suits(&self, head: &[u64], strings: &str) -> bool {
        self.head.capacity() <= 2 * head.len() && self.strings.capacity() <= 2 * strings.len()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(spares) = self.origin.take() else {
            return;
        };
        let (mut head, mut strings) = (std::mem::take(&mut self.head), std::mem::take(&mut self.strings));
        head.clear();
        strings.clear();
        let mut kept = spares.0.lock();
        if kept.len() < SPARES_MAX {
            kept.push(Self { head, strings, origin: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(spares: &Spares) -> usize {
        spares.0.lock().len()
    }

    #[test]
    fn a_large_record_lies_in_the_memory_of_the_one_before() {
        let spares = Arc::new(Spares::default());
        let (head, strings) = (vec![7; 2000], "a".repeat(20_000));
        let first = Memory::of(&head, &strings, Some(&spares));
        let places = (first.head.as_ptr(), first.strings.as_ptr());
        drop(first);
        assert_eq!(kept(&spares), 1);

        let second = Memory::of(&head[..1500], &strings[..15_000], Some(&spares));
        assert_eq!((second.head.as_ptr(), second.strings.as_ptr()), places);
        assert_eq!((&*second.head, &*second.strings), (&head[..1500], &strings[..15_000]));
    }

    #[test]
    fn no_record_holds_far_more_memory_than_it_needs() {
        let spares = Arc::new(Spares::default());
        drop(Memory::of(&[7; 1000], &"a".repeat(50_000), Some(&spares)));
        let other = Memory::of(&[7; 1000], &"a".repeat(20_000), Some(&spares));
        assert!(other.strings.capacity() <= 40_000, "{}", other.strings.capacity());
    }

    #[test]
    fn what_is_kept_is_bounded_and_of_large_records_alone() {
        let spares = Arc::new(Spares::default());
        let strings = "a".repeat(*LARGE.start());
        let many: Vec<Memory> =
            (0..SPARES_MAX + 5).map(|_| Memory::of(&[], &strings, Some(&spares))).collect();
        drop(many);
        assert_eq!(kept(&spares), SPARES_MAX);
        drop(Memory::of(&[7], "small", Some(&Arc::clone(&spares))));
        drop(Memory::of(&[], &"a".repeat(LARGE.end() + 1), Some(&spares)));
        assert_eq!(kept(&spares), SPARES_MAX);
    }
}

//! Records that were read: judged once, then kept one behind the other in memory of their own.

use std::fmt;

use zerocopy::IntoBytes;

use super::check::{Head, Malformed, check};
use super::layout::WORD_BYTES;
use super::read::BatchView;
use super::write::BatchWriter;

/// Validated records.
///
/// Each is in two parts, header, entries, pairs and blobs, and the string area: UTF-8 is checked where it becomes a `str`, so that
/// a view costs nothing. The copy takes 3 ns per process event; checking again would take as much for every view.
#[derive(Default)]
pub(crate) struct Records {
    heads: Vec<u64>,
    strings: String,
    ends: Vec<End>,
}

/// Bytes from which on a record is worth taking over: below, the copy stays in the cache.
const TAKEN_OVER: usize = 16 << 10;

/// Where a record ends in each of both.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    heads: usize,
    strings: usize,
}

impl Records {
    /// Forgets the records, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.heads.clear();
        self.strings.clear();
        self.ends.clear();
    }

    /// Adds the record in the first `bytes` bytes of `words`, after judging every byte of it that can be read. A large one that is the
    /// first and has few strings is taken over, and `words` gets other memory for it; else it is copied.
    ///
    /// # Errors
    ///
    /// [`Malformed`] says what is wrong with it. Nothing was added.
    pub(crate) fn push(&mut self, words: &mut Vec<u64>, bytes: usize) -> Result<(), Malformed> {
        let (head, strings) = check(&words.as_bytes()[..bytes])?;
        let head_words = head.bytes() / WORD_BYTES;
        self.strings.push_str(strings);
        // What is taken over keeps the strings' bytes, too, though nobody reads them there, and all of the memory: queues charge for the
        // record alone.
        let fits = strings.len() <= bytes / 16 && words.capacity() <= 2 * head_words;
        if self.heads.is_empty() && bytes >= TAKEN_OVER && fits {
            std::mem::swap(&mut self.heads, words);
            self.heads.truncate(head_words);
        } else {
            self.heads.extend_from_slice(&words[..head_words]);
        }
        self.end();
        Ok(())
    }

    /// Adds a copy of a record that was sealed in this process.
    pub(crate) fn push_own(&mut self, record: &BatchWriter) {
        let [header, entries, pairs, blobs, strings] = record.parts();
        for part in [header, entries, pairs, blobs] {
            let start = self.heads.len();
            self.heads.resize(start + part.len() / WORD_BYTES, 0);
            self.heads[start..].as_mut_bytes().copy_from_slice(part);
        }
        self.strings.push_str(str::from_utf8(strings).expect("it was copied from strings"));
        self.end();
    }

    /// The number of records.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The record with this number.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(crate) fn view(&self, number: usize) -> BatchView<'_> {
        let start = number.checked_sub(1).map_or(End::default(), |before| self.ends[before]);
        let end = self.ends[number];
        let head = self.heads[start.heads..end.heads].as_bytes();
        let (head, _) = Head::cut(head).expect("the record was checked, and never changes");
        BatchView::new(head, &self.strings[start.strings..end.strings])
    }

    fn end(&mut self) {
        self.ends.push(End { heads: self.heads.len(), strings: self.strings.len() });
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..self.len()).map(|number| self.view(number))).finish()
    }
}

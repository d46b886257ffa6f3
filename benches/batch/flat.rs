//! Process records as flat as the bus lays them out, for a reader that trusts its writer: a fixed part for each, the ends of its
//! strings in an area behind. No version, no kinds, no correlation, no time of publishing; and nothing is checked but what keeps Rust safe.

use std::time::UNIX_EPOCH;

use daemoneye_eventbus::ProcessEvent;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    records: u32,
    pairs: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Fixed {
    pid: u32,
    ppid: u32,
    start_seconds: u64,
    start_nanos: u32,
    /// Where its strings start in the string area.
    strings: u32,
    /// Where each of them ends: name, command line, executable path.
    ends: [u32; 3],
    /// Its first pair, and how many there are.
    pairs: [u32; 2],
    /// Which options are there.
    options: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Pair {
    key_end: u32,
    value_end: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Writer {
    header: Header,
    fixed: Vec<Fixed>,
    pairs: Vec<Pair>,
    strings: Vec<u8>,
}

impl Writer {
    /// The records, in pieces to be stored one after the other.
    pub(crate) fn write(&mut self, records: &[ProcessEvent]) -> [&[u8]; 4] {
        self.fixed.clear();
        self.pairs.clear();
        self.strings.clear();
        for record in records {
            self.push(record);
        }
        self.header = Header { records: self.fixed.len() as u32, pairs: self.pairs.len() as u32 };
        [self.header.as_bytes(), self.fixed.as_bytes(), self.pairs.as_bytes(), &self.strings]
    }

    #[inline]
    fn push(&mut self, record: &ProcessEvent) {
        let (command_line, executable_path) = (&record.command_line, &record.executable_path);
        let start = record.start_time.map(|time| time.duration_since(UNIX_EPOCH).expect("after 1970"));
        let options =
            [command_line.is_some(), executable_path.is_some(), record.ppid.is_some(), start.is_some()];
        let (strings, pairs) = (self.strings.len() as u32, self.pairs.len() as u32);
        let ends = [
            self.put(&record.name),
            self.put(command_line.as_deref().unwrap_or("")),
            self.put(executable_path.as_deref().unwrap_or("")),
        ];
        for (key, value) in &record.metadata {
            let pair = Pair { key_end: self.put(key), value_end: self.put(value) };
            self.pairs.push(pair);
        }
        self.fixed.push(Fixed {
            pid: record.pid,
            ppid: record.ppid.unwrap_or_default(),
            start_seconds: start.map_or(0, |start| start.as_secs()),
            start_nanos: start.map_or(0, |start| start.subsec_nanos()),
            strings,
            ends,
            pairs: [pairs, record.metadata.len() as u32],
            options: options.iter().fold(0, |bits, there| bits << 1 | u32::from(*there)),
        });
    }

    #[inline]
    fn put(&mut self, text: &str) -> u32 {
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.len() as u32
    }
}

/// One record, in place.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) pid: u32,
    pub(crate) ppid: Option<u32>,
    /// Seconds since 1970, and the nanoseconds above.
    pub(crate) start: Option<(u64, u32)>,
    pub(crate) name: &'a [u8],
    pub(crate) command_line: Option<&'a [u8]>,
    pub(crate) executable_path: Option<&'a [u8]>,
    pairs: &'a [Pair],
    pairs_start: u32,
    strings: &'a [u8],
}

impl<'a> Seen<'a> {
    pub(crate) fn metadata(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let (strings, mut start) = (self.strings, self.pairs_start);
        self.pairs.iter().map(move |pair| {
            let (key, value) =
                (cut(strings, start, pair.key_end), cut(strings, pair.key_end, pair.value_end));
            start = pair.value_end;
            (key, value)
        })
    }
}

#[inline]
fn cut(strings: &[u8], start: u32, end: u32) -> &[u8] {
    &strings[start as usize..end as usize]
}

/// The records that a [`Writer`] wrote.
pub(crate) fn read(words: &[u64]) -> impl Iterator<Item = Seen<'_>> {
    let it_wrote = "the writer wrote it so";
    let (header, rest) = Header::ref_from_prefix(words.as_bytes()).expect(it_wrote);
    let (fixed, rest) = <[Fixed]>::ref_from_prefix_with_elems(rest, header.records as usize).expect(it_wrote);
    let (pairs, strings) = <[Pair]>::ref_from_prefix_with_elems(rest, header.pairs as usize).expect(it_wrote);
    fixed.iter().map(move |fixed| {
        let [name, command_line, path] = fixed.ends;
        let there = |option: u32| fixed.options & (8 >> option) != 0;
        let [first, count] = fixed.pairs.map(|number| number as usize);
        Seen {
            pid: fixed.pid,
            ppid: there(2).then_some(fixed.ppid),
            start: there(3).then_some((fixed.start_seconds, fixed.start_nanos)),
            name: cut(strings, fixed.strings, name),
            command_line: there(0).then(|| cut(strings, name, command_line)),
            executable_path: there(1).then(|| cut(strings, command_line, path)),
            pairs: &pairs[first..first + count],
            pairs_start: path,
            strings,
        }
    })
}

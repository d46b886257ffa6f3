//! The attacks, and what comes of each.

/// What the honest side sees.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    /// The ring is poisoned, with a text that contains this.
    Poisons(&'static str),
    /// So many events are told as lost; `further` ones are received.
    Lags { lost: u64, further: u64 },
    /// The ring ends as if the attacker were gone.
    Ends,
    /// Nothing: it goes on.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Bytes that are left to the end of the ring when it begins; 0: most of it.
    pub(super) left: u64,
    pub(super) then: Then,
}

const fn poisons(name: &'static str, text: &'static str) -> Attack {
    Attack { name, left: 0, then: Then::Poisons(text) }
}

/// At the end of the ring.
const fn at_end(name: &'static str, text: &'static str) -> Attack {
    Attack { name, left: 184, then: Then::Poisons(text) }
}

const fn harmless(name: &'static str) -> Attack {
    Attack { name, left: 0, then: Then::Nothing }
}

const fn ends(name: &'static str) -> Attack {
    Attack { name, left: 0, then: Then::Ends }
}

const TAIL: &str = "the producer set its tail to";
const CLAIMS: &str = "bytes where";
const PADDING: &str = "is out of place";
const SEQUENCE: &str = "has sequence";
const SECTIONS: &str = "the sections do not fill the record exactly";
const STRINGS: &str = "the strings of entry 1 are out of place";

/// Events that the publisher has published on a ring before it attacks.
pub(super) const BEFORE: u64 = 3;

/// A publisher against a subscriber.
pub(super) const AS_PUBLISHER: &[Attack] = &[
    poisons("tail-0", TAIL),
    poisons("tail-1", TAIL),
    poisons("tail-max", TAIL),
    poisons("tail-max-aligned", TAIL),
    poisons("tail-half-of-all", TAIL),
    poisons("tail-backwards", TAIL),
    poisons("tail-beyond-the-ring", TAIL),
    poisons("third-writer", TAIL),
    poisons("length-past-the-tail", CLAIMS),
    poisons("length-half-a-header", CLAIMS),
    poisons("length-past-the-limit", CLAIMS),
    poisons("length-max", CLAIMS),
    at_end("record-across-the-end", CLAIMS),
    poisons("padding-in-the-middle", PADDING),
    at_end("padding-short-of-the-end", PADDING),
    at_end("padding-past-the-end", PADDING),
    at_end("padding-of-a-slot", PADDING),
    at_end("padding-twice", CLAIMS),
    poisons("slot-foreign", "a record of slot 7, grant 0, which was never granted"),
    poisons("slot-beyond-all", "a record names slot 448"),
    poisons("slot-max", "a record names slot 65535"),
    poisons("generation-ahead", "a record of slot 0, grant 1, which was never granted"),
    poisons("sequence-backwards", SEQUENCE),
    poisons("sequence-0", SEQUENCE),
    poisons("sequence-max", SEQUENCE),
    Attack { name: "sequence-ahead", left: 0, then: Then::Lags { lost: 5, further: 1 } },
    harmless("lost-without-a-slot"),
    harmless("lost-backwards"),
    poisons("lost-more-than-can-be", SEQUENCE),
    ends("closed-early"),
    ends("closed-max"),
    harmless("room-at-0"),
    harmless("room-at-next"),
    harmless("room-at-max"),
    harmless("attempted-0"),
    harmless("attempted-max"),
    harmless("magic-changed"),
    poisons("batch-version", "version 2 of the layout is unknown"),
    poisons("batch-of-none", "a record cannot have 0 events"),
    poisons("batch-of-513", "a record cannot have 513 events"),
    poisons("batch-of-two-in-one", SECTIONS),
    poisons("batch-correlations", "2 correlations for 1 events"),
    poisons("batch-pairs", SECTIONS),
    poisons("batch-blobs", SECTIONS),
    poisons("batch-strings", SECTIONS),
    poisons("batch-time", "the publish time is no time"),
    poisons("batch-cut", "the record ends within its header"),
    poisons("batch-empty", "the record ends within its header"),
    poisons("batch-tail", SECTIONS),
    poisons("entry-kind", "entry 1 cannot be of kind 9"),
    poisons("entry-flags", "entry 1 cannot have the flags"),
    poisons("entry-time", "the time of entry 1 is no time"),
    poisons("entry-correlation", "entry 1 belongs to correlation 1, which does not exist"),
    poisons("correlation-too-long", "the correlation in entry 0 is above its limits"),
    poisons("entry-strings-backwards", STRINGS),
    poisons("entry-strings-past-the-end", STRINGS),
    poisons("entry-first-pair", "the pairs of entry 0 are out of place"),
    poisons("entry-blob", "the blob of entry 1 is out of place"),
    poisons("strings-no-utf8", "the string area is not UTF-8"),
    poisons("strings-split", "entry 1 splits a character"),
    poisons("strings-unclaimed", "the string area has bytes that no entry has"),
    // The last, since nothing can be added to such a sum.
    Attack { name: "lost-max", left: 0, then: Then::Lags { lost: u64::MAX - BEFORE, further: 0 } },
];

const HEAD: &str = "the consumer set its head to";

/// A subscriber against a publisher.
pub(super) const AS_SUBSCRIBER: &[Attack] = &[
    poisons("head-0", HEAD),
    poisons("head-1", HEAD),
    poisons("head-unaligned", HEAD),
    poisons("head-max", HEAD),
    poisons("head-max-aligned", HEAD),
    poisons("head-beyond-the-tail", HEAD),
    poisons("head-backwards", HEAD),
    harmless("wake-at-0"),
    harmless("wake-at-1"),
    harmless("wake-at-next"),
    harmless("wake-at-max"),
    harmless("consumer-magic-changed"),
];

/// Words that change while they are read: a publisher's, and a subscriber's.
pub(super) const FLIPS_AS_PUBLISHER: &[&str] =
    &["flip-length", "flip-slot", "flip-sequence", "flip-counts", "flip-strings", "flip-tail", "flip-lost"];
pub(super) const FLIPS_AS_SUBSCRIBER: &[&str] = &["flip-head", "flip-wake-at"];

/// What a publisher does to its end of the doorbell.
pub(super) const BELLS_AS_PUBLISHER: &[Attack] = &[
    harmless("bell-without-end"),
    harmless("bell-blocking"),
    harmless("bell-tiny"),
    harmless("bell-shut-for-reading"),
    ends("bell-shut-for-writing"),
    ends("bell-shut"),
    ends("bell-closed"),
    ends("bell-with-descriptors"),
];

/// What a subscriber does to its end of the doorbell, having never read it.
pub(super) const BELLS_AS_SUBSCRIBER: &[Attack] = &[
    harmless("bell-blocking"),
    harmless("bell-tiny"),
    harmless("bell-without-end"),
    harmless("bell-shut-for-reading"),
    ends("bell-shut-for-writing"),
    ends("bell-shut"),
    ends("bell-closed"),
    ends("bell-with-descriptors"),
];

/// What is handed over where a segment is due, and what the broker says before it hangs up.
pub(super) const DESCRIPTORS: &[(&str, &str)] = &[
    ("descriptor-none", "a descriptor where none belongs, or none where one does"),
    ("descriptor-forty", "a descriptor where none belongs, or none where one does"),
    ("descriptor-dev-null", "not a memfd on ordinary pages"),
    ("descriptor-file", "not a memfd on ordinary pages"),
    ("descriptor-socket", "not a memfd on ordinary pages"),
    ("descriptor-lingers", "not a memfd on ordinary pages"),
    ("descriptor-huge-pages", "not a memfd on ordinary pages"),
    ("descriptor-lacks-all", "lacks seals"),
    ("descriptor-lacks-shrink", "lacks seals"),
    ("descriptor-lacks-grow", "lacks seals"),
    ("descriptor-lacks-future-write", "lacks seals"),
    ("descriptor-lacks-seal", "lacks seals"),
    ("descriptor-short", "were agreed"),
    ("descriptor-long", "were agreed"),
    ("descriptor-sparse", "of its"),
    ("handle-a-name", "a segment that is not what rings are made of here"),
];

const TOO_MANY: &str = "a descriptor where none belongs, or none where one does";
const NO_SEGMENT: &str = "nor the name of such a segment";
const MALFORMED: &str = "holds no message of this version";

/// What is handed over where a name is due, and what the broker says before it hangs up; empty: it is taken.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("handle-a-descriptor", "a segment that is not what rings are made of here"),
    ("handle-none", TOO_MANY),
    ("name-and-a-descriptor", TOO_MANY),
    ("name-and-what-lingers", TOO_MANY),
    ("name-empty", MALFORMED),
    ("name-too-long", MALFORMED),
    ("name-of-a-path", MALFORMED),
    ("name-in-capitals", MALFORMED),
    ("name-of-the-other-kind", NO_SEGMENT),
    ("named-gone", "is gone"),
    ("named-link", NO_SEGMENT),
    ("named-folder", NO_SEGMENT),
    ("named-leased", NO_SEGMENT),
    ("named-pipe", "has 0 bytes where"),
    ("named-short", "were agreed"),
    ("named-long", "were agreed"),
    ("named-read-by-others", "with mode 604"),
    ("named-written-by-a-group", "with mode 620"),
    ("named-of-a-stranger", "belongs to uid 65534"),
    ("named-sparse", ""),
];

/// What a name leads to once the broker has looked, and of what the reader then accuses who did that; empty: of nothing.
pub(super) const SWAPPED: &[(&str, &str)] = &[
    ("swapped-gone", ""),
    ("swapped-link", NO_SEGMENT),
    ("swapped-folder", NO_SEGMENT),
    ("swapped-leased", NO_SEGMENT),
    ("swapped-short", "were agreed"),
    ("swapped-read-by-others", "with mode 604"),
];

/// Sizes that a subscription asks for, and how it is refused.
pub(super) const SIZES: &[(&str, u64, &str)] = &[
    ("size-0", 0, "RingBytes"),
    ("size-1", 1, "RingBytes"),
    ("size-63-kib", 63 << 10, "RingBytes"),
    ("size-no-power-of-two", (64 << 10) + 1, "RingBytes"),
    ("size-2-gib", 2 << 30, "RingBytes"),
    ("size-max", u64::MAX, "RingBytes"),
    // The broker of these tests has less.
    ("size-above-the-share", 1 << 30, "RingBudget"),
];

/// A segment that the broker takes, and the other side does not.
pub(super) const SPOILED: &str = "descriptor-magic";

/// What the kernel says to attempts on a segment, whoever makes them.
pub(super) const KERNEL: &[(&str, &str)] = &[
    ("ftruncate-shrink", "PERM"),
    ("ftruncate-grow", "PERM"),
    ("punch-hole", "PERM"),
    ("zero-range", "OPNOTSUPP"),
    ("allocate-behind", "PERM"),
    ("write", "PERM"),
    ("mmap-writable", "PERM"),
    ("mprotect-writable", "ACCESS"),
    ("seal-more", "PERM"),
    ("reopen-write", "PERM"),
    ("reopen-mmap", "PERM"),
    ("reopen-ftruncate", "PERM"),
];

/// What the kernel says to a process of the same user that attempts this on a segment with a name, and whether who shares the ring
/// dies of it.
pub(super) const NAMED_KERNEL: &[(&str, &str, bool)] = &[
    ("ftruncate-grow", "done", false),
    ("allocate-behind", "done", false),
    ("write", "done", false),
    ("mmap-writable", "done", false),
    ("mprotect-writable", "done", false),
    ("reopen-write", "done", false),
    ("reopen-mmap", "done", false),
    ("zero-range", "OPNOTSUPP", false),
    ("seal-more", "PERM", false),
    ("punch-hole", "done", false),
    ("ftruncate-shrink", "done", true),
    ("reopen-ftruncate", "done", true),
];

/// Words of the other side, which a process of the same user can write where they have a name: a subscriber's, a publisher's.
pub(super) const THEIRS_AS_PUBLISHER: &[&str] = &["their-magic", "their-head", "their-wake-at", "their-all"];
pub(super) const THEIRS_AS_SUBSCRIBER: &[&str] = &[
    "their-magic",
    "their-tail",
    "their-attempted",
    "their-lost",
    "their-slots",
    "their-closed",
    "their-room-at",
    "their-records",
    "their-all",
];

/// What a publisher sends over the broker, and what its goodbye says was against the protocol.
pub(super) const RELAYS: &[(&str, &str)] = &[
    ("relay-ungranted-slot", "a record of a slot that was never granted"),
    ("relay-ungranted-again", "a record of a slot that was never granted"),
    ("relay-too-large", "a record larger than its ring takes"),
    ("relay-beyond-window", "more records than the window of their ring holds"),
    ("relay-loss-beyond-window", "more records than the window of their ring holds"),
    ("relay-too-many-events", "more events than can be counted"),
    ("relay-cut-head", "a record whose head is cut"),
    ("relay-in-crumbs", "a frame that ends within a record, and is not full"),
    ("relay-for-others", "records for a ring of others"),
    ("relay-unended", "a record that was begun and is not ended in time"),
];

//! A single-producer single-consumer byte ring in shared memory, for two processes that do not trust each other.
//!
//! What it does: variable-length records, in order, from one [`Producer`] to one [`Consumer`], without a lock, a
//! read-modify-write or a system call per record. Either side may be hostile: what the other side writes is read once,
//! checked, and only then used.
//!
//! What it does **not** do: it never blocks and never resizes; a full ring refuses the record and counts its events
//! as lost, and the consumer is told exactly how many. It carries bytes, not types, and does not know what an event is.
//! It does not survive the consumer's death with its contents: records not yet read are gone.
//!
//! # Two segments
//!
//! ```text
//!   producer's process                                     consumer's process
//!  ┌─────────────────────┐   segment P: tail, data        ┌─────────────────────┐
//!  │ Producer  read-write ├───────────────────────────────► read-only  Consumer │
//!  │           read-only ◄────────────────────────────────┤ read-write          │
//!  └─────────────────────┘   segment C: head, wake_at     └─────────────────────┘
//! ```
//!
//! Each segment has one writer, and the kernel holds that: the writer creates it, maps it, and seals it so that nobody
//! else can map it writable, write to it, or change its size ([`ProducerSegment`], [`ConsumerSegment`]). The other side
//! checks those seals with the kernel before it maps ([`ProducerView`], [`ConsumerView`]). Nothing has a name; nothing is
//! left when both processes are gone, however they went. The byte map stands in [`layout`].
//!
//! # Invariants
//!
//! - **I1** Each shared word has one writer: `Producer` and `Consumer` are not `Clone` and take their segments by value.
//! - **I2** Positions only grow, are multiples of 8, and `head <= tail <= head + capacity`.
//! - **I3** A word of the other side is loaded once into a local, checked, and only the local is used.
//! - **I4** A record lies within `[head, tail)` and does not cross the end of the data area.
//! - **I5** Shared memory is seen as `AtomicU64` and as nothing else.
//! - **I6** A mapping outlives each reference into it: references are derived from a borrow of its owner.
//! - **I7** A mapped segment can neither shrink nor be sparse, so that touching it can't raise a signal.
//!
//! A breach of I2 or I4 by the other side is a [`Violation`]: the end that saw it is *poisoned* and does nothing more.
//!
//! # Example
//!
//! ```
//! use shm::{Consumer, ConsumerSegment, ConsumerView, Producer, ProducerSegment, ProducerView};
//!
//! // Each side creates what it writes, and hands the descriptor to the other (SCM_RIGHTS between processes).
//! let data = ProducerSegment::create(1 << 16)?;
//! let marks = ConsumerSegment::create()?;
//! let seen_data = ProducerView::attach(data.descriptor().try_clone_to_owned()?, 1 << 16)?;
//! let seen_marks = ConsumerView::attach(marks.descriptor().try_clone_to_owned()?)?;
//! let mut producer = Producer::new(data, seen_marks);
//! let mut consumer = Consumer::new(seen_data, marks);
//!
//! producer.push(0, 0, 1, &[b"procmond started"])?;
//! let _wake = producer.flush(); // true: the consumer sleeps, ring its doorbell
//!
//! let mut payload = Vec::new();
//! let record = consumer.read(&mut payload)?.expect("one record was flushed");
//! assert_eq!((record.bytes, payload[0].to_le_bytes()), (16, *b"procmond"));
//! assert_eq!(consumer.settle(&record, 1)?, 0); // nothing was lost before it
//! consumer.release();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod consumer;
mod doorbell;
pub mod layout;
mod producer;
mod ring;
mod segment;
mod sync;

pub use consumer::{Consumer, Moment, Record};
pub use doorbell::{Doorbell, Heard, PeerGone};
pub use producer::{Producer, PushError};
pub use ring::{Memory, Violation};
pub use segment::{
    ConsumerSegment, ConsumerView, Pair, ProducerSegment, ProducerView, SegmentError, check_consumer_segment,
    check_producer_segment,
};

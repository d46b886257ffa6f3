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
//! Each segment has one writer, and on Linux the kernel holds that: the writer creates it, maps it, and seals it so that nobody
//! else can map it writable, write to it, or change its size ([`ProducerSegment`], [`ConsumerSegment`]). The other side
//! checks those seals with the kernel before it maps ([`ProducerView`], [`ConsumerView`]). Nothing has a name; nothing is
//! left when both processes are gone, however they went. The byte map stands in [`layout`].
//!
//! Other platforms have no such memory. [`Backing`] says what they have, and what is weaker about it; it can be had on Linux, too.
//!
//! # The life of a record
//!
//! The data area is a ring of `capacity` bytes, a power of two. `tail` and `head` are *positions*: bytes written, and bytes given back, since
//! the ring was made. They never wrap (2⁶⁴ bytes are centuries), and a position modulo `capacity` is a place in the data area.
//!
//! 1. [`Producer::push`] writes a record behind the last one: a header of 16 bytes and the payload, padded to 8. Nobody sees it yet. A record
//!    never crosses the end of the data area; where it would, a padding record fills the rest.
//! 2. [`Producer::flush`] stores `tail`, which publishes all that was pushed. A burst costs one publication. Until then it can be
//!    taken back ([`Producer::rewind`]).
//! 3. [`Consumer::read`] loads `tail`, checks it, checks the header of the next record, and copies the payload out. What the caller
//!    gets is its own memory: the producer may scribble over the ring meanwhile, and changes nothing.
//! 4. [`Consumer::settle`] is told how many events the record held (that is for the caller to know), and yields how many were lost before it.
//! 5. [`Consumer::release`] stores `head`, which gives the space back.
//!
//! Each side keeps its own position, and the last one that it saw of the other, in private memory: it looks for the other's position only when it
//! runs out of records or of space, and for a sleeper once per flush and once per release.
//!
//! A record carries a *slot*, the ring-local number of what it is about (below [`layout::SLOTS_MAX`]), and a *generation*, the number of the
//! grant under which that slot was used. The ring transports both, and counts per slot.
//!
//! # Losses
//!
//! A push that finds no space is refused, and its events are counted as *attempted* on their slot all the same. Each record says how many events were
//! attempted on its slot before it, so a gap is the loss, exact and in its place. A loss behind the last record has no record to
//! tell of it: for that, a flush stores the slot's count and the ring's count of losses, and [`Consumer::tail_loss`] tells the difference when the
//! ring is empty. A flush without a loss does not touch them.
//!
//! # Sleeping, and being woken
//!
//! The ring itself never waits. A consumer that finds nothing says with [`Consumer::arm`] at which position it wants to be woken
//! (`wake_at`), looks once more, and sleeps on its [`Doorbell`]; the flush that crosses the position, or that tells of a loss, or the end, answers
//! `true`: ring. So a consumer that is awake costs its producer no system call, and one that wants more than a byte is woken for that
//! much only. A producer that would rather wait than lose does the same with [`Producer::has_room`] and [`Producer::arm`] (`room_at`), and
//! [`Consumer::release`] answers `true` when it is to be rung. One doorbell serves both directions. [`Doorbell::ring`] may answer `false`
//! when the kernel is short of memory: then ring again, later.
//!
//! # The end
//!
//! [`Producer::close`] says that nothing more will come; [`Consumer::ended`] is true once all of it was read and told. A producer that dies
//! says nothing, but what it published stays: its consumer hears of the death on the doorbell, takes what is there for all there will ever be
//! ([`Consumer::freeze`]), and reads until there is nothing more. How many events a producer attempted stands in `attempted`
//! ([`Consumer::attempted`]): what was received and what was lost of a dead one add up to it, or to a flush more.
//!
//! A consumer or producer must not be used in a forked child: on Linux mappings are not inherited there, and touching one is a SIGSEGV.
//! Start other programs with `exec`, as [`std::process::Command`] does.
//!
//! # Orderings
//!
//! Each hand-over is a release that names its acquire; two orders need a full fence on both sides. `docs/memory.md` has the place, the
//! model and the mutant for each.
//!
//! | name | who has seen … | has also seen … |
//! |---|---|---|
//! | `DATA` | `tail` | the bytes of the records before it |
//! | `SPACE` | `head` | that the bytes before it were copied out |
//! | `LOSS` | `lost`, or the count of a slot | the records before these losses |
//! | `COUNT` | `attempted` | the records and losses that it counts |
//! | `CLOSE` | `closed` | all that came before the end |
//! | `ANSWER` | `wake_at` | the space that was given back before |
//! | `SLEEP` | either the producer sees `wake_at`, or the consumer what was published | |
//! | `ROOM` | either the consumer sees `room_at`, or the producer the space | |
//!
//! # Invariants
//!
//! - **I1** Each shared word has one writer: `Producer` and `Consumer` are not `Clone` and take their segments by value.
//! - **I2** Positions only grow, are multiples of 8, and `head <= tail <= head + capacity`.
//! - **I3** A word of the other side is loaded once into a local, checked, and only the local is used.
//! - **I4** A record lies within `[head, tail)` and does not cross the end of the data area.
//! - **I5** Shared memory is seen as `AtomicU64` and as nothing else.
//! - **I6** A mapping has pages of its own, and outlives each reference into them: references are derived from a borrow of its owner.
//! - **I7** A mapped segment can neither shrink nor be sparse, so that touching it can't raise a signal. The kernel holds that for
//!   sealed memory; for named memory it is a promise of the peer, who is of the same user.
//!
//! A breach of I2 or I4 by the other side is a [`Violation`]: the end that saw it is *poisoned*, and reads, or takes, nothing more.
//!
//! # Example
//!
//! Both ends in one process; `examples/two_processes.rs` has them in two.
//!
//! ```
//! use shm::{Backing, Consumer, ConsumerSegment, ConsumerView, Producer, ProducerSegment, ProducerView};
//!
//! // Each side creates what it writes, and hands its handle to the other (SCM_RIGHTS between processes, or by name).
//! let data = ProducerSegment::create(1 << 16, Backing::default())?;
//! let marks = ConsumerSegment::create(Backing::default())?;
//! let seen_data = ProducerView::attach(data.handle().try_clone()?, 1 << 16)?;
//! let seen_marks = ConsumerView::attach(marks.handle().try_clone()?)?;
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
//! let _wake = consumer.release(); // true: the producer waits for space, ring its doorbell
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod consumer;
mod descriptor;
mod doorbell;
pub mod layout;
mod producer;
mod ring;
mod segment;
mod sync;

pub use consumer::{Consumer, Moment, Record};
pub use descriptor::{Descriptor, close_together};
#[cfg(unix)]
pub use descriptor::{Received, empty, receive};
pub use doorbell::{Doorbell, Heard, PeerGone};
pub use producer::{Producer, PushError, Savepoint};
pub use ring::{Memory, Violation};
pub use segment::{
    Backing, BadName, ConsumerSegment, ConsumerView, Handle, Pair, ProducerSegment, ProducerView, Progress,
    SegmentError, SegmentName, check_consumer_segment, check_producer_segment, collect_abandoned,
};

//! Limits and defaults, each with its reason. What happens at a limit stands beside it.

use std::time::Duration;

/// Where a broker listens unless told otherwise. The founding README names it.
pub(crate) const SOCKET_PATH: &str = "/tmp/daemoneye.sock";

/// Bytes of the name of an instance, which is part of the name of its socket. Above it: refused.
pub(crate) const INSTANCE_BYTES_MAX: usize = 32;

/// Mode of the socket's file: its owner alone.
pub(crate) const SOCKET_MODE: u32 = 0o600;

/// Data bytes of one ring. Holds a burst of some 30,000 process records, and stays within the last-level cache of
/// common machines, where a ring of 64 MiB is four times slower. Full: the newest records are lost, and counted.
pub(crate) const RING_BYTES: usize = 8 << 20;

/// Bytes that all rings of a broker may have together, with all of both segments of each. It is a limit and takes nothing: a ring
/// is allocated when it comes to be. What is usual, four collectors with two publishers each and four subscribing processes,
/// are 32 rings, 256 MiB. Above it: who asks for what would need another ring is refused.
pub(crate) const RING_BUDGET_BYTES: u64 = 4 << 30;

/// The share of one user in that. Half, so that no user can take all. A session has as much of it as it leaves to the others: it holds one
/// process that hears 127 publishers, or four of one user that hear 51 each. With more they need a larger share, or smaller rings. Above
/// it: a subscribe is refused, and a subscription whose publisher comes later ends, with its session.
pub(crate) const RING_BUDGET_PER_UID: u64 = RING_BUDGET_BYTES / 2;

/// Whether a ring can have so many data bytes: a power of two from 64 KiB to 1 GiB.
pub(crate) fn is_ring_size(bytes: u64) -> bool {
    let range = shm::layout::CAPACITY_MIN as u64..=shm::layout::CAPACITY_MAX as u64;
    bytes.is_power_of_two() && range.contains(&bytes)
}

/// Bytes of batches that wait for one subscription; as much again of each lane may be with its reader. Twice a ring, since a queue
/// charges more for a single event than its record has: what a full ring held while its process was stopped fits. Full: the
/// newest batches are lost to this subscription, and counted.
pub(crate) const QUEUE_BYTES: usize = 2 * RING_BYTES;

/// Which part of a ring, and of a queue, is kept for urgent topics: an eighth, some 4,000 events of 256 bytes in a ring of the
/// default size. Bulk finds them full before that, and can't crowd an alert out.
pub(crate) const URGENT_PART: usize = 8;

/// Publishers of which a queue notes that they have something in it. They come and go while nobody reads. Above it: no urgent batch goes
/// ahead until the reader has taken over what waits, and then what it has taken over.
pub(crate) const PUBLISHERS_NOTED_MAX: usize = 16 << 10;

/// Urgent entries of a queue that go ahead of an ordinary one, not more: whoever floods an urgent topic can't keep others from being heard.
pub(crate) const URGENT_AHEAD_MAX: usize = 16;

/// How long a publisher, or a subscriber, may take to install a route. Beyond it, its session ends: an event must not be
/// published past a subscriber that believes itself subscribed.
pub(crate) const ROUTE_DEADLINE: Duration = Duration::from_millis(500);

/// Rings larger than the broker's own that a publishing process makes at a time. Making one goes on when who asked for it has gone, and
/// is charged to nobody by then: so much of that may there be, and no more. Above it: they wait, for the route deadline at most.
pub(crate) const MAKING_MAX: usize = 2;

/// How long a connection may stay without a valid hello. Beyond it, it is closed.
pub(crate) const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// How long a launch token is good before it is used, unless its terms say otherwise: a process is started within that.
pub(crate) const TOKEN_VALIDITY: Duration = Duration::from_secs(60);

/// How long a client waits for the broker's answer to one request, the route deadline included.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of one control frame. The largest, a subscribe with all its patterns, needs a quarter. Above it: the session ends.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;

/// Frames of records that cost a session as much of its pace as one request: they are looked at, and sent on.
pub(crate) const FRAMES_PER_REQUEST: u32 = 8;

/// Bytes of records that one frame brings which go over the broker: a record of the usual size fits, and there is room for the rest of the
/// message.
pub(crate) const RELAYED_BYTES_MAX: usize = FRAME_BYTES_MAX - 64;

/// Bytes of records that go over the broker and wait there to be read, of all sessions together; a user's share is half of it. Eight
/// subscribers that stand still while a ring's worth is sent to each. Above it: the newest are lost, and counted.
pub(crate) const RELAYED_BYTES_OF_ALL: u64 = 64 << 20;

/// How long after a frame that ends within a record the next may take to come, of a publisher whose records go over the broker: who is to
/// read the record is charged for all of it, and the frames of one that is begun are sent one behind the other. It is as long as a client
/// waits for an answer, since the publisher's thread, or process, may be held up. Beyond it: the publisher's session ends.
pub(crate) const RECORD_DEADLINE: Duration = REQUEST_DEADLINE;

/// Bytes of a message that somebody keeps: an event as large as a ring of the default size takes, and its correlation. Above it: refused.
pub(crate) const MESSAGE_BYTES_MAX: usize = RING_BYTES / 4;

/// What each tag of its correlation counts as beside its text: its place in a map.
pub(crate) const MESSAGE_TAG_BYTES: usize = 64;

/// Memory of what one control frame decodes into: of each list with its items, and of all texts together. Above it: the session
/// ends.
pub(crate) const FRAME_MEMORY_MAX: usize = 256 << 10;

/// Sessions of one broker, each with two descriptors at most and some 100 KiB. Above it: the oldest that has not said hello goes, else the
/// newcomer is refused.
pub(crate) const SESSIONS_MAX: usize = 1024;

/// Of these one user's. Above it: as above, among that user's.
pub(crate) const SESSIONS_PER_UID: usize = 768;

/// Sessions that have not said hello: as many as there are processes of a large host that connect at once when the agent starts. Above
/// it: the oldest goes.
pub(crate) const HANDSHAKES_MAX: usize = 768;

/// Of these one user's. Above it: the oldest of that user goes.
pub(crate) const HANDSHAKES_PER_UID: usize = 576;

/// How long a connection may stay without a hello where the process has no descriptors for newcomers. A client says it at once; this
/// is what a busy host may keep it from that. Beyond it: the oldest goes, one for each newcomer that could not be accepted.
pub(crate) const HELLO_GRACE: Duration = Duration::from_secs(1);

/// How long a connection has to say hello, at least, before it goes for newcomers of its user: as long these wait to be let in. A client says it
/// at once; this is what a host with many newcomers may keep it from that.
pub(crate) const HELLO_TURN: Duration = Duration::from_millis(50);

/// For how long the broker does not sleep while it waits for the hello of one whom it has just let in: a hello takes about 100 µs, and to be
/// woken for it 40 to 80 more.
pub(crate) const HELLO_ATTENTION: Duration = Duration::from_micros(200);

/// For how long it sleeps instead, after one who took longer or was not let in. So such newcomers have it awake for 0.2 % of the time.
pub(crate) const HELLO_INATTENTION: Duration = Duration::from_millis(100);

/// Connections that were made for processes which have not spoken yet. Above it: refused.
pub(crate) const PAIRS_WAITING_MAX: usize = 64;

/// Subscriptions of one session. Above it: refused.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 16_384;

/// Subscriptions of all sessions. Each takes some 200 bytes, and a place in the answer to which a declared topic leads. Above it:
/// refused.
pub(crate) const SUBSCRIPTIONS_OF_ALL: usize = 32_768;

/// What a segment of a pattern takes in the trie at most: a node of its own, in a map that has room for ten others.
pub(crate) const PATTERN_SEGMENT_BYTES: u64 = 1280;

/// Bytes of the patterns of all sessions: 13,000 that are as long as can be and have nothing in common. Above it: refused.
pub(crate) const PATTERN_BYTES_OF_ALL: u64 = 64 << 20;

/// Topics of all publishers: as many as a session can have, four times. Above it: refused.
pub(crate) const TOPICS_OF_ALL: usize = 4 * PUBLISHERS_MAX * TOPICS_MAX;

/// Publishers of all sessions. Above it: refused.
pub(crate) const PUBLISHERS_OF_ALL: usize = 4096;

/// Of these those of strangers together, of which the first has half, and a session of it half of that. Each costs whoever hears it a
/// ring, so many take half of what a subscriber has for rings that is the only one of its user: who may publish what others listen to
/// could use up their share else. Above it: refused.
pub(crate) const PUBLISHERS_OF_STRANGERS: usize = 64;

/// Which part of everything else that is shared out is kept for the users of components: a quarter, so that whoever they let in beside
/// them leaves them a bus.
pub(crate) const COMPONENTS_PART: u64 = 4;

/// Requests of one session each second, a pattern of a subscribe being one. The broker's loop takes some 10 µs for each, so this is a
/// twentieth of it. Above it: the session is not read for a while.
pub(crate) const REQUESTS_PER_SECOND: u32 = 5000;

/// Requests that a session may be ahead of that: what a client asks for when it starts. Above it: as above.
pub(crate) const REQUESTS_AHEAD: u32 = 10_000;

/// As many sessions as all of one stranger together may ask like. Above it: the one that asks is not read for a while.
pub(crate) const STRANGERS_SESSIONS: u32 = 4;

/// For how long a session is not read at a time: a fifth of the time that it has to answer.
pub(crate) const REQUESTS_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that are not worth reading by themselves, if they end within a frame. What a full socket cuts is larger.
pub(crate) const PART_BYTES: usize = 4 << 10;

/// For how long the broker does not read from a session that has sent a small part of a frame. Honest clients send them whole; byte by byte a
/// session costs a thousand looks a second, and not as many as the host can make.
pub(crate) const PART_PAUSE: Duration = Duration::from_millis(1);

/// For how long a session that has sent what is no message, or no hello first, is kept, unread, before it is sent away: who comes again
/// and again to do so comes ten times a second with each connection that its user may have without a hello.
pub(crate) const BREACH_PAUSE: Duration = Duration::from_millis(100);

/// How long a client whose last handle has gone waits for the broker to take note, before it lets go of its thread: who connects again from the
/// same process waits for that, since the name is taken until then. The broker may leave a session unread for a tenth of it.
pub(crate) const HANG_UP_LONGEST: Duration = Duration::from_secs(1);

/// After how long a client that has lost its broker first looks for it, at most; half of it at least. Each time that it is not there twice as long.
pub(crate) const RETURN_FIRST: Duration = Duration::from_millis(50);

/// Up to this: no timer of an idle process is shorter than half a minute, but by the chance that keeps many from coming at once.
pub(crate) const RETURN_LONGEST: Duration = Duration::from_secs(60);

/// Events, or messages, that a channel of tokio holds beyond its subscription's queue: enough to wake its reader for many at once, and a bound in
/// bytes with it, since each is smaller than a frame.
pub(crate) const FEED_LENGTH: usize = 32;

/// What a client keeps of what nobody hears while there is no broker, in bytes: some 15,000 process events.
pub(crate) const OUTBOX_BYTES: usize = 4 << 20;

/// For how long it is kept once there is a broker: an agent that has just started may subscribe a little later.
pub(crate) const KEPT_LONGEST: Duration = Duration::from_secs(30);

/// How long it then waits for word that a subscriber takes what comes, who has a ring for it: a client of an older version never says so. A
/// broker does not wait for a route for longer than half of it.
pub(crate) const SETTLED_LONGEST: Duration = Duration::from_secs(1);

/// What of it is put into rings at a time, in bytes. Longer the publisher's thread need not wait, which may want to add to it.
pub(crate) const KEPT_POUR_BYTES: u64 = 256 << 10;

/// How long it waits for room in a ring whose subscriber reads nothing.
pub(crate) const KEPT_STUCK_LONGEST: Duration = Duration::from_secs(1);

/// For how long who is back goes on with rings to subscribers, and from publishers, that are not: they look for the broker as often as it
/// did. Above it: such rings end, since no broker says any more that the other end may hear, or be heard.
pub(crate) const ORPHANS_LONGEST: Duration = Duration::from_secs(120);

/// Patterns of one subscription. Above it: refused.
pub(crate) const PATTERNS_MAX: usize = 64;

/// Publishers of one session. Above it: refused.
pub(crate) const PUBLISHERS_MAX: usize = 64;

/// Topics of one publisher: below the slots of a ring, so that each can have one. Above it: refused.
pub(crate) const TOPICS_MAX: usize = 256;

/// Slots of one ring: as many as its memory counts losses for. Each new grant of a topic is a new generation of its slot, and
/// after 65,536 of them a new slot. Used up: the subscriber's session ends.
pub(crate) const SLOTS_MAX: usize = shm::layout::SLOTS_MAX;

/// How often who waits for the answer to a request looks whether anybody is there to answer.
pub(crate) const RESPONDER_CHECK: Duration = Duration::from_millis(100);

/// How often a publisher that is in use looks whether its subscribers are still there. The broker says so, too, but not to a
/// process that was stopped meanwhile, or whose session is over.
pub(crate) const DESERTED_CHECK: Duration = Duration::from_millis(100);

/// How often a publisher that is in use asks the wall clock, and goes by the monotonic one in between, which it reads anyway: to read
/// both took an eighth of the time of publishing one event. When the clock is set, events have the old time for as long.
pub(crate) const CLOCK_CHECK: Duration = Duration::from_millis(100);

/// For how long a thread that reads the rings itself may be away from them before the data thread goes on, and up to twice that. A fast
/// publisher fills a ring of the default size in 2 ms.
pub(crate) const AWAY_MAX: Duration = Duration::from_millis(1);

/// How long after the host refused something it is tried again: descriptors run short for moments.
pub(crate) const HOST_RETRY: Duration = Duration::from_millis(10);

/// Interruptions that wait for one subscription. Above it: the newest are not told, only logged.
pub(crate) const INTERRUPTIONS_MAX: usize = 64;

/// Pairs of components whose broken rings the broker counts. Above it: the pair whose last breach is the oldest is forgotten.
pub(crate) const POISONINGS_MAX: usize = 1024;

/// Pairs of component and user whose refusals the broker counts. Above it: the pair whose last refusal is the oldest is forgotten.
pub(crate) const REFUSALS_MAX: usize = 1024;

/// Who joined and who left, that waits for a reader: as many as there are sessions, so that the end of all of them is told to who reads
/// nothing meanwhile. Above it: the oldest are lost to that reader, which is told how many.
pub(crate) const MEMBERSHIP_CHANGES_MAX: usize = 1024;

/// How long a client may take to say what it has counted, when somebody asks for the broker's statistics. Beyond it: it is shown as not
/// answering.
pub(crate) const TELL_DEADLINE: Duration = Duration::from_millis(400);

/// How long after the clients were asked for that they may be asked again. Sooner: who asks waits.
pub(crate) const TELL_PAUSE: Duration = Duration::from_millis(100);

/// The longest that an event is noted to have taken. Above it: it counts as that.
pub(crate) const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// Items of each list in what a client says of itself. Our own cuts them. Above it: the session ends.
pub(crate) const CLAIMS_MAX: usize = 256;

/// Bytes of what a broker tells of itself: a quarter of what may wait for who asks. Above it: each session's part of it is cut
/// to what the others leave it, and it is said how much is left out.
pub(crate) const STATISTICS_BYTES_MAX: usize = OUTGOING_BYTES_MAX / 4;

/// Breaches of rings, and users with their shares, that are among them: the latest, and the first by number.
pub(crate) const STATISTICS_LISTED_MAX: usize = 64;

/// How long one cause of refusals is told once, and the limits below hold.
pub(crate) const AUDIT_WINDOW: Duration = Duration::from_secs(10);

/// Causes of refusals of one component that are told. Above it: counted.
pub(crate) const CAUSES_MAX: usize = 16;

/// Records about refusals of all components of one user. Above it: counted.
pub(crate) const REFUSALS_PER_USER_MAX: u32 = 256;

/// Records about what they were granted: what 1024 sessions that start at once cause. Above it: counted.
pub(crate) const RECORDS_PER_USER_MAX: u32 = 8192;

/// Of these, records about rings that they broke and rights that they lost: what somebody asks for must not crowd them out. Above it:
/// counted.
pub(crate) const BREACHES_PER_USER_MAX: u32 = 1024;

/// Users whose records are counted. Above it: the one whose window began first is forgotten.
pub(crate) const USERS_MAX: usize = 1024;

/// Frames that wait for a client that does not read. Above it: its session ends.
pub(crate) const OUTGOING_FRAMES_MAX: usize = 4096;

/// Bytes of the frames that wait for a client that does not read: sixteen of the largest answers, and with 1024 clients no more than a
/// host has. Above it: its session ends.
pub(crate) const OUTGOING_BYTES_MAX: usize = 1 << 20;

/// Frames that wait for the client in the broker's own process: more than one input causes, since other clients decide how many
/// routes lead there, and the session that they could end so is the agent's. Above it: its session ends.
pub(crate) const EMBEDDED_FRAMES_MAX: usize = 1 << 20;

/// Characters of a client id or a component name. Above it: refused.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Records that the data thread takes from one ring before it looks at the next.
pub(crate) const RECORDS_PER_TURN: usize = 256;

/// Bytes that the data thread takes from one ring before it looks at the next, however large the ring is.
pub(crate) const TURN_BYTES_MAX: usize = 1 << 20;

/// In how many turns the data thread empties a full ring, at least. It gives space back at the end of a turn, and a publisher
/// must not find the ring full of what was read already.
pub(crate) const TURNS_PER_RING: usize = 16;

/// Bytes of each list in the answer to a subscribe (patterns granted, patterns withheld, publishers missed). Above it: the list is
/// cut, the rights are not.
pub(crate) const ANSWER_LIST_BYTES: usize = 16 << 10;

/// Descriptors that wait for the rest of their frame: that of one whose rest comes, and that of the frame behind it, which the kernel hands over
/// together. A session keeps as many for as long as it likes. Above it: the session ends.
pub(crate) const DESCRIPTORS_WAITING_MAX: usize = 2;

/// Bytes of a policy file. The default table takes 4 KiB of it. Above it: refused.
pub(crate) const POLICY_BYTES_MAX: usize = 256 << 10;

/// Rows that a policy file may have. A decision looks at each at worst, on the broker's loop. Above it: refused.
pub(crate) const POLICY_ROWS_MAX: usize = 256;

/// Names in each list of such a row: a refusal says all of them. Above it: refused.
pub(crate) const POLICY_NAMES_MAX: usize = 64;

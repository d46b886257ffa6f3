//! The bytes of the protocol, held against `docs/wire.md`: what is sent changes only together with the page.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{Undecodable, decode, encode};
use super::frames::frame;
use super::{Notice, OrderId, Request};
use crate::config;
use crate::identity::Proofs;
use crate::link::Message;
use crate::sys::Secret;

mod examples;

use examples::{Documented, hello, nonce};

const PAGE: &str = include_str!("../../docs/wire.md");

/// A row of a table: what stands between its bars.
fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

/// The rows of the table under a heading, without its head.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = PAGE.split_once(&format!("# {heading}\n")).expect("the page has this heading");
    let table = section.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    table.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
    pairs.map(|pair| u8::from_str_radix(&pair, 16).expect("two digits")).collect()
}

/// The bytes of a block of the page, without the words behind two spaces.
fn block(name: &str) -> Vec<u8> {
    let (_, rest) = PAGE.split_once(&format!("```text {name}\n")).expect("the page has this block");
    let lines = rest.lines().take_while(|line| *line != "```");
    lines.flat_map(|line| bytes_of(line.split("  ").next().expect("a line has a start"))).collect()
}

/// Each row has a number, a name, the fields in their order, and at last an example, which is the one that we have.
fn assert_documented<T: Documented + Serialize + DeserializeOwned + PartialEq + Debug>() {
    let (rows, examples) = (rows(T::HEADING), T::examples());
    let named: Vec<&str> = examples.iter().map(Documented::variant).collect();
    assert_eq!(named, T::VARIANTS, "an example for each variant of {}", T::HEADING);
    assert_eq!(rows.len(), examples.len(), "a row for each variant of {}", T::HEADING);
    for (number, (row, example)) in rows.iter().zip(examples).enumerate() {
        assert_eq!(row[0], number.to_string(), "{row:?}");
        assert_eq!(quoted(row[1]).next(), Some(example.variant()), "{row:?}");
        let golden = bytes_of(quoted(row[row.len() - 1]).next().expect("a row has an example"));
        assert_eq!(encode(&example), golden, "{example:?} is sent as {}", hex(&encode(&example)));
        assert_eq!(decode::<T>(&golden).as_ref(), Ok(&example), "{row:?}");
        assert_eq!(usize::from(golden[0]), number, "{row:?}");
        assert_fields(&format!("{example:?}"), row[2]);
    }
}

/// The fields that a row names are those of the value, in their order.
fn assert_fields(value: &str, fields: &str) {
    let mut rest = value;
    for field in quoted(fields).filter(|name| name.starts_with(|c: char| c.is_lowercase())) {
        let (_, behind) = rest.split_once(&format!("{field}: ")).unwrap_or_else(|| {
            panic!("`{field}` is not next in {rest}");
        });
        rest = behind;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_message_has_the_number_fields_and_bytes_that_the_page_says() {
    assert_documented::<Request>();
    assert_documented::<Notice>();
}

#[test]
fn what_messages_are_made_of_has_the_numbers_and_bytes_that_the_page_says() {
    assert_documented::<super::Refusal>();
    assert_documented::<super::GoodbyeReason>();
    assert_documented::<crate::access::Denial>();
    assert_documented::<super::Resource>();
    assert_documented::<super::Needed>();
    assert_documented::<super::Credential>();
    assert_documented::<super::Handle>();
    assert_documented::<super::Fact>();
    assert_documented::<super::Identity>();
    assert_documented::<super::Answer>();
    assert_documented::<super::RingState>();
    assert_documented::<super::RingPath>();
    assert_documented::<super::Payer>();
    assert_documented::<crate::hierarchy::TopicAccessLevel>();
}

#[test]
fn the_page_says_which_messages_carry_a_descriptor() {
    fn assert_said<M: Documented + Message>() {
        for (row, example) in rows(M::HEADING).iter().zip(M::examples()) {
            assert_eq!(row[3].starts_with("one"), example.carries_descriptor(), "{row:?}");
        }
    }
    assert_said::<Request>();
    assert_said::<Notice>();
}

#[test]
fn the_frame_of_a_hello_is_the_one_on_the_page() {
    assert_eq!(frame(&encode(&Request::Hello(Box::new(hello())))), block("frame"));
}

#[test]
fn the_proofs_of_a_handshake_are_those_on_the_page() {
    let secret = Secret::of(&block("secret").try_into().expect("32 bytes"));
    let proofs = Proofs::new(&secret, &hello(), &nonce(0xbb)).expect("it can be read");
    assert_eq!(hex(&proofs.of_broker.0), hex(&block("proof of the broker")));
    assert_eq!(hex(&proofs.of_client.0), hex(&block("proof of the client")));
}

#[test]
fn a_number_may_be_longer_than_it_has_to_be_but_not_than_its_type() {
    let one = Ok(Request::Done { order: OrderId(1) });
    for longer in ["0701", "07fb0100", "07fc01000000", "07fd0100000000000000", "fb070001"] {
        assert_eq!(decode::<Request>(&bytes_of(longer)), one, "{longer}");
    }
    let too_long = bytes_of("02fd0100000000000000");
    assert_eq!(decode::<Request>(&too_long), Err(Undecodable::Malformed { bytes: 10 }), "a u32 has four");
}

/// A limit as the page writes it.
trait Limit {
    fn shown(self) -> String;
}

impl Limit for usize {
    fn shown(self) -> String {
        let digits = self.to_string();
        let groups: Vec<&str> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .map(|group| std::str::from_utf8(group).expect("digits are ASCII"))
            .collect();
        groups.join(",")
    }
}

impl Limit for u64 {
    fn shown(self) -> String {
        usize::try_from(self).expect("a limit of this host").shown()
    }
}

impl Limit for u32 {
    fn shown(self) -> String {
        u64::from(self).shown()
    }
}

impl Limit for std::time::Duration {
    fn shown(self) -> String {
        match self.subsec_millis() {
            0 => format!("{} s", self.as_secs()),
            _ => format!("{} ms", self.as_millis()),
        }
    }
}

macro_rules! limits {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), config::$name.shown())),+]
    };
}

#[test]
fn the_page_has_the_limits_of_the_sources() {
    let limits: &[(&str, String)] = limits![
        FRAME_BYTES_MAX,
        RELAYED_BYTES_MAX,
        RELAYED_BYTES_OF_ALL,
        RECORD_DEADLINE,
        FRAME_MEMORY_MAX,
        DESCRIPTORS_WAITING_MAX,
        OUTGOING_FRAMES_MAX,
        OUTGOING_BYTES_MAX,
        ANSWER_LIST_BYTES,
        HELLO_DEADLINE,
        HELLO_GRACE,
        HELLO_TURN,
        HANDSHAKES_MAX,
        HANDSHAKES_PER_UID,
        SESSIONS_MAX,
        SESSIONS_PER_UID,
        NAME_BYTES_MAX,
        REQUESTS_PER_SECOND,
        REQUESTS_AHEAD,
        REQUESTS_PAUSE,
        FRAMES_PER_REQUEST,
        PART_BYTES,
        PART_PAUSE,
        BREACH_PAUSE,
        REQUEST_DEADLINE,
        ROUTE_DEADLINE,
        PATTERNS_MAX,
        SUBSCRIPTIONS_MAX,
        SUBSCRIPTIONS_OF_ALL,
        PATTERN_BYTES_OF_ALL,
        PUBLISHERS_MAX,
        TOPICS_MAX,
        TOPICS_OF_ALL,
        SLOTS_MAX,
        TELL_DEADLINE,
        TELL_PAUSE,
        CLAIMS_MAX,
        STATISTICS_BYTES_MAX,
        STATISTICS_LISTED_MAX,
        TOKEN_VALIDITY,
    ];
    let said: Vec<(&str, &str)> =
        rows("Limits").iter().map(|row| (row[0].trim_matches('`'), row[1])).collect();
    let limits: Vec<(&str, &str)> = limits.iter().map(|(name, limit)| (*name, limit.as_str())).collect();
    assert_eq!(said, limits);
}

//! Whose named memory is taken for a segment.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::Mode;
use shm::layout::{CONSUMER_SEGMENT_BYTES, MAGIC_CONSUMER, MAGIC_PRODUCER, PRODUCER_HEADER_BYTES};
use shm::{
    Backing, ConsumerSegment, ConsumerView, Handle, ProducerSegment, ProducerView, SegmentError,
    check_consumer_segment, check_producer_segment,
};

use crate::hand_made::HandMade;

const CAPACITY: usize = 1 << 16;
const BYTES: usize = PRODUCER_HEADER_BYTES + CAPACITY;
const STRANGER: u32 = 65534;

fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn private() -> Mode {
    Mode::RUSR | Mode::WUSR
}

/// What both the go-between and the reader say.
fn refused(made: &HandMade, named: impl Fn(&SegmentError) -> bool) {
    let by_broker = check_producer_segment(&made.hand_over(), CAPACITY, own()).unwrap_err();
    assert!(named(&by_broker), "{by_broker}");
    let by_reader = ProducerView::attach(made.hand_over(), CAPACITY).unwrap_err();
    assert!(named(&by_reader), "{by_reader}");
}

#[test]
fn a_named_segment_as_agreed_is_accepted_and_filled() {
    let honest = ProducerSegment::create(CAPACITY, Backing::Named).unwrap();
    check_producer_segment(honest.handle(), CAPACITY, own()).unwrap();
    let marks = ConsumerSegment::create(Backing::Named).unwrap();
    check_consumer_segment(marks.handle(), own()).unwrap();

    let sparse = HandMade::named('p', BYTES, private());
    sparse.word(0).store(MAGIC_PRODUCER, Ordering::Relaxed);
    let blocks = || rustix::fs::fstat(sparse.as_fd()).unwrap().st_blocks;
    assert!(blocks() < (BYTES / 512) as _);
    let _view = ProducerView::attach(sparse.hand_over(), CAPACITY).unwrap();
    assert_eq!(blocks(), (BYTES / 512) as _, "each hole is filled");
}

#[test]
fn a_named_segment_of_another_size_is_refused() {
    for bytes in [8, BYTES - 4096, BYTES - 8, BYTES + 8, 2 * BYTES] {
        let made = HandMade::as_agreed(bytes, MAGIC_PRODUCER, Backing::Named);
        refused(
            &made,
            |error| matches!(error, SegmentError::Size { found, expected: BYTES } if *found == bytes as u64),
        );
    }
}

#[test]
fn a_named_segment_with_another_magic_is_refused() {
    for magic in [0, MAGIC_PRODUCER + 1, u64::MAX] {
        let made = HandMade::as_agreed(BYTES, magic, Backing::Named);
        let refused = ProducerView::attach(made.hand_over(), CAPACITY).unwrap_err();
        assert!(matches!(refused, SegmentError::Magic { found, .. } if found == magic), "{refused}");
    }
}

#[test]
fn a_name_of_the_other_kind_is_refused() {
    let made = HandMade::as_agreed(BYTES, MAGIC_CONSUMER, Backing::Named);
    refused(&made, |error| matches!(error, SegmentError::NotMemory));
    let made = HandMade::as_agreed(CONSUMER_SEGMENT_BYTES, MAGIC_PRODUCER, Backing::Named);
    assert!(matches!(check_consumer_segment(&made.hand_over(), own()), Err(SegmentError::NotMemory)));
    assert!(matches!(ConsumerView::attach(made.hand_over()), Err(SegmentError::NotMemory)));
}

#[test]
fn a_named_segment_that_others_can_open_is_refused() {
    for more in [Mode::RGRP, Mode::WGRP, Mode::ROTH, Mode::WOTH] {
        let made = HandMade::named('p', BYTES, private() | more);
        refused(&made, |error| matches!(error, SegmentError::NotPrivate { .. }));
    }
}

#[test]
fn a_named_segment_of_another_user_is_refused_also_by_who_could_open_it() {
    let made = HandMade::as_agreed(BYTES, MAGIC_PRODUCER, Backing::Named);
    rustix::fs::fchown(made.as_fd(), Some(rustix::fs::Uid::from_raw(STRANGER)), None).unwrap();
    refused(&made, |error| matches!(error, SegmentError::NotPrivate { uid: STRANGER, .. }));
    check_producer_segment(&made.hand_over(), CAPACITY, STRANGER).expect("the stranger may hand it over");
}

#[test]
fn a_name_that_is_gone_is_no_fault_of_this_host() {
    let name = {
        let made = HandMade::as_agreed(BYTES, MAGIC_PRODUCER, Backing::Named);
        made.hand_over()
    };
    assert!(matches!(check_producer_segment(&name, CAPACITY, own()), Err(SegmentError::Gone)));
    assert!(matches!(ProducerView::attach(name, CAPACITY), Err(SegmentError::Gone)));
}

#[test]
fn a_refused_segment_keeps_its_name_for_its_maker_to_remove() {
    let made = HandMade::as_agreed(2 * BYTES, MAGIC_PRODUCER, Backing::Named);
    ProducerView::attach(made.hand_over(), CAPACITY).unwrap_err();
    let Handle::Name(name) = made.hand_over() else { panic!("it has a name") };
    rustix::shm::open(name.as_str(), rustix::shm::OFlags::RDONLY, Mode::empty()).unwrap();
}

//! The doorbell: never waits, and tells who is gone.

use shm::{Doorbell, Heard, PeerGone};

#[test]
fn a_doorbell_that_nobody_hears_never_makes_the_ringer_wait() {
    let (ours, theirs) = Doorbell::pair().unwrap();
    for _ in 0..100_000 {
        assert_eq!(ours.ring(), Ok(true));
    }
    assert_eq!(theirs.hear(), Heard::PeerThere);
    assert_eq!(ours.hear(), Heard::PeerThere, "silence is not death");
}

#[test]
fn either_side_learns_that_the_other_is_gone() {
    let (ours, theirs) = Doorbell::pair().unwrap();
    drop(theirs);
    assert_eq!(ours.ring(), Err(PeerGone));
    assert_eq!(ours.hear(), Heard::PeerGone);
}

#[test]
fn what_was_rung_before_the_death_is_heard_before_it() {
    let (ours, theirs) = Doorbell::pair().unwrap();
    assert_eq!(theirs.ring(), Ok(true));
    drop(theirs);
    assert_eq!(ours.hear(), Heard::PeerThere);
    assert_eq!(ours.hear(), Heard::PeerGone);
}

#[test]
fn a_peer_that_died_with_rings_unheard_is_gone_all_the_same() {
    let (ours, theirs) = Doorbell::pair().unwrap();
    assert_eq!(ours.ring(), Ok(true));
    drop(theirs);
    assert_eq!(ours.ring(), Err(PeerGone));
    assert_eq!(ours.hear(), Heard::PeerGone);
}

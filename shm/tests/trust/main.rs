//! What a hostile peer can hand over, and what it can write afterwards.

mod hand_made;
mod names;
mod segments;

/// The words of a peer in sealed memory.
#[path = "."]
mod memfd {
    pub(crate) const BACKING: shm::Backing = shm::Backing::Memfd;

    #[path = "changing.rs"]
    mod changing;
    #[path = "words.rs"]
    mod words;
}

/// The same, word by word, in memory with a name.
#[path = "."]
mod named {
    pub(crate) const BACKING: shm::Backing = shm::Backing::Named;

    #[path = "changing.rs"]
    #[expect(clippy::duplicate_mod, reason = "the same tests over the other backing")]
    mod changing;
    #[path = "words.rs"]
    #[expect(clippy::duplicate_mod, reason = "the same tests over the other backing")]
    mod words;
}

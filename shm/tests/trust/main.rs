//! What a hostile peer can hand over, and what it can write afterwards.

mod changing;
mod hand_made;
mod segments;
mod words;

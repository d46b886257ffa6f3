//! The machine, driven by hand: no socket, no clock.

mod budget;
mod chaos;
mod endings;
mod hello;
mod invariants;
mod limits;
mod refusals;
mod reload;
mod routes;
mod world;

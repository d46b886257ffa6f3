//! The machine, driven by hand: no socket, no clock.

mod budget;
mod chaos;
mod dice;
mod endings;
mod hello;
mod inquiries;
mod limits;
mod refusals;
mod relay;
mod reload;
mod returns;
mod routes;
mod shares;
mod simulation;
mod world;

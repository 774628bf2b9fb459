//! Deterministic simulation of whole nodes: real sessions, queues, lane and log; simulated
//! clients, clock and disk; everything from one seed, in one thread.

mod agree;
pub mod body;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod node;
mod places;
pub mod rng;
pub mod temper;
pub mod trace;
pub mod world;

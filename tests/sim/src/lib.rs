//! Deterministic simulation of whole nodes: real sessions, queues, lane and log; simulated
//! clients, clock and disk; everything from one seed, in one thread.

pub mod checker;
pub mod client;
pub mod rng;

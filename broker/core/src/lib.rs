//! What AMQP means, as pure steps: sessions, routing, queues, delivery, definitions.
//!
//! No clock, no random numbers, no I/O and no threads: a driver hands in bytes, events and the
//! time, and carries out what comes back.

pub mod auth;
pub mod definitions;
mod delivery;
pub mod dispatch;
pub mod exception;
pub mod ids;
pub mod message;
pub mod names;
mod queue;
mod server_names;
pub mod session;
pub mod shard;
mod splitmix;
pub mod topology;

//! Replication of any state machine, as pure steps: consensus, lanes, the segment log, rows.
//!
//! Nothing in this package reads a clock, draws a random number, opens a file or a socket, or
//! starts a thread: what it needs comes in as an argument, what it wants done goes out as a
//! value. It knows nothing of AMQP.

pub mod batch;
pub mod checkpoint;
pub mod consensus;
pub mod ids;
pub mod inbox;
pub mod lane;
pub mod link;
pub mod log;
pub mod machine;
pub mod members;
pub mod origin;
pub mod origins;
pub mod parts;
pub mod placement;
pub mod replica;
pub mod rows;
#[cfg(test)]
mod testing;

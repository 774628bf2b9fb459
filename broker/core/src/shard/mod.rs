//! The replicated machine: the queues of one shard.

pub mod effect;
pub mod input;

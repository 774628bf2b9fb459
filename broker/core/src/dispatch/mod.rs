//! Joins sessions and shards: what a session wants done, and the steps of every declaration.

pub mod chores;
pub mod control;
mod departed;
pub mod desk;
pub mod operation;
pub mod publish;
pub mod reconcile;
pub mod settle;
pub mod work;

//! Drives the cluster core: lane threads, disks, the local store.
//!
//! [`open`] recovers a data folder and gives a [`Handle`]; what the lanes hand out goes to a
//! [`Sink`].

mod clock;
mod disk;
mod error;
mod handle;
mod local;
mod options;
mod sink;
#[cfg(test)]
mod testing;
mod thread;

pub use error::Error;
pub use handle::{Handle, Status, open};
pub use options::Options;
pub use sink::Sink;

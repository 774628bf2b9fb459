//! Drives the cluster core: lane threads, disks, the local store.
//!
//! [`open`] recovers a data folder and gives a [`Handle`]; what the lanes hand out goes to a
//! [`Sink`].

mod clock;
mod error;
mod handle;
mod options;
mod sink;

pub use error::Error;
pub use handle::{Handle, Status, open};
pub use options::Options;
pub use sink::Sink;

//! Drives the cluster core: lane threads, disks, the local store; and what nodes say to each other.
//!
//! [`open`] recovers a data folder and gives a [`Handle`]; what the lanes hand out goes to a
//! [`Sink`]. [`tls`] says who is who, [`listener`] is the cluster port, [`link`] carries messages
//! between nodes, [`join`] makes a blank node a member. [`cluster`] puts them together.

pub mod administration;
mod admission;
mod astray;
mod clock;
pub mod cluster;
mod colleagues;
mod disk;
mod error;
pub mod grpc;
mod handle;
pub mod join;
pub mod link;
pub mod listener;
mod local;
pub mod news;
mod options;
mod peers;
mod proto;
mod sink;
mod steward;
#[cfg(test)]
mod testing;
mod thread;
pub mod tls;
pub mod token;
pub mod watch;

pub use astray::{Sought, YOUNG};
pub use clock::until_next_look;
pub use colleagues::{Overview, Report};
pub use error::Error;
pub use handle::{Handle, Status, open, start};
pub use local::{Membership, adopt, membership};
pub use options::Options;
pub use sink::Sink;

//! Generated gRPC code; the sources are in `proto/`.

#[allow(clippy::all, unreachable_pub, unused_qualifications)]
pub(crate) mod join_v1;
#[allow(clippy::all, unreachable_pub, unused_qualifications)]
pub(crate) mod node_v1;

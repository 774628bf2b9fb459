//! Generated gRPC code; the sources are in `proto/`.

#[allow(clippy::all, unreachable_pub, unused_qualifications)]
pub(crate) mod admin_v1;

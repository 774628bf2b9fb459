//! Sessions driven by bytes, joined with real shards: what a client says, and what it is told.

mod handshake;
mod publishing;
mod world;

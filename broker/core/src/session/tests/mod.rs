//! Sessions driven by bytes, joined with real shards: what a client says, and what it is told.

mod bad_input;
mod catching_up;
mod channels;
mod consumers;
mod declaring;
mod expiration;
mod flow;
mod handshake;
mod publishing;
mod world;

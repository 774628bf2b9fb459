//! The `warren` broker and its command line.
//!
//! Entry points: `command` (verbs), `node` (a node's life), `connection` (a client's).

mod admin;
mod alarms;
mod astray;
mod attention;
mod backup;
mod broker;
mod chores;
mod cluster;
mod command;
mod commits;
mod config;
mod connection;
mod definitions;
mod events;
mod http;
mod listener;
mod lives;
mod metrics;
mod node;
mod proto;
mod sessions;
mod slot;
mod standing;
mod stats;
mod telemetry;

fn main() {
    std::process::exit(command::run());
}

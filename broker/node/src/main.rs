//! The `warren` broker and its command line.
//!
//! Entry points: `command` (verbs), `node` (a node's life), `connection` (a client's).

mod alarms;
mod attention;
mod broker;
mod cluster;
mod command;
mod config;
mod connection;
mod definitions;
mod http;
mod listener;
mod metrics;
mod node;
mod sessions;
mod stats;
mod telemetry;

fn main() {
    std::process::exit(command::run());
}

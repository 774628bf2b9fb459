//! `warren start`: reads the configuration, runs a node until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;

use crate::config::{Config, LogFormat};
use crate::{node, telemetry};

/// Flags win over `WARREN_*` variables, those over the file, that over the defaults.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Configuration file (TOML; RabbitMQ's keys).
    #[arg(long, value_name = "FILE", env = "WARREN_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of the node's data (default: ./warren-data).
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The node's name (default: warren@HOST).
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where AMQP clients connect (default: 127.0.0.1:5672). Port 0 is any free one.
    #[arg(long, value_name = "IP:PORT")]
    amqp_addr: Option<SocketAddr>,
    /// Where the HTTP API answers (default: 127.0.0.1:15672).
    #[arg(long, value_name = "IP:PORT")]
    http_addr: Option<SocketAddr>,
    /// Where Prometheus reads metrics (default: 127.0.0.1:15692).
    #[arg(long, value_name = "IP:PORT")]
    metrics_addr: Option<SocketAddr>,
    /// Where other nodes connect (default: 127.0.0.1:25672).
    #[arg(long, value_name = "IP:PORT")]
    cluster_addr: Option<SocketAddr>,
    /// Where other nodes reach this one's cluster port (default: where it listens).
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The zone (availability zone, rack) that the node is in.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Join the cluster of the node there (ignored on a folder that has joined).
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "await_join")]
    join: Vec<String>,
    /// The join token (or in the environment: WARREN_JOIN_TOKEN).
    #[arg(long, value_name = "TOKEN", conflicts_with = "await_join")]
    token: Option<String>,
    /// The first node of a cluster writes a join token there; one that joins waits for it.
    #[arg(long, value_name = "FILE")]
    bootstrap_token_file: Option<PathBuf>,
    /// Wait for `warren node add`, which is given the fingerprint that this prints.
    #[arg(long)]
    await_join: bool,
    /// Serve clients although another cluster looks for one of its nodes here.
    #[arg(long, conflicts_with_all = ["join", "token", "await_join"])]
    new_cluster: bool,
    /// error, warn, info, debug, trace or filter directives (default: info).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
}

/// Runs a node; gives the exit code.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<i32> {
    let (mut config, unknown) = Config::load(
        arguments.config.as_deref(),
        std::env::vars_os().filter_map(readable),
    )?;
    arguments.apply(&mut config);
    if arguments.check {
        for name in &unknown {
            eprintln!("warren: warning: environment variable {name} is not known");
        }
        println!("configuration ok");
        return Ok(0);
    }
    telemetry::start(&config.log_level, config.log_format)?;
    for name in &unknown {
        tracing::warn!(variable = %name, "environment variable is not known");
    }
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.io_threads(cores))
        .thread_name("warren-io")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(node::run(config))
}

fn readable((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

impl Arguments {
    fn apply(&self, config: &mut Config) {
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        if let Some(name) = &self.node_name {
            config.node_name.clone_from(name);
        }
        if let Some(address) = self.amqp_addr {
            config.amqp = vec![address];
        }
        if let Some(address) = self.http_addr {
            config.http = address;
        }
        if let Some(address) = self.metrics_addr {
            config.metrics = address;
        }
        if let Some(address) = self.cluster_addr {
            config.cluster = address;
        }
        self.apply_cluster(config);
        if let Some(level) = &self.log_level {
            config.log_level.clone_from(level);
        }
        if let Some(format) = self.log_format {
            config.log_format = format;
        }
    }
    fn apply_cluster(&self, config: &mut Config) {
        if let Some(address) = &self.advertise {
            config.advertise = Some(address.clone());
        }
        if let Some(zone) = &self.zone {
            config.zone.clone_from(zone);
        }
        if !self.join.is_empty() {
            config.join.clone_from(&self.join);
        }
        if let Some(token) = &self.token {
            config.join_token = Some(token.clone());
        }
        if let Some(path) = &self.bootstrap_token_file {
            config.bootstrap_token_file = Some(path.clone());
        }
        config.await_join |= self.await_join;
        config.new_cluster |= self.new_cluster;
    }
}

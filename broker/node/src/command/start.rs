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
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
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
        if let Some(level) = &self.log_level {
            config.log_level.clone_from(level);
        }
        if let Some(format) = self.log_format {
            config.log_format = format;
        }
    }
}

//! A node's life: open the data, serve, drain, stop.
//!
//! Order of a start: descriptors, listening sockets (a taken port costs nothing yet), joining, data
//! folder and recovery, the cluster, first definitions, serving, the `ready` line. Order of a stop:
//! leads are handed over, no new clients, 320 to those there are, lanes write their checkpoints,
//! links end, exit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use warren_cluster::cluster::Cluster;
use warren_cluster_core::ids::Time;

use crate::backup::Backups;
use crate::broker::Broker;
use crate::config::Config;
use crate::metrics::Registry;
use crate::standing::Standing;
use crate::{
    admin, alarms, astray, backup, chores, cluster, definitions, events, http, listener, lives,
};

/// How often memory and disk are measured; about once a second while there is plenty of both.
const ALARM_PERIOD: Duration = Duration::from_millis(250);
/// How often memory is given back at the most, without an alarm.
const TRIM_PERIOD: Duration = Duration::from_secs(5);
/// Exit code when a second signal cuts a stop short.
const EXIT_INTERRUPTED: i32 = 130;

struct Listeners {
    amqp: Vec<TcpListener>,
    /// Until they are served.
    http: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Listeners {
    fn bind(config: &Config) -> anyhow::Result<Self> {
        let amqp = config
            .amqp
            .iter()
            .map(|&address| listener::bind(address, "--amqp-addr"))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            amqp,
            http: Some(listener::bind(config.http, "--http-addr")?),
            metrics: Some(listener::bind(config.metrics, "--metrics-addr")?),
        })
    }

    fn addresses(&self, cluster: SocketAddr) -> anyhow::Result<Addresses> {
        let first = self.amqp.first().context("there is no AMQP listener")?;
        let http = self.http.as_ref().context("HTTP is served already")?;
        let metrics = self
            .metrics
            .as_ref()
            .context("metrics are served already")?;
        Ok(Addresses {
            amqp: first.local_addr()?,
            http: http.local_addr()?,
            metrics: metrics.local_addr()?,
            cluster,
        })
    }
}

/// Where the node really listens.
#[derive(Clone, Copy)]
struct Addresses {
    amqp: SocketAddr,
    http: SocketAddr,
    metrics: SocketAddr,
    cluster: SocketAddr,
}

impl Addresses {
    fn announce(&self, config: &Config) -> anyhow::Result<()> {
        let Self {
            amqp,
            http,
            metrics,
            cluster,
        } = self;
        let document = serde_json::json!({
            "node": config.node_name,
            "pid": std::process::id(),
            "amqp": amqp.to_string(),
            "http": http.to_string(),
            "metrics": metrics.to_string(),
            "cluster": cluster.to_string(),
        });
        let path = config.data_dir.join("node.json");
        let temporary = config.data_dir.join("node.json.new");
        std::fs::write(&temporary, format!("{document:#}\n"))
            .and_then(|()| std::fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        let name = &config.node_name;
        println!("ready node={name} amqp={amqp} http={http} metrics={metrics} cluster={cluster}");
        Ok(())
    }
}

/// Runs a node until it is told to stop; gives the exit code.
pub(crate) async fn run(config: Config) -> anyhow::Result<i32> {
    let begin = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let limit =
        listener::connection_limit(listener::raise_descriptor_limit(), config.connection_max);
    let mut listeners = Listeners::bind(&config)?;
    let registry = Registry::default();
    metrics::set_global_recorder(registry.clone()).context("a recorder is set already")?;

    let began = tokio::select! {
        began = start(config, registry, &mut listeners) => began?,
        // Nothing is served yet: the log is whole without a last checkpoint.
        () = wait_for(&mut interrupt, &mut terminate) => std::process::exit(0),
    };
    let (broker, backups, cluster, addresses) = began;
    serve(&broker, backups, listeners, limit);
    addresses.announce(broker.config())?;
    tracing::info!(millis = begin.elapsed().as_millis(), "ready");

    let is_member = tokio::select! {
        () = wait_for(&mut interrupt, &mut terminate) => true,
        () = cluster.dismissed() => {
            tracing::warn!("this node was removed from its cluster: it stops");
            false
        }
    };
    let code = tokio::select! {
        code = stop(&broker, &cluster, is_member) => code,
        () = wait_for(&mut interrupt, &mut terminate) => {
            tracing::warn!("second signal: stopping at once");
            EXIT_INTERRUPTED
        }
    };
    // Tasks of clients that did not close in time must not keep the process.
    std::process::exit(code);
}

type Began = (Arc<Broker>, Arc<Backups>, Arc<Cluster>, Addresses);

/// Everything but serving clients.
async fn start(
    config: Config,
    registry: Registry,
    listeners: &mut Listeners,
) -> anyhow::Result<Began> {
    let port = cluster::prepare(&config, wall_clock()).await?;
    let addresses = listeners.addresses(port.address())?;
    let broker = Arc::new(Broker::new(config, registry));
    definitions::open(&broker)?;
    // Whoever looks after the node sees that it runs while it waits for the others.
    if let Some(http) = listeners.http.take() {
        tokio::spawn(http::serve_api(Arc::clone(&broker), http));
    }
    if let Some(metrics) = listeners.metrics.take() {
        tokio::spawn(http::serve_metrics(Arc::clone(&broker), metrics));
    }
    let backups = Arc::new(Backups::new(Arc::clone(&broker), broker.lane().cluster()));
    let routes = admin::routes(&broker, &backups)?;
    let cluster = cluster::start(&broker, port, addresses.amqp, addresses.http, routes).await?;
    tokio::spawn(events::follow(Arc::clone(&broker), Arc::clone(&cluster)));
    // Before clients are served: what was found earlier still holds.
    astray::begin(&broker)?;
    tokio::spawn(astray::watch(Arc::clone(&broker), Arc::clone(&cluster)));
    tokio::spawn(cluster::follow_state(
        Arc::clone(&broker),
        Arc::clone(&cluster),
    ));
    definitions::first_definitions(&broker).await?;
    lives::begin(&broker).await;
    let others: Vec<_> = cluster
        .directory()
        .members()
        .map(|(node, _)| node)
        .collect();
    let others: Vec<_> = others
        .into_iter()
        .filter(|it| *it != cluster.node())
        .collect();
    lives::meet(&broker, &others).await;
    Ok((broker, backups, cluster, addresses))
}

fn wall_clock() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    Time(u64::try_from(millis).unwrap_or(u64::MAX))
}

async fn wait_for(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn serve(broker: &Arc<Broker>, backups: Arc<Backups>, listeners: Listeners, limit: usize) {
    broker.begin_serving();
    tokio::spawn(backup::run(backups));
    for listener in listeners.amqp {
        tokio::spawn(listener::accept(Arc::clone(broker), listener, limit));
    }
    tokio::spawn(watch_alarms(Arc::clone(broker)));
    tokio::spawn(chores::serve(Arc::clone(broker)));
    tokio::spawn(lives::watch(Arc::clone(broker)));
}

/// Measures, and gives back what the allocator keeps after a load: seldom, but at once when the
/// memory alarm would rise on it.
async fn watch_alarms(broker: Arc<Broker>) {
    let mut looked = Instant::now();
    let mut standing = Standing::default();
    loop {
        let plenty = broker.has_plenty();
        let calm = warren_cluster::until_next_look();
        tokio::time::sleep(if plenty { calm } else { ALARM_PERIOD }).await;
        broker.check_alarms();
        standing.look(&broker);
        let due = looked.elapsed() >= TRIM_PERIOD || broker.alarms().memory;
        if !due {
            continue;
        }
        looked = Instant::now();
        if !alarms::is_wasteful(broker.resident()) {
            continue;
        }
        let given_back = tokio::task::spawn_blocking(alarms::give_back).await;
        if given_back.is_err() {
            return;
        }
        broker.check_alarms();
    }
}

async fn stop(broker: &Arc<Broker>, cluster: &Cluster, is_member: bool) -> i32 {
    let within = Duration::from_millis(broker.config().shutdown_timeout);
    let deadline = tokio::time::Instant::now() + within;
    tracing::info!(connections = broker.sessions().count(), "stopping");
    broker.begin_leaving();
    let left = cluster.hand_over().await;
    if left > 0 {
        tracing::warn!(shards = left, "nobody took the lead of these in time");
    }
    broker.begin_stop();
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    // Half of the time is for clients, the rest for the checkpoints.
    let clients_until = tokio::time::Instant::now() + within / 2;
    while broker.sessions().count() > 0 && tokio::time::Instant::now() < clients_until {
        poll.tick().await;
    }
    if !is_member {
        // Nobody answers it any more what its lane waits for, and its folder is of no more use.
        cluster.stop().await;
        return 0;
    }
    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
    let lane = broker.lane().clone();
    let stopped = tokio::task::spawn_blocking(move || lane.stop(left))
        .await
        .unwrap_or(false);
    cluster.stop().await;
    if stopped {
        tracing::info!("stopped");
    } else {
        tracing::warn!("checkpoints were not done in time: the next start replays more");
    }
    0
}

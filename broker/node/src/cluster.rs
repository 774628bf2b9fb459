//! The node among others: joins before the data is opened, opens the cluster port after.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use warren_broker_core::definitions::kind;
use warren_cluster::cluster::{self, Cluster};
use warren_cluster::grpc::Routes;
use warren_cluster::join::{About, AwaitJoin};
use warren_cluster::listener::Listener;
use warren_cluster::membership;
use warren_cluster::tls::Files;
use warren_cluster::token::{JoinToken, is_address};
use warren_cluster_core::ids::Time;
use warren_cluster_core::members::{CLUSTER_VERSION, KINDS_FIRST, NodeState};

use crate::broker::Broker;
use crate::config::Config;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one address may take to let this node in.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// A token that others write is looked for this often.
const TOKEN_FILE_PERIOD: Duration = Duration::from_millis(200);
/// What the token that the first node writes is good for.
const BOOTSTRAP_USES: u32 = 64;
const BOOTSTRAP_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Waiting for the definitions is reported this often.
const READY_REPORT: Duration = Duration::from_secs(10);

const _: () = assert!(
    kind::POLICY < KINDS_FIRST,
    "rows of the cluster are its own"
);

/// Takes the cluster port, and makes a blank folder a member if the configuration asks for it.
/// Gives the port, at which nothing is served yet.
pub(crate) async fn prepare(config: &Config, now: Time) -> anyhow::Result<Listener> {
    let listener = bind(config.cluster).await?;
    let place = membership(&config.data_dir)?;
    let is_let_in = place.as_ref().is_some_and(|place| place.replica.is_some());
    // One without a certificate was cut short when it joined, and asks again.
    let has_joined = is_let_in && Files::new(&config.data_dir).node()?.is_some();
    if config.await_join {
        if has_joined {
            return Ok(listener);
        }
        if place.is_some() && !is_let_in {
            bail!(
                "{} holds a cluster of its own: --await-join wants an empty data folder",
                config.data_dir.display()
            );
        }
        return wait_to_be_offered(config, listener, now).await;
    }
    let asks = !config.join.is_empty() || config.join_token.is_some();
    if !asks || (has_joined && config.join_token.is_none()) {
        return Ok(listener);
    }
    let mut token = match token(config).await {
        Ok(token) => token,
        Err(error) if has_joined => {
            // Whoever has joined needs none.
            tracing::warn!(error = format!("{error:#}"), "the token is ignored");
            return Ok(listener);
        }
        Err(error) => return Err(error),
    };
    let mut addresses = config.join.clone();
    token
        .addresses
        .retain(|address| !addresses.contains(address));
    addresses.append(&mut token.addresses);
    token.addresses = addresses;
    join(config, &token, listener.address()).await?;
    Ok(listener)
}

async fn bind(address: SocketAddr) -> anyhow::Result<Listener> {
    let bound = Listener::bind(address).await;
    bound
        .with_context(|| format!("cannot listen on {address} (choose another with --cluster-addr)"))
}

/// The token that is given, or the one in the file, once it is there.
async fn token(config: &Config) -> anyhow::Result<JoinToken> {
    if let Some(text) = &config.join_token {
        return JoinToken::parse(text).context("--token");
    }
    let Some(path) = &config.bootstrap_token_file else {
        bail!("--join wants a token: --token, or --bootstrap-token-file with one in it");
    };
    let mut period = tokio::time::interval(TOKEN_FILE_PERIOD);
    loop {
        period.tick().await;
        match fs::read_to_string(path) {
            Ok(text) => {
                let token = JoinToken::parse(&text);
                return token.with_context(|| path.display().to_string());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => bail!("cannot read {}: {error}", path.display()),
        }
    }
}

/// Asks until the cluster has decided.
async fn join(config: &Config, token: &JoinToken, at: SocketAddr) -> anyhow::Result<()> {
    let about = About {
        name: config.node_name.clone(),
        zone: config.zone.clone(),
        addresses: advertised(config, at)?,
    };
    let mut period = tokio::time::interval(RETRY_PERIOD);
    loop {
        period.tick().await;
        let joined = cluster::become_member(&config.data_dir, token, &about, JOIN_TIMEOUT).await;
        match joined {
            Ok(()) => return Ok(()),
            Err(cluster::Error::Join(error)) if !error.is_final() => {
                tracing::warn!(%error, "cannot join yet");
            }
            Err(error) => return Err(error).context("cannot join the cluster"),
        }
    }
}

/// Waits for `warren node add`, on the port, which is free again afterwards.
async fn wait_to_be_offered(
    config: &Config,
    listener: Listener,
    now: Time,
) -> anyhow::Result<Listener> {
    let key = Files::new(&config.data_dir).node_key()?;
    let waiting = AwaitJoin::start(listener, &key, now, HANDSHAKE_TIMEOUT)?;
    let address = waiting.address();
    let fingerprint = waiting.fingerprint();
    println!("waiting to join cluster={address} fingerprint={fingerprint}");
    let token = waiting.token().await;
    let token = token.context("the cluster port failed while waiting to join")?;
    let listener = bind(address).await?;
    join(config, &token, address).await?;
    Ok(listener)
}

/// Where others reach the cluster port.
fn advertised(config: &Config, at: SocketAddr) -> anyhow::Result<Vec<String>> {
    let address = match &config.advertise {
        Some(address) => address.clone(),
        None if at.ip().is_unspecified() => format!("{}:{}", crate::config::hostname(), at.port()),
        None => at.to_string(),
    };
    if !is_address(&address) {
        bail!("--advertise: `{address}` is not of the form host:port");
    }
    Ok(vec![address])
}

/// Opens the port for other nodes and for `routes`; a blank folder founds its cluster. Returns
/// when the node has the definitions.
pub(crate) async fn start(
    broker: &Broker,
    listener: Listener,
    amqp: SocketAddr,
    http: SocketAddr,
    routes: Routes,
) -> anyhow::Result<Arc<Cluster>> {
    let config = broker.config();
    let lane = broker.lane();
    let options = cluster::Options {
        folder: config.data_dir.clone(),
        name: config.node_name.clone(),
        zone: config.zone.clone(),
        cluster_name: config.cluster_name().to_owned(),
        addresses: advertised(config, listener.address())?,
        amqp: vec![amqp.to_string()],
        http: vec![http.to_string()],
        handshake_timeout: HANDSHAKE_TIMEOUT,
        replace_after: Duration::from_secs(config.replace_after_secs),
        news: broker.events().news(),
    };
    let cluster = cluster::start(lane, options, listener, routes).await?;
    let cluster = Arc::new(cluster);
    // An operator may have to help before the node is ready.
    broker.set_cluster(Arc::clone(&cluster));
    loop {
        tokio::select! {
            ready = cluster.ready(READY_REPORT) => match ready {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "waiting for the cluster"),
            },
            () = cluster.dismissed() => bail!(
                "this node was removed from its cluster: start it with an empty data folder"
            ),
        }
    }
    match cluster.make_admin(&config.data_dir) {
        Ok(true) => tracing::info!("an administrator's certificate is in the data folder's admin/"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "cannot make an administrator's certificate"),
    }
    check_version(&cluster)?;
    let writes = config.join.is_empty() && config.join_token.is_none() && !config.await_join;
    if let Some(path) = &config.bootstrap_token_file
        && writes
        && lane.is_first()
    {
        let token = cluster.create_join_token(BOOTSTRAP_USES, BOOTSTRAP_LIFE);
        let token = token.await.context("cannot make the bootstrap token")?;
        let written = write_secret(path, &format!("{token}\n"));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(cluster)
}

/// A cluster whose nodes could all do more was raised to that: an older program has no place in it.
fn check_version(cluster: &Cluster) -> anyhow::Result<()> {
    let directory = cluster.directory();
    let version = directory
        .cluster
        .as_ref()
        .map_or(0, |row| row.value.version);
    if version > CLUSTER_VERSION {
        bail!(
            "the cluster is of version {version}, and this program knows {CLUSTER_VERSION}: \
             start the newer one"
        );
    }
    Ok(())
}

/// Sends clients away for as long as the node's row says that it is not active.
pub(crate) async fn follow_state(broker: Arc<Broker>, cluster: Arc<Cluster>) {
    let mut directory = cluster.watch();
    loop {
        let row = {
            let directory = directory.borrow_and_update();
            directory
                .nodes
                .get(&cluster.node())
                .map(|row| row.value.state)
        };
        broker.set_draining(row.is_some_and(|state| state != NodeState::Active));
        if directory.changed().await.is_err() {
            return;
        }
    }
}

/// Whole or not at all, and for its owner alone.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

//! A node among others: the port, the links, who is let in, and the tasks that keep it so.
//!
//! [`start`] wires a lane that is open to the nodes of its cluster; a cluster of one is founded by
//! it. [`become_member`] is for a blank folder, before its lane is opened.
//!
//! Order of what makes a member, each on disk before the next: the key that it asks with, its
//! identity, its certificate. What was cut short in between is asked for again, with the same key,
//! and answered as before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use warren_cluster_core::ids::{NodeId, ShardId, Time};
use warren_cluster_core::lane::ShardStatus;
use warren_cluster_core::machine::Machine;
use warren_cluster_core::members::steps::{self, Step};
use warren_cluster_core::members::{
    Authority, CLUSTER_VERSION, Cluster as ClusterRow, Directory, Founding, Node, NodeState,
};
use warren_cluster_core::placement;

pub use crate::admission::TokenError;
use crate::admission::{Desk, whereabouts, with_announced};
use crate::astray::{self, Sought};
use crate::colleagues::{self, Colleagues};
use crate::grpc::Routes;
use crate::handle::Handle;
use crate::join::{self, About, Addresses, JoinError};
use crate::link::{LinkOptions, LinkStatus, Links};
use crate::listener::{Listener, Port};
use crate::local::{self, Membership};
use crate::news::News;
use crate::peers::{Arrivals, Lane, LaneOf, lock};
use crate::steward::Steward;
use crate::tls::{self, Credentials, Files, NodeKeys, SignRequest};
use crate::token::JoinToken;

/// How often others are told where this node is, until they know.
const ANNOUNCE_PERIOD: Duration = Duration::from_secs(1);
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);
/// A change of the node's own row that came to nothing is tried again after this.
const OWN_ROW_AGAIN: Duration = Duration::from_secs(10);
/// How often a node looks whether it hears from the leader of the definitions.
const BEHIND_PERIOD: Duration = Duration::from_secs(5);
/// How long leads may take to be handed over before a stop.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);
const HAND_OVER_AGAIN: Duration = Duration::from_secs(1);
const HAND_OVER_PERIOD: Duration = Duration::from_millis(20);
/// How often the ages of the certificates are looked at; the node's own is when it is due, too.
const RENEW_PERIOD: Duration = Duration::from_secs(3600);
/// A certificate that is due and could not be renewed is tried again after this.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
const READY_PERIOD: Duration = Duration::from_millis(20);

/// What a node says of itself and how it behaves at its port.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder.
    pub folder: PathBuf,
    pub name: String,
    pub zone: String,
    /// Of a cluster that this node founds.
    pub cluster_name: String,
    /// Where other nodes reach it, `host:port` each.
    pub addresses: Vec<String>,
    pub amqp: Vec<String>,
    pub http: Vec<String>,
    pub handshake_timeout: Duration,
    /// A node that is away for longer than this is replaced.
    pub replace_after: Duration,
    /// What the node tells those who watch it, or another node.
    pub news: Arc<News>,
}

/// Why a node does not take its place in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error(transparent)]
    Folder(#[from] crate::Error),
    #[error(transparent)]
    Join(#[from] JoinError),
    /// What it holds must not come under another cluster's definitions.
    #[error("data folder {} cannot join: {cause}", folder.display())]
    NotBlank { folder: PathBuf, cause: String },
    #[error("data folder {}: {cause}", folder.display())]
    Foreign { folder: PathBuf, cause: String },
    #[error("the cluster cannot be founded: {0}")]
    Unfounded(String),
    #[error("no leader of the definitions was heard of within {seconds} s")]
    NotReady { seconds: u64 },
    #[error("this lane has a cluster already")]
    Started,
    #[error("the cluster cannot be asked now: {0}")]
    Unavailable(String),
}

/// A node's side of its cluster. Dropped without [`Cluster::stop`], it is gone as after a kill.
pub struct Cluster {
    pub(crate) desk: Arc<Desk>,
    pub(crate) colleagues: Arc<Colleagues>,
    pub(crate) placement: placement::Options,
    links: Links,
    pub(crate) reachable: watch::Receiver<std::collections::BTreeSet<NodeId>>,
    sought: watch::Receiver<Option<Sought>>,
    node: NodeId,
    addresses: Vec<String>,
    address: SocketAddr,
    port: Mutex<Option<Port>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Makes the blank `folder` that of a member of the token's cluster. A folder that is one already
/// is left as it is.
///
/// # Errors
/// When the folder is not blank, or no address of the token lets the node in: nothing is changed
/// then but for the key that it asked with.
pub async fn become_member(
    folder: &Path,
    token: &JoinToken,
    about: &About,
    within: Duration,
) -> Result<(), Error> {
    let files = Files::new(folder);
    let not_blank = |cause: String| Error::NotBlank {
        folder: folder.to_owned(),
        cause,
    };
    let holds = || not_blank("it holds definitions or messages of its own".to_owned());
    match (local::membership(folder)?, files.node()?) {
        (Some(place), Some(_)) if place.cluster == token.cluster => return Ok(()),
        (Some(place), Some(_)) => {
            let cluster = place.cluster;
            return Err(not_blank(format!("it is of cluster {cluster}")));
        }
        // Its join was cut short.
        (Some(place), None) if place.replica.is_some() && place.cluster == token.cluster => {}
        (None, None) if !folder.join("lane-0").exists() => {}
        _ => return Err(holds()),
    }
    let joined = join::join(token, files.node_key()?, about, within).await?;
    let place = Membership {
        cluster: joined.keys.cluster,
        node: joined.keys.node,
        shards: joined.shards,
        replica: Some(joined.replica),
        peers: joined.peers,
    };
    local::adopt(folder, &place)?;
    files.store_node(&joined.keys)?;
    Ok(())
}

/// Opens the port and the links of an open lane. A node that founds its cluster has done so when
/// this returns. `routes` are served beside the cluster's own.
///
/// # Errors
/// See [`Error`].
pub async fn start<M, T>(
    handle: &Handle<M, T>,
    options: Options,
    listener: Listener,
    routes: Routes,
) -> Result<Cluster, Error>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + Sync + 'static,
{
    let shared = handle.shared();
    let files = Files::new(&options.folder);
    let keys = keys(handle, &files, &options)?;
    let credentials = Arc::new(Credentials::new(&keys)?);
    let link_options = LinkOptions::new(shared.local.incarnation, local::random()?);
    let arrivals = Arc::new(Arrivals::new(shared));
    let links = Links::start(link_options, credentials.clone(), arrivals);
    if !shared.peers.set_links(links.clone()) {
        return Err(Error::Started);
    }
    let cached = shared.local.peers();
    links.set_peers(cached.clone());
    let clock = shared.clock;
    let shared = Arc::downgrade(shared);
    let lane: Arc<dyn Lane> = Arc::new(LaneOf { shared });
    let peers = &handle.shared().peers;
    let desk = Arc::new(Desk {
        lane: lane.clone(),
        cluster: keys.cluster,
        directory: peers.directory.subscribe(),
        wall: Arc::new(move || clock.now().wall),
        announced: watch::Sender::default(),
        turn: tokio::sync::Mutex::default(),
    });
    let colleagues = Colleagues::new(desk.clone(), credentials.clone(), options.news.clone());
    let colleagues = Arc::new(colleagues);
    let routes = join::add_routes(routes, keys.cluster, desk.clone());
    let routes = colleagues::add_routes(routes, colleagues.clone());
    let address = listener.address();
    let handshakes = options.handshake_timeout;
    let port = listener.start(&credentials, links.clone(), routes, handshakes)?;
    let cluster = Cluster {
        desk: desk.clone(),
        colleagues: colleagues.clone(),
        placement: placement_options(&options),
        links: links.clone(),
        node: keys.node,
        addresses: options.addresses.clone(),
        address,
        port: Mutex::new(Some(port)),
        reachable: peers.reachable.subscribe(),
        sought: peers.sought.subscribe(),
        tasks: Mutex::default(),
    };
    if handle.is_first() {
        found(&desk, &files, &keys, &options, handle.shards()).await?;
    }
    let steward = Steward::new(&cluster);
    let tasks = vec![
        tokio::spawn(follow(desk.clone(), links, keys.node, cached.clone())),
        tokio::spawn(steward.run()),
        tokio::spawn(renew(desk.clone(), credentials.clone(), files)),
        tokio::spawn(say_where(colleagues, credentials, options, cached)),
    ];
    *lock(&cluster.tasks) = tasks;
    Ok(cluster)
}

fn placement_options(options: &Options) -> placement::Options {
    let millis = u64::try_from(options.replace_after.as_millis()).unwrap_or(u64::MAX);
    placement::Options {
        replace_after_millis: millis,
        ..placement::Options::default()
    }
}

/// What the node shows. The first node of a cluster makes it at its first start.
fn keys<M, T>(handle: &Handle<M, T>, files: &Files, options: &Options) -> Result<NodeKeys, Error>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    let foreign = |cause: String| Error::Foreign {
        folder: options.folder.clone(),
        cause,
    };
    let keys = match files.node()? {
        Some(keys) => keys,
        None if handle.is_first() => files.found_as(handle.cluster(), handle.now().wall)?,
        None => return Err(foreign("the node's certificate is missing".to_owned())),
    };
    if (keys.cluster, keys.node) != (handle.cluster(), handle.node()) {
        return Err(foreign(format!(
            "it holds data of node {} of cluster {}, and the certificate of node {} of cluster {}",
            handle.node(),
            handle.cluster(),
            keys.node,
            keys.cluster
        )));
    }
    Ok(keys)
}

/// Writes the rows of a new cluster, unless they are there.
async fn found(
    desk: &Desk,
    files: &Files,
    keys: &NodeKeys,
    options: &Options,
    shards: u32,
) -> Result<(), Error> {
    if desk.directory().cluster.is_some() {
        return Ok(());
    }
    let authority = files.authority(keys.cluster)?;
    let authority = authority.ok_or_else(|| Error::Foreign {
        folder: options.folder.clone(),
        cause: "the key of the cluster's authority is missing".to_owned(),
    })?;
    let now = (desk.wall)();
    let request = SignRequest::parse(&keys.key.sign_request()?)?;
    let founding = Founding {
        cluster: ClusterRow {
            id: keys.cluster.0,
            version: CLUSTER_VERSION,
            name: options.cluster_name.clone(),
            shards,
            founded: now,
        },
        authority: Authority {
            certificate: Bytes::copy_from_slice(authority.certificate()),
            key: authority.key_to_pem().into(),
        },
        first: keys.node,
        node: Node {
            key: Bytes::copy_from_slice(request.public_key()),
            ..own_row(options, now)
        },
    };
    let founded = desk.transact(founding.transaction(), |directory| {
        directory.cluster.is_some()
    });
    founded.await.map_err(Error::Unfounded)?;
    Ok(())
}

/// A node's row as it makes it, but for its key.
fn own_row(options: &Options, joined: Time) -> Node {
    Node {
        name: options.name.clone(),
        zone: options.zone.clone(),
        addresses: options.addresses.clone(),
        amqp: options.amqp.clone(),
        http: options.http.clone(),
        state: NodeState::Active,
        joined,
        key: Bytes::new(),
    }
}

/// Where others are: as they announced it last, as their rows say, or as this node knew it once.
fn addresses(
    directory: &Directory,
    announced: &BTreeMap<NodeId, Vec<String>>,
    cached: &Addresses,
    me: NodeId,
) -> Addresses {
    let mut known = whereabouts(directory, announced);
    if known.is_empty() {
        let cached = cached.iter();
        known = cached
            .map(|(id, at)| (*id, with_announced(at, announced.get(id))))
            .collect();
    }
    known.remove(&me);
    known.into_iter().collect()
}

/// Tells the links who the peers are, and the local store.
async fn follow(desk: Arc<Desk>, links: Links, me: NodeId, cached: Addresses) {
    let mut directory = desk.directory.clone();
    let mut announced = desk.announced.subscribe();
    let mut last = cached.clone();
    loop {
        let now = {
            let directory = directory.borrow_and_update();
            addresses(&directory, &announced.borrow_and_update(), &cached, me)
        };
        if now != last {
            links.set_peers(now.clone());
            let (lane, peers) = (desk.lane.clone(), now.clone());
            let kept = tokio::task::spawn_blocking(move || lane.remember(&peers));
            if kept.await.is_err() {
                tracing::error!("the local store's thread has panicked");
            }
            last = now;
        }
        let changed = tokio::select! {
            changed = directory.changed() => changed,
            changed = announced.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Sees to it that the node's row says where it is: others must know before they can answer it.
async fn say_where(
    colleagues: Arc<Colleagues>,
    credentials: Arc<Credentials>,
    options: Options,
    cached: Addresses,
) {
    let desk = Arc::clone(&colleagues.desk);
    let me = credentials.node();
    let mut directory = desk.directory.clone();
    let mut proposed: Option<Instant> = None;
    // Whoever is no member any more learns it by saying where it is.
    let mut first = true;
    loop {
        let known = directory.borrow_and_update().clone();
        let row = known.nodes.get(&me).map(|row| &row.value);
        let said = row.is_some_and(|row| row.addresses == options.addresses);
        if let Some(row) = row {
            let own = Node {
                key: row.key.clone(),
                state: row.state,
                ..own_row(&options, row.joined)
            };
            let waits = proposed.is_some_and(|at| at.elapsed() < OWN_ROW_AGAIN);
            if own != *row && !waits && row.is_member() {
                proposed = Some(Instant::now());
                if let Some(transaction) = known.put_node(me, &own) {
                    desk.lane.transact(transaction);
                }
            } else if own == *row {
                proposed = None;
            }
        }
        // Who leads the definitions may have joined while this node was away, and be unknown to it.
        let lost = desk.lane.is_behind();
        if (!said || first || lost) && !options.addresses.is_empty() {
            let others = addresses(&known, &desk.announced.borrow(), &cached, me);
            if announce(&desk, &credentials, &options.addresses, others).await {
                colleagues.dismissed.notify_one();
            }
            first = false;
        }
        let period = match (said && !lost, proposed) {
            (false, _) => ANNOUNCE_PERIOD,
            (true, Some(_)) => OWN_ROW_AGAIN,
            (true, None) => BEHIND_PERIOD,
        };
        if let Ok(Err(_)) = timeout(period, directory.changed()).await {
            return;
        }
    }
}

/// Tells others where this node is, and hears where they believe the rest to be. Whether one of
/// them says that it is no member.
async fn announce(
    desk: &Desk,
    credentials: &Credentials,
    own: &[String],
    others: Addresses,
) -> bool {
    let mut refused = false;
    for (node, at) in others {
        let told = join::announce(credentials, node, &at, own, ANNOUNCE_TIMEOUT);
        match told.await {
            Ok(believed) => desk.heard(believed, credentials.node()),
            Err(JoinError::Refused { refusal, .. }) => {
                tracing::warn!(%node, %refusal, "another node refuses this one");
                refused |= matches!(refusal, join::Refusal::NotAdmitted(_));
            }
            Err(error) => tracing::debug!(%node, %error, "cannot say where this node is"),
        }
    }
    refused
}

/// Replaces the node's certificate at two thirds of its life. Every node can sign.
async fn renew(desk: Arc<Desk>, credentials: Arc<Credentials>, files: Files) {
    let mut next = Duration::ZERO;
    loop {
        tokio::time::sleep(next).await;
        // Where the authority's key is, an administrator's certificate is, too.
        let here = match files.renew((desk.wall)()) {
            Ok(Some(keys)) => credentials.replace(&keys),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        // Elsewhere the definitions have it.
        let admin = desk.authority(&desk.directory());
        let admin = admin.map_or(Ok(()), |it| files.renew_admin(&it, (desk.wall)()));
        if let Err(error) = here.and(admin) {
            tracing::error!(%error, "certificates cannot be renewed");
        }
        if (desk.wall)() >= credentials.renew_at() {
            match renewed(&desk, &credentials, &files) {
                Ok(()) => tracing::info!("the node's certificate was renewed"),
                Err(error) => tracing::error!(error, "the node's certificate cannot be renewed"),
            }
        }
        next = renew_in(credentials.renew_at(), (desk.wall)());
    }
}

/// When the certificates are looked at again. The clock may be set meanwhile, so not only then.
fn renew_in(due: Time, now: Time) -> Duration {
    match due.0.saturating_sub(now.0) {
        0 => RENEW_AGAIN,
        millis => Duration::from_millis(millis).min(RENEW_PERIOD),
    }
}

fn renewed(desk: &Desk, credentials: &Credentials, files: &Files) -> Result<(), String> {
    let text = |error: tls::Error| error.to_string();
    let key = files.node_key().map_err(text)?;
    let request = key.sign_request().map_err(text)?;
    let request = SignRequest::parse(&request).map_err(text)?;
    let signed = desk.sign(credentials.node(), &request);
    let signed = signed.map_err(|refusal| refusal.to_string())?;
    let keys = NodeKeys::new(credentials.authority().clone(), signed, key).map_err(text)?;
    files.store_node(&keys).map_err(text)?;
    credentials.replace(&keys).map_err(text)
}

impl Cluster {
    /// Makes the certificate with which the folder's owner administers the cluster, on a node that
    /// is ready: at its first start. True when it was made.
    ///
    /// # Errors
    /// When it cannot be written, or this node does not have the definitions.
    pub fn make_admin(&self, folder: &Path) -> Result<bool, Error> {
        let authority = self.desk.authority(&self.directory());
        let authority = authority.map_err(|why| Error::Unavailable(why.to_string()))?;
        let made = Files::new(folder).make_admin(&authority, (self.desk.wall)());
        made.map_err(Error::from)
    }

    /// Waits until the node has the definitions as of its joining, and knows who leads them.
    ///
    /// # Errors
    /// [`Error::NotReady`] when that takes longer than `within`.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        let ready = async {
            let mut period = tokio::time::interval(READY_PERIOD);
            loop {
                period.tick().await;
                let is_known = self.directory().nodes.contains_key(&self.node);
                let definitions = self.desk.lane.definitions().filter(|_| is_known);
                if definitions.is_some_and(|it| it.leader.is_some()) {
                    return;
                }
            }
        };
        let seconds = within.as_secs();
        let waited = timeout(within, ready).await;
        waited.map_err(|_| Error::NotReady { seconds })
    }

    /// Lets `uses` nodes in within `life`, whichever of the cluster's nodes they ask.
    ///
    /// # Errors
    /// When the definitions cannot be changed now.
    pub async fn create_join_token(
        &self,
        uses: u32,
        life: Duration,
    ) -> Result<JoinToken, TokenError> {
        self.desk.create_token(uses, life, &self.addresses).await
    }

    /// The cluster as its rows say.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.desk.directory()
    }

    /// The rows' changes, one view after the other.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Directory>> {
        self.desk.directory.clone()
    }

    /// The shards that this node leads.
    #[must_use]
    pub fn led(&self) -> Vec<ShardStatus> {
        self.desk.lane.led()
    }

    /// The nodes that there is a way to, as that changes.
    #[must_use]
    pub fn reachable(&self) -> watch::Receiver<std::collections::BTreeSet<NodeId>> {
        self.reachable.clone()
    }

    /// Nodes of other clusters that are looked for at this node's address, the last one of them.
    /// Anybody can say that: see [`Self::is_astray`].
    #[must_use]
    pub fn sought(&self) -> watch::Receiver<Option<Sought>> {
        self.sought.clone()
    }

    /// Whether this node, if it is taken for another cluster's, has to believe it.
    #[must_use]
    pub fn is_astray(&self) -> bool {
        astray::is_astray(&self.directory(), self.node, (self.desk.wall)())
    }

    /// Whether this node leads the definitions.
    #[must_use]
    pub fn leads_definitions(&self) -> bool {
        let leader = self.desk.lane.definitions().and_then(|it| it.leader);
        leader.is_some_and(|(_, node)| node == self.node)
    }

    /// Whether this node had its replica of the definitions taken away: it is on its way out.
    #[must_use]
    pub fn has_left(&self) -> bool {
        let definitions = self.desk.lane.definitions();
        definitions.is_some_and(|status| {
            let members = &status.members;
            status
                .replica
                .is_none_or(|me| members.all().all(|id| id != me))
        })
    }

    /// How the links to other nodes are.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        self.links.status()
    }

    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where the port is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands over what this node leads, as far as others can take it: before it stops. Gives how
    /// many shards it still leads that others have too.
    pub async fn hand_over(&self) -> usize {
        let until = Instant::now() + HAND_OVER_TIMEOUT;
        let mut period = tokio::time::interval(HAND_OVER_PERIOD);
        let mut offered: BTreeMap<ShardId, Instant> = BTreeMap::new();
        // It would take them back.
        lock(&self.tasks).iter().for_each(JoinHandle::abort);
        loop {
            period.tick().await;
            let reachable = self.reachable.borrow().clone();
            let led = self.led();
            let shared = led.iter().filter(|status| status.members.voters.len() > 1);
            let left = shared.clone().count();
            if left == 0 || Instant::now() > until {
                return left;
            }
            let is_due = |shard: &ShardId| {
                let last = offered.get(shard);
                last.is_none_or(|at| at.elapsed() > HAND_OVER_AGAIN)
            };
            let due = shared.filter(|status| is_due(&status.shard));
            let steps = due.filter_map(|status| {
                let heir = steps::heir(status, &reachable)?;
                Some((status.shard, Step::Transfer(heir)))
            });
            let steps: Vec<_> = steps.collect();
            let now = Instant::now();
            offered.extend(steps.iter().map(|(shard, _)| (*shard, now)));
            if !steps.is_empty() {
                self.desk.lane.act(steps);
            }
        }
    }

    /// Ends the node's part: the tasks, what it tells, the port, then the links once what waits
    /// is written.
    pub async fn stop(&self) {
        lock(&self.tasks).iter().for_each(JoinHandle::abort);
        // Calls that would never end.
        self.colleagues.news.close();
        let port = lock(&self.port).take();
        if let Some(port) = port {
            port.stop().await;
        }
        self.links.stop().await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        lock(&self.tasks).iter().for_each(JoinHandle::abort);
        self.colleagues.news.close();
        let port = self.port.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(port) = port.take() {
            port.close();
        }
        self.links.set_peers(Vec::new());
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster(node {} of {})", self.node, self.desk.cluster)
    }
}

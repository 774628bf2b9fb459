//! Real nodes in one process, each with its folder and its port: they join, share shards, are
//! killed and come back; and what must not come in does not.

mod news;
mod renewal;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use warren_cluster::administration::{Refused, is_settled};
use warren_cluster::cluster::{self, Cluster, become_member};
use warren_cluster::grpc::Routes;
use warren_cluster::join::{About, JoinError, Refusal};
use warren_cluster::listener::Listener;
use warren_cluster::news::News;
use warren_cluster::tls::Files;
use warren_cluster::token::JoinToken;
use warren_cluster::{Error, Handle, Options, Sink};
use warren_cluster_core::batch::{Batch, Outcome};
use warren_cluster_core::ids::{self, NodeId, Place, ShardId};
use warren_cluster_core::inbox::{Input, Outputs};
use warren_cluster_core::lane::ShardStatus;
use warren_cluster_core::machine::{
    ApplyMeta, Bodies, CheckpointWriter, Context, LiveRef, Machine, Malformed, NoDesk,
};
use warren_cluster_core::members::{NodeState, Replicas};

const SHARDS: u32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

type Shown = Arc<Mutex<BTreeMap<ShardId, Vec<u64>>>>;

/// Keeps numbers in the order in which they were agreed on, and shows them.
struct Tally {
    shard: ShardId,
    values: Vec<u64>,
    shown: Shown,
}

impl Tally {
    fn show(&self) {
        let mut shown = self.shown.lock().expect("no panic");
        shown.insert(self.shard, self.values.clone());
    }
}

impl Machine for Tally {
    type Input = ();
    type Effect = ();
    type Desk = NoDesk;
    const RECONCILES: bool = false;

    fn blank(&self) -> Self {
        Self {
            shard: self.shard,
            values: Vec::new(),
            shown: Arc::clone(&self.shown),
        }
    }

    fn apply(
        &mut self,
        _meta: &ApplyMeta,
        payload: &Bytes,
        _context: &mut Context<'_, ()>,
    ) -> Result<(), Malformed> {
        let mut rest = &payload[..];
        while !rest.is_empty() {
            self.values.push(rest.get_u64_le());
        }
        self.show();
        Ok(())
    }

    fn input(&mut self, (): (), _: &mut Context<'_, ()>) {}

    fn lead(&mut self, _: &[NodeId], _: &mut Context<'_, ()>) {}

    fn node_down(&mut self, _: NodeId, _: &mut Context<'_, ()>) {}

    fn follow(&mut self, _: &mut Context<'_, ()>) {}

    fn resume(&mut self, _: u64, _: &mut Context<'_, ()>) {}

    fn flush(&mut self, _: &mut Context<'_, ()>) {}

    fn has_parked(&self) -> bool {
        false
    }

    fn deadline(&self) -> Option<ids::Instant> {
        None
    }

    fn checkpoint_begin(&mut self, out: &mut dyn CheckpointWriter) {
        let mut chunk = Vec::new();
        self.values.iter().for_each(|it| chunk.put_u64_le(*it));
        out.chunk(&chunk);
    }

    fn checkpoint_step(&mut self, _: usize, _: &mut dyn CheckpointWriter) -> bool {
        true
    }

    fn checkpoint_abort(&mut self) {}

    fn restore(&mut self, mut chunk: &[u8]) -> Result<(), Malformed> {
        while !chunk.is_empty() {
            self.values.push(chunk.get_u64_le());
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<(), Malformed> {
        self.show();
        Ok(())
    }

    fn retain_all(&self, _: &mut dyn Bodies) {}

    fn live(&self, _: u64, _: RangeInclusive<u64>, _: &mut Vec<LiveRef>) {}

    fn relocate(&mut self, _: u64, _: u64, _: Place, _: Place, _: &mut dyn Bodies) {}
}

#[derive(Default)]
struct Collected {
    done: Mutex<BTreeMap<u32, Outcome>>,
    shown: Shown,
}

impl Sink<Tally, u32> for Collected {
    fn outputs(&self, outputs: &mut Outputs<(), u32>, _: &mut VecDeque<Input<(), u32>>) {
        let done = outputs.done.drain(..);
        self.done.lock().expect("no panic").extend(done);
    }
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("warren-cluster-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node that runs. Dropped, it is gone as after a kill.
struct Node {
    cluster: Cluster,
    handle: Handle<Tally, u32>,
    sink: Arc<Collected>,
    news: Arc<News>,
}

fn about(listener: &Listener) -> About {
    About {
        name: "node".to_owned(),
        zone: String::new(),
        addresses: vec![listener.address().to_string()],
    }
}

/// At an address that connections do not begin at: once free, no other test's takes its port.
async fn listener() -> Listener {
    let any: SocketAddr = "127.0.0.2:0".parse().expect("an address");
    Listener::bind(any).await.expect("binds")
}

/// Where a node was that was dropped: its tasks let go of the port when they are next looked at.
async fn listener_again(place: SocketAddr) -> Listener {
    let is_free = || std::net::TcpListener::bind(place).ok();
    drop(eventually("the port is free again", is_free).await);
    Listener::bind(place).await.expect("binds")
}

/// Starts a node at a new port, which joins first if it has a token.
async fn start(folder: &Folder, token: Option<&JoinToken>) -> Node {
    let listener = listener().await;
    if let Some(token) = token {
        let joined = become_member(&folder.0, token, &about(&listener), PATIENCE).await;
        joined.expect("joins");
    }
    let node = open(folder, listener).await;
    node.cluster.ready(PATIENCE).await.expect("is ready");
    node
}

/// Opens the lane and the port, without waiting for others.
async fn open(folder: &Folder, listener: Listener) -> Node {
    let sink = Arc::new(Collected::default());
    let shared: Arc<dyn Sink<Tally, u32>> = Arc::<Collected>::clone(&sink);
    let options = Options {
        shards: SHARDS,
        segment_bytes: 1 << 20,
        ..Options::new(folder.0.clone(), "node".to_owned())
    };
    let machine = |shard| Tally {
        shard,
        values: Vec::new(),
        shown: Arc::clone(&sink.shown),
    };
    let until = Instant::now() + PATIENCE;
    let handle = loop {
        // A task of the life before may hold the folder for a moment.
        match warren_cluster::start(&options, machine, Arc::clone(&shared)) {
            Err(Error::Locked { .. }) if Instant::now() < until => tokio::task::yield_now().await,
            opened => break opened.expect("opens"),
        }
    };
    static LIVES: AtomicU64 = AtomicU64::new(1);
    let news = Arc::new(News::new(LIVES.fetch_add(1, Ordering::Relaxed)));
    let options = cluster::Options {
        folder: folder.0.clone(),
        name: "node".to_owned(),
        zone: String::new(),
        cluster_name: "test".to_owned(),
        addresses: vec![listener.address().to_string()],
        amqp: Vec::new(),
        http: Vec::new(),
        replace_after: Duration::from_secs(600),
        handshake_timeout: PATIENCE,
        news: Arc::clone(&news),
    };
    let started = cluster::start(&handle, options, listener, Routes::default());
    let cluster = started.await.expect("starts");
    Node {
        cluster,
        handle,
        sink,
        news,
    }
}

/// Waits until `look` gives something.
async fn eventually<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let mut period = tokio::time::interval(Duration::from_millis(10));
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        period.tick().await;
        if let Some(found) = look() {
            return found;
        }
    }
    panic!("not in time: {what}");
}

fn all_shards() -> impl Iterator<Item = ShardId> {
    (0..=SHARDS).map(ShardId)
}

impl Node {
    fn status(&self, shard: ShardId) -> ShardStatus {
        self.handle.shard_status(shard).expect("a logged shard")
    }

    /// Proposes a number in every queue shard; gives them by shard once they are stored.
    async fn propose(&self, value: u64) {
        let tickets: Vec<u32> = (1..=SHARDS).map(|at| value as u32 * 100 + at).collect();
        for shard in (1..=SHARDS).map(ShardId) {
            let mut batch = Batch::new(8);
            batch.push(|out| out.put_u64_le(value));
            self.handle.submit(&mut vec![Input::Propose {
                shard,
                batch,
                ticket: value as u32 * 100 + shard.0,
            }]);
        }
        eventually("stored", || {
            let done = self.sink.done.lock().expect("no panic");
            tickets
                .iter()
                .all(|ticket| done.contains_key(ticket))
                .then_some(())
        })
        .await;
        let done = self.sink.done.lock().expect("no panic");
        let outcomes: Vec<Outcome> = tickets.iter().map(|ticket| done[ticket]).collect();
        assert_eq!(outcomes, [Outcome::Stored; SHARDS as usize]);
    }

    /// Waits until every queue shard has exactly these numbers.
    async fn has(&self, values: &[u64]) {
        let what = format!("node {} has {values:?}", self.cluster.node());
        eventually(&what, || {
            let shown = self.sink.shown.lock().expect("no panic");
            let all = (1..=SHARDS).all(|shard| {
                let shown = shown.get(&ShardId(shard));
                shown.is_some_and(|shown| {
                    let mut shown = shown.clone();
                    shown.sort_unstable();
                    shown == values
                })
            });
            all.then_some(())
        })
        .await;
    }
}

/// Waits until all shards have so many voters and learners on all nodes.
async fn settled(nodes: &[&Node], voters: usize, learners: usize) {
    let what = format!("{voters} voters and {learners} learners");
    eventually(&what, || {
        let mut statuses = nodes
            .iter()
            .flat_map(|node| all_shards().map(|shard| node.status(shard)));
        let settled = statuses.all(|status| {
            let members = &status.members;
            members.outgoing.is_empty()
                && (members.voters.len(), members.learners.len()) == (voters, learners)
        });
        settled.then_some(())
    })
    .await;
}

async fn three(name: &str) -> ([Folder; 3], [Node; 3]) {
    let folders = [1, 2, 3].map(|at| Folder::new(&format!("{name}-{at}")));
    let one = start(&folders[0], None).await;
    let token = one
        .cluster
        .create_join_token(2, DAY)
        .await
        .expect("a token");
    let two = start(&folders[1], Some(&token)).await;
    let three = start(&folders[2], Some(&token)).await;
    let nodes = [one, two, three];
    settled(&nodes.each_ref(), 3, 0).await;
    (folders, nodes)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_share_all_shards_and_one_that_was_killed_catches_up() {
    let (folders, [one, two, three]) = three("share").await;
    let ids = [&one, &two, &three].map(|node| node.cluster.node().0);
    assert_eq!(ids, [1, 2, 3]);
    // Whoever has a node's folder administers the cluster, also where it did not begin.
    let made = three.cluster.make_admin(&folders[2].0);
    assert!(made.expect("it has the definitions"));
    assert!(!three.cluster.make_admin(&folders[2].0).expect("is there"));
    let admin = Files::new(&folders[2].0).admin().expect("whole");
    let first = Files::new(&folders[0].0).admin().expect("whole");
    let (admin, first) = (admin.expect("made"), first.expect("made when it began"));
    assert_eq!(admin.authority, first.authority);
    assert_ne!(admin.certificate, first.certificate);
    eventually("leads are spread", || {
        let mut led = [&one, &two, &three].map(|node| node.cluster.led().len());
        led.sort_unstable();
        (led == [2, 2, 3]).then_some(())
    })
    .await;
    for (value, node) in (1..).zip([&one, &two, &three]) {
        node.propose(value).await;
    }
    for node in [&one, &two, &three] {
        node.has(&[1, 2, 3]).await;
    }

    drop(two);
    one.propose(4).await;
    three.propose(5).await;
    one.has(&[1, 2, 3, 4, 5]).await;
    // At another port: nobody could answer it before it says so.
    let two = start(&folders[1], None).await;
    two.has(&[1, 2, 3, 4, 5]).await;
    two.propose(6).await;
    for node in [&one, &two, &three] {
        node.has(&[1, 2, 3, 4, 5, 6]).await;
    }
    let at = two.cluster.address().to_string();
    for node in [&one, &two, &three] {
        eventually("its row says where it is", || {
            let directory = node.cluster.directory();
            let row = &directory.nodes[&NodeId(2)].value;
            (row.addresses == [at.clone()]).then_some(())
        })
        .await;
    }
    assert!(three.handle.stop(PATIENCE));
    three.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_back_though_every_address_changed() {
    let (folders, nodes) = three("moved").await;
    nodes[2].propose(1).await;
    // The last one alone knows where nobody is; the others come later, elsewhere.
    let last = nodes[1].cluster.address();
    drop(nodes);
    let two = open(&folders[1], listener_again(last).await).await;
    let one = open(&folders[0], listener().await).await;
    let three = open(&folders[2], listener().await).await;
    for node in [&one, &two, &three] {
        node.cluster.ready(PATIENCE).await.expect("is ready");
    }
    one.propose(2).await;
    three.propose(3).await;
    for node in [&one, &two, &three] {
        node.has(&[1, 2, 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_are_a_voter_and_a_learner_and_any_node_lets_others_in() {
    let folders = [1, 2, 3].map(|at| Folder::new(&format!("any-{at}")));
    let one = start(&folders[0], None).await;
    one.propose(1).await;
    let token = one
        .cluster
        .create_join_token(1, DAY)
        .await
        .expect("a token");
    let two = start(&folders[1], Some(&token)).await;
    settled(&[&one, &two], 1, 1).await;
    two.propose(2).await;
    for node in [&one, &two] {
        node.has(&[1, 2]).await;
    }
    // A token of the second node, asked of the second node alone.
    let mut token = two
        .cluster
        .create_join_token(1, DAY)
        .await
        .expect("a token");
    token.addresses.truncate(1);
    assert_eq!(token.addresses, [two.cluster.address().to_string()]);

    // Its join is cut short before its certificate is on disk, and it asks again.
    let port = listener().await;
    let joined = become_member(&folders[2].0, &token, &about(&port), PATIENCE).await;
    joined.expect("joins");
    let certificate = folders[2].0.join("tls/node.pem");
    std::fs::remove_file(certificate).expect("was there");
    drop(port);
    let three = start(&folders[2], Some(&token)).await;
    assert_eq!(three.cluster.node(), NodeId(3));
    assert_eq!(three.cluster.directory().nodes.len(), 3);
    settled(&[&one, &two, &three], 3, 0).await;
    three.has(&[1, 2]).await;
}

async fn refused(folder: &Path, token: &JoinToken) -> cluster::Error {
    let listener = listener().await;
    let joined = become_member(folder, token, &about(&listener), PATIENCE).await;
    joined.expect_err("refused")
}

fn refusal(error: cluster::Error) -> Refusal {
    match error {
        cluster::Error::Join(JoinError::Refused { refusal, .. }) => refusal,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_join_changes_nothing() {
    let folders = [1, 2, 3, 4].map(|at| Folder::new(&format!("refused-{at}")));
    let one = start(&folders[0], None).await;
    let other = start(&folders[1], None).await;
    let create = |uses, life| one.cluster.create_join_token(uses, life);
    assert!(create(0, DAY).await.is_err());
    assert!(create(1, Duration::ZERO).await.is_err());
    let used = create(1, DAY).await.expect("a token");
    let expired = create(1, Duration::from_millis(1)).await.expect("a token");
    let good = create(1, DAY).await.expect("a token");
    let foreign = other.cluster.create_join_token(1, DAY).await;
    let foreign = foreign.expect("a token");

    let member = start(&folders[2], Some(&used)).await;
    settled(&[&one, &member], 1, 1).await;
    let before = one.cluster.directory();
    let blank = &folders[3].0;
    assert_eq!(refusal(refused(blank, &used).await), Refusal::UsedUp);
    // It is gone since another token was made after it had expired, or it has expired.
    let late = refusal(refused(blank, &expired).await);
    assert!(matches!(late, Refusal::Expired | Refusal::UnknownToken));
    let mut guessed = good.clone();
    guessed.id = used.id;
    assert_eq!(
        refusal(refused(blank, &guessed).await),
        Refusal::UnknownToken
    );
    // A token of another cluster, asked here: this node is not whom it speaks of.
    let mut led_astray = foreign.clone();
    led_astray.addresses = good.addresses.clone();
    let error = refused(blank, &led_astray).await;
    assert!(matches!(error, cluster::Error::Join(JoinError::Connect(_))));
    assert!(!blank.join("local").exists() && !blank.join("tls/node.pem").exists());

    // Folders that are not blank: a cluster of its own, a member of another.
    drop(other);
    for (folder, token) in [(&folders[1], &good), (&folders[2], &foreign)] {
        if folder.0 == folders[2].0 {
            continue;
        }
        let error = eventually_refused(&folder.0, token).await;
        assert!(matches!(error, cluster::Error::NotBlank { .. }), "{error}");
    }
    drop(member);
    let error = eventually_refused(&folders[2].0, &foreign).await;
    assert!(error.to_string().contains("is of cluster"), "{error}");
    assert_eq!(one.cluster.directory(), before, "nothing changed");

    // And a member is left as it is, whatever token of its cluster it shows.
    let member = start(&folders[2], Some(&good)).await;
    assert_eq!(member.cluster.node(), NodeId(2));
    let grants = &one.cluster.directory().grants;
    assert_eq!(grants.len(), before.grants.len());
}

/// A refusal of a folder that a task of a dropped node may still hold for a moment.
async fn eventually_refused(folder: &Path, token: &JoinToken) -> cluster::Error {
    let until = Instant::now() + PATIENCE;
    loop {
        match refused(folder, token).await {
            cluster::Error::Folder(Error::Locked { .. }) if Instant::now() < until => {}
            error => return error,
        }
    }
}

/// Four nodes, each shard on three of them, nothing on its way.
async fn four(name: &str) -> (Vec<Folder>, Vec<Node>) {
    let (folders, nodes) = three(name).await;
    let token = nodes[0].cluster.create_join_token(1, DAY).await;
    let mut folders = Vec::from(folders);
    folders.push(Folder::new(&format!("{name}-4")));
    let fourth = start(&folders[3], Some(&token.expect("a token"))).await;
    let mut nodes = Vec::from(nodes);
    nodes.push(fourth);
    rested(&nodes[0]).await;
    (folders, nodes)
}

/// Seeds 405 and 1509 of the simulator: the leader of the definitions had joined while the node was
/// away, which did not know it and so refused it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_hears_of_a_leader_that_has_joined_meanwhile() {
    let (folders, [one, two, three]) = three("stranger").await;
    drop(three);
    let token = one.cluster.create_join_token(2, DAY).await;
    let token = token.expect("a token");
    let newer = [4, 5].map(|at| Folder::new(&format!("stranger-{at}")));
    let _four = start(&newer[0], Some(&token)).await;
    // With five nodes, shard 0 has five voters.
    let five = start(&newer[1], Some(&token)).await;
    let (shard, id) = (ShardId::DEFINITIONS, NodeId(4));
    eventually("the new node has a vote", || {
        let voters = one.status(shard).members.voters;
        voters.iter().any(|it| it.node() == id).then_some(())
    })
    .await;
    let moved = one.cluster.prefer_leader(shard, id).await;
    assert_eq!(moved, Ok(()));
    eventually("it leads", || {
        let leader = two.status(shard).leader;
        leader.is_some_and(|(_, leader)| leader == id).then_some(())
    })
    .await;
    // At another address than before, too.
    let three = start(&folders[2], None).await;
    eventually("it has what all have", || {
        (three.cluster.directory().nodes.len() == 5).then_some(())
    })
    .await;
    five.propose(1).await;
    three.propose(2).await;
}

/// Waits until all is where it belongs.
async fn rested(node: &Node) {
    let until = Instant::now() + PATIENCE;
    let mut period = tokio::time::interval(Duration::from_millis(50));
    loop {
        period.tick().await;
        let overview = node.cluster.overview().await;
        let layout = node.cluster.layout(&node.cluster.placed(&overview));
        let directory = &overview.directory;
        let led = overview.led();
        let settled = led.len() == SHARDS as usize + 1
            && led.values().all(|status| is_settled(directory, status));
        let tidy = directory.replicas.values().all(|row| {
            row.value.retired.is_empty() && row.value.gone.is_empty() && row.value.lost.is_empty()
        });
        if layout.is_empty() && settled && tidy {
            return;
        }
        assert!(Instant::now() < until, "no rest: {layout:?} {directory:?}");
    }
}

fn row(node: &Node, shard: ShardId) -> Replicas {
    node.cluster.directory().replicas[&shard].value.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_moved_away_is_forgotten_and_comes_back_under_a_new_id() {
    let (folders, mut nodes) = four("vacate").await;
    nodes[0].propose(1).await;
    let copies = |at: &usize| {
        let node = NodeId(*at as u64 + 1);
        nodes[0].cluster.directory().replicas_on(node).count()
    };
    // So that the balance stays as it is.
    let from = (0..4).max_by_key(copies).expect("nodes");
    let to = (0..4).min_by_key(copies).expect("nodes");
    let (from_id, to_id) = (NodeId(from as u64 + 1), NodeId(to as u64 + 1));
    let shards = (1..=SHARDS).map(ShardId);
    let mut movable = shards.filter(|shard| {
        let row = row(&nodes[0], *shard);
        row.on(from_id).is_some() && row.on(to_id).is_none()
    });
    let shard = movable.next().expect("it has more than the other");
    let old = row(&nodes[0], shard).on(from_id).expect("looked at above");
    let moved = nodes[0].cluster.move_replica(shard, from_id, to_id).await;
    assert_eq!(moved, Ok(()));
    rested(&nodes[0]).await;
    assert_eq!(nodes[from].status(shard).replica, None);
    let again = nodes[0].cluster.move_replica(shard, from_id, to_id).await;
    assert_eq!(again, Ok(()), "there is nothing left to do");

    let gone = nodes.remove(from);
    drop(gone);
    let node = start(&folders[from], None).await;
    assert_eq!(node.status(shard).replica, None, "after a start, too");
    nodes.insert(from, node);
    let moved = nodes[to].cluster.move_replica(shard, to_id, from_id).await;
    assert_eq!(moved, Ok(()));
    rested(&nodes[0]).await;
    let new = row(&nodes[0], shard).on(from_id).expect("it is back");
    assert_ne!(new, old);
    assert_eq!(nodes[from].status(shard).replica, Some(new));
    nodes[0].propose(2).await;

    let gone = nodes.remove(from);
    drop(gone);
    let node = start(&folders[from], None).await;
    assert_eq!(node.status(shard).replica, Some(new));
    nodes.insert(from, node);
    nodes[to].propose(3).await;
    eventually("the replica has everything", || {
        let shown = nodes[from].sink.shown.lock().expect("no panic");
        let mut shown = shown.get(&shard)?.clone();
        shown.sort_unstable();
        (shown == [1, 2, 3]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_when_nothing_is_left_on_it() {
    let (_folders, nodes) = four("leave").await;
    nodes[3].propose(1).await;
    let leaves = NodeId(4);
    let unknown = nodes[0].cluster.set_state(NodeId(9), NodeState::Leaving);
    assert_eq!(unknown.await, Err(Refused::UnknownNode(NodeId(9))));
    for _ in 0..2 {
        let left = nodes[1].cluster.set_state(leaves, NodeState::Leaving).await;
        assert_eq!(left, Ok(()));
    }
    let back = nodes[1].cluster.set_state(leaves, NodeState::Active).await;
    assert!(matches!(
        back,
        Err(Refused::Never(_) | Refused::UnknownNode(_))
    ));
    tokio::time::timeout(PATIENCE, nodes[3].cluster.dismissed())
        .await
        .expect("it is told");
    // Who told it may know it before this one.
    eventually("it is removed", || {
        let directory = nodes[0].cluster.directory();
        (directory.nodes[&leaves].value.state == NodeState::Removed).then_some(())
    })
    .await;
    rested(&nodes[0]).await;
    assert_eq!(nodes[0].cluster.directory().replicas_on(leaves).count(), 0);
    nodes[0].propose(2).await;
    for node in &nodes[..3] {
        node.has(&[1, 2]).await;
    }
    // With two more gone, the last one cannot go.
    for id in [2, 3] {
        let state = NodeState::Draining;
        assert_eq!(nodes[0].cluster.set_state(NodeId(id), state).await, Ok(()));
    }
    let last = nodes[0].cluster.set_state(NodeId(1), NodeState::Draining);
    assert!(matches!(last.await, Err(Refused::NotNow(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_replaced_gives_its_places_to_the_other() {
    let (_folders, nodes) = four("replace").await;
    nodes[0].propose(1).await;
    let (old, new) = (NodeId(2), NodeId(4));
    let on = |node: NodeId| -> Vec<ShardId> {
        let directory = nodes[0].cluster.directory();
        directory
            .replicas_on(node)
            .map(|(shard, _)| shard)
            .collect()
    };
    let had = on(old);
    let replaced = nodes[2].cluster.replace(old, old).await;
    assert!(matches!(replaced, Err(Refused::Never(_))));
    let replaced = nodes[2].cluster.replace(old, NodeId(9)).await;
    assert_eq!(replaced, Err(Refused::UnknownNode(NodeId(9))));
    assert_eq!(on(old), had, "nothing has changed");
    assert_eq!(nodes[2].cluster.replace(old, new).await, Ok(()));
    // The row says so at once, whatever is still to be moved.
    let now = on(new);
    assert!(had.iter().all(|shard| now.contains(shard)), "{now:?}");
    assert_eq!(nodes[0].cluster.lay_out_now().await, Ok(()));
    tokio::time::timeout(PATIENCE, nodes[1].cluster.dismissed())
        .await
        .expect("it has left");
    rested(&nodes[0]).await;
    nodes[3].propose(2).await;
    for at in [0, 2, 3] {
        nodes[at].has(&[1, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_whose_majority_is_lost_are_recovered_from_what_is_left() {
    let (folders, [one, two, three]) = three("recover").await;
    one.propose(1).await;
    for node in [&one, &two, &three] {
        node.has(&[1]).await;
    }
    drop(two);
    drop(three);
    let me = one.cluster.node();
    eventually("nobody leads", || {
        one.cluster.led().is_empty().then_some(())
    })
    .await;
    let queues = one.cluster.recover(me, &one.status(ShardId(1))).await;
    assert!(matches!(queues, Err(Refused::NotNow(_))), "first shard 0");
    let mut seen = one.status(ShardId(0));
    seen.last.0.0 += 1;
    let moved_on = one.cluster.recover(me, &seen).await;
    assert!(matches!(moved_on, Err(Refused::NotNow(_))));
    for shard in all_shards() {
        let recovered = one.cluster.recover(me, &one.status(shard)).await;
        assert_eq!(recovered, Ok(()), "shard {shard}");
        eventually("it leads", || {
            let led = one.cluster.led();
            let leads = led.iter().any(|status| status.shard == shard);
            let row = row(&one, shard);
            (leads && row.voters == [one.status(shard).replica?]).then_some(())
        })
        .await;
    }
    one.propose(2).await;
    one.has(&[1, 2]).await;
    // It is so on the disk, too; others that are blank may come.
    drop(one);
    let one = start(&folders[0], None).await;
    one.propose(3).await;
    one.has(&[1, 2, 3]).await;
}

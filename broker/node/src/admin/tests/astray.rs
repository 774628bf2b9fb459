//! A broker where another cluster looks for its node.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use warren_cluster::link::{Class, LinkEvents, LinkOptions, Links};
use warren_cluster::tls::Credentials;
use warren_cluster_core::ids::NodeId;

use super::events::Watcher;
use super::*;
use crate::{astray, http, listener};

/// Nobody listens to what these links tell.
struct Deaf;

impl LinkEvents for Deaf {
    fn message(&self, _: NodeId, _: Class, _: Bytes) {}

    fn connected(&self, _: NodeId, _: u64) {}

    fn lost(&self, _: NodeId) {}
}

/// A member of `other`'s cluster that believes its node 7 to be where `node` is.
fn seek(other: &Node, node: &Node) -> Links {
    let keys = other.files().node().expect("reads").expect("is there");
    let credentials = Arc::new(Credentials::new(&keys).expect("credentials"));
    let links = Links::start(LinkOptions::new(1, 1), credentials, Arc::new(Deaf));
    let address = node.cluster.address().to_string();
    links.set_peers(vec![(NodeId(7), vec![address])]);
    links
}

/// What serves a node's clients, and watches who looks for it.
struct Served {
    amqp: SocketAddr,
    http: SocketAddr,
    accepting: JoinHandle<()>,
    events: Watcher,
}

async fn serve(node: &Node) -> Served {
    let bind = || TcpListener::bind("127.0.0.1:0");
    let (amqp, http) = (bind().await.expect("a port"), bind().await.expect("a port"));
    let address = |it: &TcpListener| it.local_addr().expect("is bound");
    let (amqp_at, http_at) = (address(&amqp), address(&http));
    node.broker.begin_serving();
    tokio::spawn(http::serve_api(Arc::clone(&node.broker), http));
    let events = Watcher::start(node).await;
    let (broker, cluster) = (Arc::clone(&node.broker), Arc::clone(&node.cluster));
    tokio::spawn(astray::watch(broker, cluster));
    Served {
        amqp: amqp_at,
        http: http_at,
        accepting: tokio::spawn(listener::accept(Arc::clone(&node.broker), amqp, 10)),
        events,
    }
}

impl Served {
    /// The status line of the check that load balancers ask.
    async fn ready(&self) -> String {
        let mut stream = TcpStream::connect(self.http).await.expect("connects");
        // guest:guest
        let request = "GET /api/health/checks/ready-to-serve-clients HTTP/1.1\r\nhost: a\r\n\
                       authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("asks");
        let mut answer = String::new();
        let read = timeout(WITHIN, stream.read_to_string(&mut answer)).await;
        read.expect("in time").expect("answers");
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// The text of the next event of this kind.
    async fn told(&mut self) -> String {
        self.events.last("astray").await.text
    }
}

/// Greets a broker, which answers: it serves.
async fn greeted(at: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(at).await.expect("connects");
    let hello = b"AMQP\x00\x00\x09\x01";
    client.write_all(hello).await.expect("is let in");
    let mut first = [0];
    let read = timeout(WITHIN, client.read_exact(&mut first)).await;
    read.expect("in time").expect("is answered");
    assert_eq!(first, [1], "connection.start is a method");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_that_is_taken_for_a_lost_node_serves_nobody() {
    let (node, other) = (Node::start(|_| {}).await, Node::start(|_| {}).await);
    let mut served = serve(&node).await;
    assert!(served.ready().await.contains(" 200 "));
    let mut client = greeted(served.amqp).await;

    let seeker = seek(&other, &node);
    let text = served.told().await;
    let (foreign, own) = (other.cluster.directory(), node.cluster.directory());
    let id = |it: &warren_cluster_core::members::Directory| {
        let row = it.cluster.as_ref().expect("a cluster");
        format!("{:032x}", row.value.id)
    };
    for part in [
        "node 7",
        &id(&foreign),
        &id(&own),
        "--join",
        "node remove --force",
        "--new-cluster",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    timeout(WITHIN, served.accepting)
        .await
        .expect("in time")
        .expect("closes its listener");
    let refused = TcpStream::connect(served.amqp).await;
    assert!(refused.is_err(), "nobody listens any more");
    let ended = timeout(WITHIN, client.read_to_end(&mut Vec::new())).await;
    drop(ended.expect("clients that are there are sent away"));
    assert!(!node.broker.serves());
    assert_eq!(
        std::fs::read_to_string(node.data().join("astray")).expect("is kept"),
        format!("node 7 of cluster {}\n", id(&foreign)),
    );
    seeker.stop().await;
    node.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_holds_over_restarts_until_the_operator_knows_better() {
    let node = Node::start(|_| {}).await;
    astray::begin(&node.broker).expect("begins");
    assert!(!*node.broker.astray().borrow());
    std::fs::write(node.data().join("astray"), "node 7 of cluster x\n").expect("writes");
    let mut events = Watcher::start(&node).await;
    astray::begin(&node.broker).expect("begins");
    assert!(*node.broker.astray().borrow());
    let told = events.last("astray").await;
    assert!(told.text.starts_with("node 7 of cluster x is looked for"));
    node.stop().await;

    let (node, other) = (
        Node::start(|config| config.new_cluster = true).await,
        Node::start(|_| {}).await,
    );
    let file = node.data().join("astray");
    std::fs::write(&file, "node 7 of cluster x\n").expect("writes");
    astray::begin(&node.broker).expect("begins");
    assert!(!file.exists(), "a later start needs no flag");
    goes_on_serving(&node, &other).await;
    node.stop().await;
    other.stop().await;
}

/// Says that another cluster's node should be where a healthy node is, which is what anybody can
/// say.
async fn goes_on_serving(node: &Node, other: &Node) {
    let mut served = serve(node).await;
    let client = greeted(served.amqp).await;
    let seeker = seek(other, node);
    let text = served.told().await;
    assert!(text.contains("goes on serving"), "{text}");
    assert!(served.ready().await.contains(" 200 "));
    drop(greeted(served.amqp).await);
    assert!(!served.accepting.is_finished());
    assert!(!node.data().join("astray").exists());
    drop(client);
    seeker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_hello_closes_no_healthy_broker() {
    let (node, other) = (Node::start(|_| {}).await, Node::start(|_| {}).await);
    // Somebody has joined: this is a cluster, and not what a lost disk leaves behind.
    let day = Duration::from_secs(86_400);
    let token = node.cluster.create_join_token(1, day).await;
    let blank = Config {
        data_dir: node.folder.join("second"),
        cluster: "127.0.0.1:0".parse().expect("an address"),
        join: vec![node.cluster.address().to_string()],
        join_token: Some(token.expect("a token").to_string()),
        ..Config::default()
    };
    let joined = timeout(WITHIN, crate::cluster::prepare(&blank, Time(0))).await;
    drop(joined.expect("in time").expect("joins"));
    goes_on_serving(&node, &other).await;
    node.stop().await;
    other.stop().await;
}

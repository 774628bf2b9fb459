//! Whoever must not get in, or in no further: each costs its own connection and nothing else.

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::frame::{self, GREETING_BYTES_LIMIT, Head, Hello, Kind, Welcome};
use super::*;
use crate::astray::Sought;
use crate::listener::alpn;
use crate::tls::{ClusterId, Dial, admin_client};

/// A TLS connection to a node's port.
async fn dial(node: &Node, dial: &Dial) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(node.port.address()).await?;
    let connector = TlsConnector::from(dial.config.clone());
    connector.connect(dial.name.clone(), tcp).await
}

/// The same as a node would dial.
async fn dial_as(node: &Node, keys: &NodeKeys) -> TlsStream<TcpStream> {
    let credentials = Credentials::new(keys).expect("credentials");
    let link = credentials.link_to(node.id).expect("a dial");
    dial(node, &link).await.expect("connects")
}

/// `dial` with another protocol in ALPN.
fn asking_for(dial: &Dial, protocol: &[u8]) -> Dial {
    let mut config = (*dial.config).clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    Dial {
        config: Arc::new(config),
        name: dial.name.clone(),
    }
}

fn hello(cluster: ClusterId) -> Hello {
    Hello {
        oldest: frame::OLDEST,
        newest: frame::NEWEST,
        cluster,
        from: NodeId(2),
        to: NodeId(1),
        class: Class::Data,
        incarnation: 1,
    }
}

/// What the node answers to some bytes: a refusal's text, or that it welcomes.
async fn answer(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> Result<Welcome, String> {
    stream.write_all(bytes).await.expect("sends");
    stream.flush().await.expect("sends");
    let reading = frame::read(stream, GREETING_BYTES_LIMIT);
    let read = tokio::time::timeout(DEADLINE, reading)
        .await
        .expect("in time");
    match read.expect("an answer") {
        (Kind::Welcome, payload) => Ok(Welcome::decode(&payload).expect("a welcome")),
        (kind, payload) => {
            assert_eq!(kind, Kind::Refused);
            Err(String::from_utf8_lossy(&payload).into_owned())
        }
    }
}

/// Waits until the node has closed a connection.
async fn closed(stream: &mut TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    // With or without a farewell.
    drop(read.expect("in time"));
}

/// The link between the two still carries messages.
async fn unharmed(one: &Node, two: &mut Node) {
    assert!(
        one.links
            .send(NodeId(2), Class::Data, [Bytes::from_static(b"still")])
    );
    assert_eq!(two.message(Class::Data).await.1, "still");
    assert!(one.links.status()[0].connected.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_costs_only_itself() {
    let cluster = Cluster::new(1);
    let [mut one, mut two] = pair(&cluster).await;
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
        &[0; 600],
        &[0x16, 0x03, 0x01, 0xff, 0xff, 1, 2, 3],
    ];
    for bytes in garbage {
        let mut tcp = TcpStream::connect(one.port.address())
            .await
            .expect("connects");
        tcp.write_all(bytes).await.expect("sends");
        tcp.shutdown().await.expect("ends");
        let refusal = one.refused().await;
        assert!(matches!(refusal, Refusal::Tls(_)), "{refusal}");
    }
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_clusters_nodes_are_refused_on_both_sides() {
    let (cluster, other, forged) = (Cluster::new(1), Cluster::new(2), Cluster::new(1));
    let [mut one, mut two] = pair(&cluster).await;
    for foreign in [&other, &forged] {
        // It dials us: it does not believe us, and tells us so.
        let three = Node::start(foreign, 3).await;
        three.links.set_peers(vec![one.place()]);
        three.fault(1, "is not the peer").await;
        let refusal = one.refused().await;
        if foreign.id() == cluster.id() {
            assert!(matches!(refusal, Refusal::Tls(_)), "{refusal}");
        } else {
            // And whom it takes us for.
            let sought = Sought {
                node: NodeId(1),
                cluster: foreign.id(),
            };
            assert_eq!(refusal, Refusal::Sought(sought));
        }
        // We dial it.
        two.links.set_peers(vec![one.place(), three.place()]);
        two.fault(3, "is not the peer").await;
        two.links.set_peers(vec![one.place()]);
        three.stop().await;
    }
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_certificate_is_refused() {
    let (cluster, other) = (Cluster::new(1), Cluster::new(1));
    let [mut one, mut two] = pair(&cluster).await;
    // Believes our node, and shows what another authority signed.
    let ours = Credentials::new(&keys(&cluster, 2)).expect("credentials");
    let theirs = Credentials::new(&keys(&other, 2)).expect("credentials");
    let believing = ours.link_to(NodeId(1)).expect("a dial");
    let showing = theirs.link_to(NodeId(1)).expect("a dial");
    let mut config = (*believing.config).clone();
    config.client_auth_cert_resolver = showing.config.client_auth_cert_resolver.clone();
    let name = believing.name.clone();
    let config = Arc::new(config);
    // In TLS 1.3 the client is done before the server has seen its certificate.
    if let Ok(mut stream) = dial(&one, &Dial { config, name }).await {
        closed(&mut stream).await;
    }
    let refusal = one.refused().await;
    assert!(
        matches!(&refusal, Refusal::Tls(text) if text.contains("invalid peer certificate")),
        "{refusal}"
    );
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_and_nobodies_have_no_links() {
    let cluster = Cluster::new(1);
    let [mut one, mut two] = pair(&cluster).await;
    let admin = admin_client(&cluster.admin()).expect("a dial");
    let mut stream = dial(&one, &asking_for(&admin, alpn::LINK))
        .await
        .expect("connects");
    let text = answer(&mut stream, &hello(cluster.id()).encode()).await;
    assert_eq!(text, Err(Refusal::NotANode.to_string()));
    assert_eq!(one.refused().await, Refusal::NotANode);

    let credentials = Credentials::new(&keys(&cluster, 2)).expect("credentials");
    let link = credentials.link_to(NodeId(1)).expect("a dial");
    let mut config = (*link.config).clone();
    let nothing = rustls::client::ClientConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.client_auth_cert_resolver = nothing.client_auth_cert_resolver.clone();
    let name = link.name.clone();
    let config = Arc::new(config);
    let mut stream = dial(&one, &Dial { config, name }).await.expect("connects");
    let text = answer(&mut stream, &hello(cluster.id()).encode()).await;
    assert_eq!(text, Err(Refusal::NoCertificate.to_string()));
    assert_eq!(one.refused().await, Refusal::NoCertificate);

    // TLS itself turns other protocols away.
    let other = dial(&one, &asking_for(&link, b"http/1.1")).await;
    assert!(other.is_err());
    let refusal = one.refused().await;
    assert!(matches!(refusal, Refusal::Tls(_)), "{refusal}");
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_than_the_wanted_is_not_linked() {
    let cluster = Cluster::new(1);
    let [one, mut two] = pair(&cluster).await;
    let (_, place_of_two) = two.place();
    one.links
        .set_peers(vec![two.place(), (NodeId(3), place_of_two)]);
    one.fault(3, "reached node 2, not node 3").await;
    let (_, own_place) = one.place();
    one.links
        .set_peers(vec![two.place(), (NodeId(4), own_place)]);
    one.fault(4, "reached node 1, not node 4").await;
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greetings_that_are_wrong_are_answered_with_why() {
    let cluster = Cluster::new(1);
    let id = cluster.id();
    let [mut one, mut two] = pair(&cluster).await;
    let raw = |length: u32, kind: u8| [&length.to_le_bytes()[..], &[kind]].concat();
    let greeting = |text: &str| Refusal::Greeting(text.to_owned());
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello(id);
        change(&mut hello);
        hello.encode().to_vec()
    };
    let cases = [
        (
            with(|hello| (hello.oldest, hello.newest) = (7, 9)),
            Refusal::Version {
                oldest: 7,
                newest: 9,
            },
        ),
        (
            with(|hello| hello.cluster = ClusterId(9)),
            Refusal::ForeignCluster(ClusterId(9)),
        ),
        (
            with(|hello| hello.from = NodeId(3)),
            Refusal::Forged {
                said: NodeId(3),
                shown: NodeId(2),
            },
        ),
        (
            with(|hello| hello.to = NodeId(3)),
            Refusal::Misled(NodeId(3)),
        ),
        (
            with(|hello| hello.incarnation = 0),
            Refusal::Stale {
                node: NodeId(2),
                said: 0,
                known: 1,
            },
        ),
        (
            raw(1 << 30, 1),
            greeting("a frame of 1073741824 bytes, the limit is 1024"),
        ),
        (raw(0, 77), greeting("a frame of unknown kind 77")),
        (raw(0, 1), greeting("the Hello cannot be read")),
        (raw(0, 4), greeting("Message instead of a hello")),
    ];
    for (bytes, refusal) in cases {
        let mut stream = dial_as(&one, &keys(&cluster, 2)).await;
        let text = answer(&mut stream, &bytes).await;
        assert_eq!(text, Err(refusal.to_string()));
        assert_eq!(one.refused().await, refusal);
        closed(&mut stream).await;
    }
    let mut stream = dial_as(&one, &keys(&cluster, 5)).await;
    let mut hello = hello(id);
    hello.from = NodeId(5);
    let text = answer(&mut stream, &hello.encode()).await;
    assert_eq!(text, Err(Refusal::NotAPeer(NodeId(5)).to_string()));
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_breaks_the_rules_loses_that_connection() {
    let cluster = Cluster::new(1);
    let id = cluster.id();
    // Two does not run: its certificate is used by hand.
    let mut one = Node::start(&cluster, 1).await;
    let mut three = Node::start(&cluster, 3).await;
    let places = [one.place(), three.place(), (NodeId(2), Vec::new())];
    one.links.set_peers(places.to_vec());
    three.links.set_peers(places.to_vec());
    one.connected(3).await;
    let limit = one.links.shared.options.message_bytes_limit;
    let head = |bytes, kind| Head { bytes, kind }.encode().to_vec();
    let cases = [
        (head(limit + 1, Kind::Message), "the limit is"),
        (head(3, Kind::Refused), "Refused instead of a message"),
        (vec![0, 0, 0, 0, 200], "unknown kind 200"),
        (hello(id).encode().to_vec(), "Hello instead of a message"),
    ];
    for (bytes, why) in cases {
        let mut stream = dial_as(&one, &keys(&cluster, 2)).await;
        let welcome = answer(&mut stream, &hello(id).encode()).await;
        assert_eq!(welcome.expect("welcome").incarnation, 1);
        let mut good = BytesMut::new();
        good.put_slice(&head(4, Kind::Message));
        good.put_slice(b"good");
        stream.write_all(&good).await.expect("sends");
        stream.write_all(&bytes).await.expect("sends");
        stream.write_all(b"xyz").await.expect("sends");
        stream.flush().await.expect("sends");
        assert_eq!(one.message(Class::Data).await.1, "good");
        let refusal = one.refused().await;
        assert!(
            matches!(
                refusal,
                Refusal::Broken {
                    node: NodeId(2),
                    ..
                }
            ),
            "{refusal}"
        );
        assert!(refusal.to_string().contains(why), "{refusal}");
        closed(&mut stream).await;
    }
    assert!(
        one.links
            .send(NodeId(3), Class::Data, [Bytes::from_static(b"still")])
    );
    assert_eq!(three.message(Class::Data).await.1, "still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_takes_the_place_of_an_older() {
    let cluster = Cluster::new(1);
    let id = cluster.id();
    let mut one = Node::start(&cluster, 1).await;
    one.links.set_peers(vec![(NodeId(2), Vec::new())]);
    let mut older = dial_as(&one, &keys(&cluster, 2)).await;
    assert!(answer(&mut older, &hello(id).encode()).await.is_ok());
    let mut newer = dial_as(&one, &keys(&cluster, 2)).await;
    let mut restarted = hello(id);
    restarted.incarnation = 2;
    assert!(answer(&mut newer, &restarted.encode()).await.is_ok());
    closed(&mut older).await;
    let message = [&[3, 0, 0, 0, Kind::Message as u8][..], b"new"].concat();
    newer.write_all(&message).await.expect("sends");
    newer.flush().await.expect("sends");
    assert_eq!(one.message(Class::Data).await.1, "new");
    // The process that was there before does not come back, on the other connection neither.
    let mut late = dial_as(&one, &keys(&cluster, 2)).await;
    let mut of_old = hello(id);
    of_old.class = Class::Control;
    let text = answer(&mut late, &of_old.encode()).await;
    assert!(text.is_err_and(|text| text.contains("incarnation 1 of node 2 is over")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_a_handshake() {
    let cluster = Cluster::new(1);
    let any = "127.0.0.1:0".parse().expect("an address");
    let hasty = LinkOptions {
        handshake_timeout: Duration::from_millis(200),
        ..options(1)
    };
    let mut one = Node::start_at(any, &keys(&cluster, 1), hasty).await;
    one.links.set_peers(vec![(NodeId(2), Vec::new())]);
    let mut tcp = TcpStream::connect(one.port.address())
        .await
        .expect("connects");
    assert_eq!(one.refused().await, Refusal::Timeout);
    assert_eq!(tcp.read(&mut [0; 9]).await.expect("closed"), 0);
    // Through TLS, and then not a word.
    let mut stream = dial_as(&one, &keys(&cluster, 2)).await;
    assert_eq!(one.refused().await, Refusal::Timeout);
    closed(&mut stream).await;
    // For gRPC too.
    let admin = admin_client(&cluster.admin()).expect("a dial");
    let mut stream = dial(&one, &admin).await.expect("connects");
    closed(&mut stream).await;
}

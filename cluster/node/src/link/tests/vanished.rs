//! A peer whose machine is gone without a word: what goes to it is neither acknowledged nor
//! refused. A socket filter that drops every segment makes one.

use socket2::{SockFilter, SockRef};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::frame::{self, GREETING_BYTES_LIMIT, Hello, Welcome};
use super::*;

/// `BPF_RET | BPF_K` with 0: nothing passes.
const DROP_ALL: (u16, u32) = (0x06, 0);

/// Node 2, made by hand up to the point where it would read messages.
async fn welcomed(socket: &TcpListener, acceptor: &TlsAcceptor) -> TlsStream<TcpStream> {
    let (tcp, _) = socket.accept().await.expect("a connection");
    let mut stream = acceptor.accept(tcp).await.expect("TLS");
    let (_, payload) = frame::read(&mut stream, GREETING_BYTES_LIMIT)
        .await
        .expect("a hello");
    let version = Hello::decode(&payload)
        .expect("a hello")
        .version()
        .expect("a version");
    let incarnation = 4;
    let welcome = Welcome {
        version,
        incarnation,
    };
    stream.write_all(&welcome.encode()).await.expect("sends");
    stream.flush().await.expect("sends");
    stream
}

/// A node that is linked to a peer which then vanishes.
async fn linked_to_a_ghost() -> (Node, [TlsStream<TcpStream>; 3]) {
    let cluster = Cluster::new(1);
    let mut one = Node::start(&cluster, 1).await;
    let ghost = Credentials::new(&keys(&cluster, 2)).expect("credentials");
    let acceptor = TlsAcceptor::from(ghost.server().expect("a server"));
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = socket.local_addr().expect("an address").to_string();
    one.links.set_peers(vec![(NodeId(2), vec![address])]);
    let mut streams = [
        welcomed(&socket, &acceptor).await,
        welcomed(&socket, &acceptor).await,
        welcomed(&socket, &acceptor).await,
    ];
    assert_eq!(one.connected(2).await, 4);
    for (class, stream) in Class::ALL.into_iter().zip(&mut streams) {
        // What comes with it acknowledges the welcome: the ghost has nothing to send again.
        one.links
            .send(NodeId(2), class, [Bytes::from_static(b"last words")]);
        frame::read(stream, 100).await.expect("a message");
        let (code, k) = DROP_ALL;
        let filter = SockFilter::new(code, 0, 0, k);
        let socket = SockRef::from(stream.get_ref().0);
        socket.attach_filter(&[filter]).expect("a filter");
    }
    (one, streams)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanished_under_beats_is_lost_within_seconds() {
    let (mut one, _ghost) = linked_to_a_ghost().await;
    let began = Instant::now();
    let links = one.links.clone();
    let beats = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(50));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            links.send(NodeId(2), Class::Control, [Bytes::from_static(b"beat")]);
        }
    });
    one.lost(2).await;
    beats.abort();
    // Without our limits the system would try for a quarter of an hour.
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanished_in_silence_is_lost_within_seconds() {
    let (mut one, _ghost) = linked_to_a_ghost().await;
    let began = Instant::now();
    one.lost(2).await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}

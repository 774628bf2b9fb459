//! The side that accepts: greets back, and reads messages until the connection ends.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use warren_cluster_core::ids::NodeId;

use super::frame::{self, Fault, GREETING_BYTES_LIMIT, Hello, Kind, NEWEST, OLDEST, Welcome};
use super::peer::Peer;
use super::{Class, Links, Shared};
use crate::astray::Sought;
use crate::listener::Caller;
use crate::tls::ClusterId;

/// Bytes that are read ahead of small messages; larger ones go past this buffer.
const READ_BYTES: usize = 32 << 10;
/// Bytes of data that are read before everybody else has a turn: what goes into logs comes in
/// bulk, and behind it acknowledgements and deliveries of all connections would wait.
const TURN_BYTES: usize = 128 << 10;

/// Why somebody at the cluster port is turned away.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Garbage, a stranger's certificate, or no TLS 1.3.
    #[error("TLS: {0}")]
    Tls(String),
    /// A member of another cluster is believed to be here.
    #[error("it looks for {0}")]
    Sought(Sought),
    #[error("it did not finish its handshake in time")]
    Timeout,
    #[error("it speaks neither links nor gRPC")]
    NoProtocol,
    #[error("too many gRPC connections are open")]
    Crowded,
    #[error("it shows no certificate")]
    NoCertificate,
    #[error("an administrator is no node")]
    NotANode,
    /// A node of the cluster, but one that this node does not know (yet, or any more).
    #[error("node {0} is not a peer of this node")]
    NotAPeer(NodeId),
    #[error("its greeting is none: {0}")]
    Greeting(String),
    #[error("it speaks versions {oldest} to {newest} of links, this node {OLDEST} to {NEWEST}")]
    Version { oldest: u16, newest: u16 },
    #[error("it is of cluster {0}")]
    ForeignCluster(ClusterId),
    #[error("it says that it is node {said}, and its certificate is node {shown}'s")]
    Forged { said: NodeId, shown: NodeId },
    #[error("it looks for node {0}")]
    Misled(NodeId),
    /// Two processes with one data folder, or one that should be gone.
    #[error("incarnation {said} of node {node} is over, {known} is here")]
    Stale { node: NodeId, said: u64, known: u64 },
    /// It was a peer, and then sent what no peer sends.
    #[error("node {node} broke the {class} link: {fault}")]
    Broken {
        node: NodeId,
        class: Class,
        fault: String,
    },
}

impl Links {
    /// Serves a connection that asked for links; ends with its greeting.
    pub(crate) async fn accept(
        &self,
        mut stream: TlsStream<TcpStream>,
        caller: Caller,
        from: SocketAddr,
    ) {
        let shared = &self.shared;
        let within = shared.options.handshake_timeout;
        let refusal = match timeout(within, hello(shared, &mut stream, caller)).await {
            Ok(Ok((peer, hello))) => match welcome(shared, &peer, &hello, stream, from).await {
                None => return,
                Some((refusal, back)) => {
                    stream = back;
                    refusal
                }
            },
            Ok(Err(refusal)) => refusal,
            Err(_) => Refusal::Timeout,
        };
        self.refuse(from, &refusal);
        let farewell = async {
            // Whoever is refused may be gone already.
            let _ = stream.write_all(&frame::refused(&refusal)).await;
            let _ = stream.shutdown().await;
        };
        let _ = timeout(within, farewell).await;
    }

    /// Says that somebody was turned away.
    pub(crate) fn refuse(&self, from: SocketAddr, why: &Refusal) {
        self.shared.refuse(from, why);
    }
}

impl Shared {
    fn refuse(&self, from: SocketAddr, why: &Refusal) {
        tracing::warn!(%from, why = %why, "cluster port: refused");
        self.events.refused(from, why);
    }
}

async fn hello(
    shared: &Shared,
    stream: &mut TlsStream<TcpStream>,
    caller: Caller,
) -> Result<(Arc<Peer>, Hello), Refusal> {
    let shown = match caller {
        Caller::Node(node) => node,
        Caller::Admin => return Err(Refusal::NotANode),
        Caller::Nobody => return Err(Refusal::NoCertificate),
    };
    let greeting = |fault: Fault| Refusal::Greeting(fault.to_string());
    let (kind, payload) = frame::read(stream, GREETING_BYTES_LIMIT)
        .await
        .map_err(greeting)?;
    if kind != Kind::Hello {
        let (found, wanted) = (kind, "a hello");
        return Err(greeting(Fault::Unexpected { found, wanted }));
    }
    let hello = Hello::decode(&payload).ok_or_else(|| greeting(Fault::Garbled(kind)))?;
    if hello.version().is_none() {
        let (oldest, newest) = (hello.oldest, hello.newest);
        return Err(Refusal::Version { oldest, newest });
    }
    if hello.cluster != shared.credentials.cluster() {
        return Err(Refusal::ForeignCluster(hello.cluster));
    }
    if hello.from != shown {
        let said = hello.from;
        return Err(Refusal::Forged { said, shown });
    }
    if hello.to != shared.credentials.node() {
        return Err(Refusal::Misled(hello.to));
    }
    let peer = shared.peer(shown).ok_or(Refusal::NotAPeer(shown))?;
    Ok((peer, hello))
}

/// Takes the place of an older connection of that class; gives the stream back when it may not.
async fn welcome(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    hello: &Hello,
    stream: TlsStream<TcpStream>,
    from: SocketAddr,
) -> Option<(Refusal, TlsStream<TcpStream>)> {
    let (class, said) = (hello.class, hello.incarnation);
    peer.begun().await;
    let mut reader = peer.readers[class as usize].lock().await;
    if let Err(known) = peer.met(said) {
        let node = peer.node;
        return Some((Refusal::Stale { node, said, known }, stream));
    }
    if let Some(older) = reader.take() {
        older.abort();
        // Once it is over, none of its messages can come after the newer one's.
        let _ = older.await;
    }
    let welcome = Welcome {
        version: hello.version().unwrap_or(NEWEST),
        incarnation: shared.options.incarnation,
    };
    let reading = serve(shared.clone(), peer.clone(), class, welcome, stream, from);
    *reader = Some(shared.runtime.spawn(reading));
    None
}

/// Reads one class of a peer's messages until the connection ends or the peer is no peer.
async fn serve(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    class: Class,
    welcome: Welcome,
    mut stream: TlsStream<TcpStream>,
    from: SocketAddr,
) {
    let reading = async {
        stream
            .write_all(&welcome.encode())
            .await
            .map_err(Fault::Io)?;
        stream.flush().await.map_err(Fault::Io)?;
        let mut stream = BufReader::with_capacity(READ_BYTES, stream);
        read(&shared, peer.node, class, &mut stream).await
    };
    let fault = tokio::select! {
        // First: nothing is read of a peer that is none any more.
        biased;
        () = peer.is_to_end() => Fault::Closed,
        Err(fault) = reading => fault,
    };
    let node = peer.node;
    match fault {
        Fault::Closed | Fault::Io(_) => {
            tracing::debug!(peer = %node, %class, %fault, "link: not read any more");
        }
        Fault::Oversize { .. } | Fault::Kind(_) | Fault::Unexpected { .. } | Fault::Garbled(_) => {
            let fault = fault.to_string();
            shared.refuse(from, &Refusal::Broken { node, class, fault });
        }
    }
}

async fn read(
    shared: &Shared,
    from: NodeId,
    class: Class,
    stream: &mut BufReader<TlsStream<TcpStream>>,
) -> Result<std::convert::Infallible, Fault> {
    let limit = shared.options.message_bytes_limit(class);
    let mut bytes = 0;
    loop {
        if let Some(room) = shared.events.room(from, class) {
            room.await;
        }
        let (kind, payload) = frame::read_buffered(stream, limit).await?;
        if kind != Kind::Message {
            let (found, wanted) = (kind, "a message");
            return Err(Fault::Unexpected { found, wanted });
        }
        bytes += payload.len();
        shared.events.message(from, class, payload);
        if class == Class::Data && bytes >= TURN_BYTES {
            bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}

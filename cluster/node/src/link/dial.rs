//! The side that dials: connects, greets, and writes what waits until a connection ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::backoff::Backoff;
use super::frame::{self, GREETING_BYTES_LIMIT, Hello, Kind, NEWEST, OLDEST, Welcome};
use super::peer::{Course, Peer, State};
use super::{Class, Shared};
use crate::listener::alpn;
use crate::tls::{Dial, explain};

/// A link that held for so long is one: the next wait is short again.
const HELD: Duration = Duration::from_secs(1);

/// Why a peer could not be linked, or is not any more.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("no address of it is known")]
    NoAddress,
    #[error("cannot find {address}: {source}")]
    Lookup { address: String, source: io::Error },
    #[error("cannot connect to {address}: {source}")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("no answer from {address} in time")]
    Timeout { address: SocketAddr },
    #[error("{address} is not the peer: {cause}")]
    Tls { address: SocketAddr, cause: String },
    #[error("{address} speaks no links")]
    Protocol { address: SocketAddr },
    #[error("{address} refuses: {text}")]
    Refused { address: SocketAddr, text: String },
    #[error("greeting {address}: {fault}")]
    Greeting {
        address: SocketAddr,
        fault: frame::Fault,
    },
    #[error("{address} was restarted between two connections")]
    Restarted { address: SocketAddr },
    #[error("the {class} connection ended: {cause}")]
    Ended { class: Class, cause: String },
    #[error("a writer failed: {0}")]
    Writer(tokio::task::JoinError),
}

/// A connection that was welcomed.
struct Connection {
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    incarnation: u64,
}

/// Keeps a peer linked until it is to end. Begins when `earlier`, the same node's life before
/// this one, is over: its loss is told, and its last message, before anything of this one.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, earlier: Option<Arc<Peer>>) {
    if let Some(earlier) = earlier {
        earlier.ended().await;
    }
    peer.set(State::Unlinked { fault: None });
    // Peers that were lost together are not dialed together.
    let mut backoff = Backoff::new(shared.options.seed ^ peer.node.0.rotate_left(32));
    let mut wanted = peer.watch();
    loop {
        let now = wanted.borrow_and_update().clone();
        if now.course != Course::Linked {
            break;
        }
        let fault = tokio::select! {
            fault = link(&shared, &peer, &now.addresses, &mut backoff) => fault,
            () = peer.is_to_end() => break,
        };
        log(&peer, &fault);
        peer.set(State::Unlinked {
            fault: fault.map(|fault| fault.to_string()),
        });
        let _ = timeout(backoff.next(), wanted.changed()).await;
    }
    unlink(&shared, &peer);
    peer.set(State::Over);
}

/// The first failure of a kind is news, its repetitions are not.
fn log(peer: &Peer, fault: &Option<Fault>) {
    let Some(fault) = fault else {
        return;
    };
    let text = fault.to_string();
    if peer.status().fault.as_ref() == Some(&text) {
        tracing::debug!(peer = %peer.node, fault = text, "link: still not there");
    } else {
        tracing::warn!(peer = %peer.node, fault = text, "link: not there");
    }
}

/// Makes all connections and writes to them; gives why that ended, if not by our own will.
async fn link(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    addresses: &[String],
    backoff: &mut Backoff,
) -> Option<Fault> {
    let connections = match connect(shared, peer, addresses).await {
        Ok(connections) => connections,
        Err(fault) => return Some(fault),
    };
    let began = Instant::now();
    let Connection {
        address,
        incarnation,
        ..
    } = connections[0];
    Class::ALL
        .iter()
        .for_each(|&class| peer.outlet(class).queue.open());
    peer.set(State::Linked { incarnation });
    tracing::info!(peer = %peer.node, %address, incarnation, "link: connected");
    shared.events.connected(peer.node, incarnation);
    // Ends the writers wherever this future is dropped: `run` tells of the loss.
    let mut writers = JoinSet::new();
    for (class, connection) in Class::ALL.into_iter().zip(connections) {
        writers.spawn(hold(peer.clone(), class, connection.stream));
    }
    let mut fault = None;
    while let Some(ended) = writers.join_next().await {
        let ended = ended.unwrap_or_else(|error| Err(Fault::Writer(error)));
        if let Err(error) = ended {
            fault = Some(error);
            break;
        }
    }
    writers.shutdown().await;
    unlink(shared, peer);
    if began.elapsed() >= HELD {
        backoff.reset();
    }
    fault
}

/// Drops what waits and tells that the link is gone, if it was there.
fn unlink(shared: &Shared, peer: &Peer) {
    Class::ALL
        .iter()
        .for_each(|&class| peer.outlet(class).shut());
    if peer.status().connected.is_some() {
        peer.set(State::Unlinked { fault: None });
        tracing::info!(peer = %peer.node, "link: lost");
        shared.events.lost(peer.node);
    }
}

/// A connection of each class, to the first address where the peer is.
async fn connect(
    shared: &Shared,
    peer: &Peer,
    addresses: &[String],
) -> Result<Vec<Connection>, Fault> {
    let mut fault = Fault::NoAddress;
    for address in addresses {
        let found = tokio::net::lookup_host(address.as_str()).await;
        let found = match found {
            Ok(found) => found,
            Err(source) => {
                let address = address.clone();
                fault = Fault::Lookup { address, source };
                continue;
            }
        };
        for address in found {
            match connect_at(shared, peer, address).await {
                Ok(connections) => return Ok(connections),
                Err(error) => fault = error,
            }
        }
    }
    Err(fault)
}

async fn connect_at(
    shared: &Shared,
    peer: &Peer,
    address: SocketAddr,
) -> Result<Vec<Connection>, Fault> {
    let mut connections: Vec<Connection> = Vec::with_capacity(Class::ALL.len());
    for class in Class::ALL {
        let connection = connect_one(shared, peer, address, class).await?;
        let first = connections.first();
        if first.is_some_and(|first| first.incarnation != connection.incarnation) {
            return Err(Fault::Restarted { address });
        }
        connections.push(connection);
    }
    Ok(connections)
}

async fn connect_one(
    shared: &Shared,
    peer: &Peer,
    address: SocketAddr,
    class: Class,
) -> Result<Connection, Fault> {
    let options = &shared.options;
    let late = |_| Fault::Timeout { address };
    let io = |source| Fault::Connect { address, source };
    let tcp = timeout(options.connect_timeout, TcpStream::connect(address))
        .await
        .map_err(late)?
        .map_err(io)?;
    let silence = (class == Class::Control).then_some(options.silence_limit);
    crate::listener::tune(&tcp, silence).map_err(io)?;
    let dial = shared.credentials.link_to(peer.node);
    let dial = dial.map_err(|error| Fault::Tls {
        address,
        cause: error.to_string(),
    })?;
    timeout(
        options.handshake_timeout,
        greet(shared, peer, class, tcp, dial),
    )
    .await
    .map_err(late)?
    .map_err(|error| error.at(address))
}

/// Why a connection does not become a link's.
enum Unwelcome {
    Tls(io::Error),
    Protocol,
    Frame(frame::Fault),
    Refused(String),
}

impl Unwelcome {
    fn at(self, address: SocketAddr) -> Fault {
        match self {
            Self::Tls(error) => Fault::Tls {
                address,
                cause: explain(&error),
            },
            Self::Protocol => Fault::Protocol { address },
            Self::Frame(fault) => Fault::Greeting { address, fault },
            Self::Refused(text) => Fault::Refused { address, text },
        }
    }
}

async fn greet(
    shared: &Shared,
    peer: &Peer,
    class: Class,
    tcp: TcpStream,
    dial: Dial,
) -> Result<Connection, Unwelcome> {
    let address = tcp.peer_addr().map_err(Unwelcome::Tls)?;
    let connector = tokio_rustls::TlsConnector::from(dial.config);
    let connected = connector.connect(dial.name, tcp).await;
    let mut stream = connected.map_err(Unwelcome::Tls)?;
    if stream.get_ref().1.alpn_protocol() != Some(alpn::LINK) {
        return Err(Unwelcome::Protocol);
    }
    let hello = Hello {
        oldest: OLDEST,
        newest: NEWEST,
        cluster: shared.credentials.cluster(),
        from: shared.credentials.node(),
        to: peer.node,
        class,
        incarnation: shared.options.incarnation,
    };
    let io = |error| Unwelcome::Frame(frame::Fault::Io(error));
    stream.write_all(&hello.encode()).await.map_err(io)?;
    stream.flush().await.map_err(io)?;
    let (kind, payload) = frame::read(&mut stream, GREETING_BYTES_LIMIT)
        .await
        .map_err(Unwelcome::Frame)?;
    match kind {
        Kind::Welcome => {}
        Kind::Refused => {
            let text = String::from_utf8_lossy(&payload).into_owned();
            return Err(Unwelcome::Refused(text));
        }
        Kind::Hello | Kind::Message => {
            let wanted = "a welcome";
            let found = kind;
            return Err(Unwelcome::Frame(frame::Fault::Unexpected { found, wanted }));
        }
    }
    let welcome = Welcome::decode(&payload);
    let welcome = welcome.ok_or(Unwelcome::Frame(frame::Fault::Garbled(kind)))?;
    Ok(Connection {
        stream,
        address,
        incarnation: welcome.incarnation,
    })
}

/// Writes one class's messages until its connection ends or its queue is drained.
async fn hold(peer: Arc<Peer>, class: Class, stream: TlsStream<TcpStream>) -> Result<(), Fault> {
    let (mut reader, writer) = tokio::io::split(stream);
    let written = peer.outlet(class).serve(Box::new(writer));
    let ended = tokio::select! {
        cause = watch(&mut reader) => Err(cause),
        written = written => written.map_err(|error| explain(&error)),
    };
    ended.map_err(|cause| Fault::Ended { class, cause })
}

/// Waits for the end of a connection on which nothing may come.
async fn watch(reader: &mut ReadHalf<TlsStream<TcpStream>>) -> String {
    match reader.read(&mut [0]).await {
        Ok(0) => "closed by the other side".to_owned(),
        Ok(_) => "the other side said something where it may not".to_owned(),
        Err(error) => explain(&error),
    }
}

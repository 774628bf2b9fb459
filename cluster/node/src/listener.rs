//! The cluster port: one TLS listener for links and gRPC, which ALPN tells apart.
//!
//! Invariants:
//! - nobody gets behind the handshake without TLS 1.3, and who shows a certificate shows one of
//!   this cluster; who shows none is nobody, and only gRPC lets nobodies ask;
//! - a handshake has a limit in time, and all of them together one in number;
//! - so have gRPC connections, and a silent one is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use warren_cluster_core::ids::NodeId;

use crate::astray::Sought;
use crate::grpc::{self, Contact, Routes};
use crate::link::{Links, Refusal};
use crate::tls::{self, CertificateDer, Credentials, Key, Name, explain, name_of, plain_server};

/// The port unless somebody says otherwise.
pub const DEFAULT_PORT: u16 = 25_672;

/// Handshakes that may be under way; further connections wait in the system's queue.
const HANDSHAKES_LIMIT: usize = 512;
/// gRPC connections of nodes and administrators that may be open, and of nobodies: these cannot
/// keep those out.
const GRPC_LIMIT: usize = 1024;
const GRPC_NOBODIES_LIMIT: usize = 128;
/// gRPC connections that may wait to be served.
const GRPC_WAITING_LIMIT: usize = 16;
/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of silence are asked after so often.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// The protocols that share the port, as TLS names them.
pub(crate) mod alpn {
    pub(crate) const LINK: &[u8] = b"warren-link/1";
    pub(crate) const GRPC: &[u8] = b"h2";
}

/// Who is at the other end, by the certificate. gRPC services ask [`grpc::caller`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A node of this cluster.
    Node(NodeId),
    /// An administrator of this cluster.
    Admin,
    /// Somebody who shows no certificate.
    Nobody,
}

/// The bound cluster port; nothing is accepted before [`Listener::start`].
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// An open cluster port. Dropped without [`Port::stop`], it stays open.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Listener {
    /// Takes the address.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        Self::new(TcpListener::bind(address).await?)
    }

    /// On a socket that listens already.
    ///
    /// # Errors
    /// When its address cannot be had.
    pub fn new(socket: TcpListener) -> std::io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens, with the port that the system chose for 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets nodes and gRPC clients in.
    ///
    /// # Errors
    /// When rustls does not take the credentials.
    pub fn start(
        self,
        credentials: &Credentials,
        links: Links,
        routes: Routes,
        handshake_timeout: Duration,
    ) -> Result<Port, tls::Error> {
        let config = credentials.server()?;
        Ok(self.open(config, Some(links), routes, handshake_timeout))
    }

    /// Lets gRPC clients in who know the certificate: for a node that has no cluster.
    pub(crate) fn start_alone(
        self,
        certificate: &CertificateDer<'static>,
        key: &Key,
        routes: Routes,
        handshake_timeout: Duration,
    ) -> Result<Port, tls::Error> {
        let config = plain_server(certificate, key)?;
        Ok(self.open(config, None, routes, handshake_timeout))
    }

    fn open(
        self,
        config: Arc<ServerConfig>,
        links: Option<Links>,
        routes: Routes,
        handshake_timeout: Duration,
    ) -> Port {
        let (grpc, incoming) = mpsc::channel(GRPC_WAITING_LIMIT);
        let stop = watch::Sender::new(false);
        let door = Arc::new(Door {
            config,
            links,
            grpc,
            known: Arc::new(Semaphore::new(GRPC_LIMIT)),
            nobodies: Arc::new(Semaphore::new(GRPC_NOBODIES_LIMIT)),
            handshake_timeout,
        });
        let served = tokio::spawn(grpc::serve(routes, incoming, stopped(&stop)));
        let accepted = tokio::spawn(accept(self.socket, door, stopped(&stop)));
        Port {
            address: self.address,
            stop,
            tasks: vec![served, accepted],
        }
    }
}

impl Port {
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// [`Self::stop`] without waiting for anything.
    pub(crate) fn close(&self) {
        self.stop.send_replace(true);
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Closes the port: no connection comes in, gRPC calls under way end first (for a second).
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        for task in &mut self.tasks {
            if timeout(Duration::from_secs(1), &mut *task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Ends when the port is to be closed.
fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move {
        if stop.wait_for(|stop| *stop).await.is_err() {
            // The port was dropped without being closed.
            std::future::pending::<()>().await;
        }
    }
}

/// What each new connection meets.
struct Door {
    config: Arc<ServerConfig>,
    /// None before the node has a cluster.
    links: Option<Links>,
    grpc: mpsc::Sender<grpc::Stream>,
    known: Arc<Semaphore>,
    nobodies: Arc<Semaphore>,
    handshake_timeout: Duration,
}

async fn accept(socket: TcpListener, door: Arc<Door>, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_LIMIT));
    tokio::pin!(stop);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, socket.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut stop => return,
        };
        match accepted {
            Ok((tcp, from)) => {
                let door = door.clone();
                tokio::spawn(async move {
                    door.welcome(tcp, from).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cluster port: cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Door {
    /// Sees a connection through its handshake, and to whom it wants.
    async fn welcome(&self, tcp: TcpStream, from: SocketAddr) {
        let (stream, caller) = match self.handshake(tcp).await {
            Ok(known) => known,
            Err(refusal) => return self.refuse(from, &refusal),
        };
        match (stream.get_ref().1.alpn_protocol(), &self.links) {
            (Some(alpn::LINK), Some(links)) => links.accept(stream, caller, from).await,
            (Some(alpn::GRPC), _) => {
                let places = match caller {
                    Caller::Node(_) | Caller::Admin => &self.known,
                    Caller::Nobody => &self.nobodies,
                };
                let Ok(place) = places.clone().try_acquire_owned() else {
                    return self.refuse(from, &Refusal::Crowded);
                };
                let contact = Contact {
                    caller,
                    address: from,
                };
                let stream = grpc::Stream::new(stream, contact, place, self.handshake_timeout);
                // Fails when the port is being closed.
                let _ = self.grpc.send(stream).await;
            }
            _ => self.refuse(from, &Refusal::NoProtocol),
        }
    }

    fn refuse(&self, from: SocketAddr, why: &Refusal) {
        match &self.links {
            Some(links) => links.refuse(from, why),
            None => tracing::warn!(%from, why = %why, "cluster port: refused"),
        }
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, Caller), Refusal> {
        let tls = |error: std::io::Error| Refusal::Tls(explain(&error));
        tune(&tcp, None).map_err(tls)?;
        let mut sought = None;
        let accepted = timeout(self.handshake_timeout, self.accept(tcp, &mut sought)).await;
        if let Some(sought) = sought {
            // It has seen our certificate, and knows why it is not welcome.
            return Err(Refusal::Sought(sought));
        }
        let stream = accepted.map_err(|_| Refusal::Timeout)?.map_err(tls)?;
        let shown = stream.get_ref().1.peer_certificates();
        let caller = match shown.and_then(<[_]>::first).map(name_of) {
            None => Caller::Nobody,
            Some(Ok(Name::Node { node, .. })) => Caller::Node(node),
            Some(Ok(Name::Admin { .. })) => Caller::Admin,
            // The verifier has read it before.
            Some(Err(fault)) => return Err(Refusal::Tls(fault.to_string())),
        };
        Ok((stream, caller))
    }

    /// TLS; notes whom the other side looks for, if that is another cluster's node.
    async fn accept(
        &self,
        tcp: TcpStream,
        sought: &mut Option<Sought>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
        if let (Some(links), Some(name)) = (&self.links, begun.client_hello().server_name()) {
            *sought = Sought::of(name, links.cluster());
        }
        begun.into_stream(Arc::clone(&self.config)).await
    }
}

/// No waiting for more to send, and a peer that vanished is noticed: when nothing goes to and fro
/// by keep-alive, when bytes are not acknowledged for `silence` by that.
pub(crate) fn tune(tcp: &TcpStream, silence: Option<Duration>) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    if silence.is_some() {
        socket.set_tcp_user_timeout(silence)?;
    }
    Ok(())
}

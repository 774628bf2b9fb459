//! Listening sockets, and the limit on how many connections there may be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::broker::Broker;
use crate::connection::Connection;

const BACKLOG: i32 = 4096;
/// Descriptors that are not for clients: segments, checkpoints, other listeners.
const DESCRIPTORS_KEPT: u64 = 256;

/// Binds `address`; the error names it and the flag that chooses another.
pub(crate) fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listen = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {address} (choose another with {flag})"))
}

/// Raises the soft limit on descriptors to the hard one; gives the limit.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is ours and of the type that the call fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    let raised = libc::rlimit {
        rlim_cur: limit.rlim_max,
        ..limit
    };
    // SAFETY: as above; the call only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        raised.rlim_cur
    } else {
        limit.rlim_cur
    }
}

/// Connections that descriptors and the configuration allow.
pub(crate) fn connection_limit(descriptors: u64, configured: Option<usize>) -> usize {
    let possible = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT)).unwrap_or(0);
    configured.unwrap_or(usize::MAX).min(possible)
}

/// Accepts clients for as long as it is polled; ends, and so closes the listener, when none is
/// served any more.
pub(crate) async fn accept(broker: Arc<Broker>, listener: TcpListener, limit: usize) {
    let refused = AtomicU64::new(0);
    let mut astray = broker.astray();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = astray.wait_for(|astray| *astray) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if broker.sessions().count() >= limit {
                    let count = refused.fetch_add(1, Ordering::Relaxed) + 1;
                    if count.is_power_of_two() {
                        tracing::warn!(%peer, limit, count, "connection refused: limit is reached");
                    }
                    continue;
                }
                serve(&broker, stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of descriptors or memory: trying again at once would spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn serve(broker: &Arc<Broker>, stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection lost before it began");
        return;
    }
    let (session, mailbox) = broker.open_session(peer);
    tokio::spawn(Connection::new(
        Arc::clone(broker),
        stream,
        session,
        mailbox,
    ));
}

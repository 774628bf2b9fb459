//! gRPC over our own TLS: serving what the cluster port hands over, and calling other nodes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;
use tonic::codegen::tokio_stream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};

pub use tonic::service::Routes;

use crate::listener::{Caller, alpn, tune};
use crate::tls::{Dial, explain};

/// Bytes of an HTTP/2 frame, and of what may be on its way unread.
const FRAME_BYTES: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Calls that one connection may have under way.
const CALLS_LIMIT: u32 = 1024;
/// A server that says nothing while a call is open is asked so often, and may take so long to
/// answer. Clients are not asked: one that has vanished is noticed by its socket.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that asked for gRPC, and who is behind it.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: TlsStream<TcpStream>,
    contact: Contact,
    /// Its place among the open connections.
    _place: OwnedSemaphorePermit,
    /// Until when it must have said something; none once it has.
    begin: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(crate) fn new(
        inner: TlsStream<TcpStream>,
        contact: Contact,
        place: OwnedSemaphorePermit,
        begin_within: Duration,
    ) -> Self {
        Self {
            inner,
            contact,
            _place: place,
            begin: Some(Box::pin(tokio::time::sleep(begin_within))),
        }
    }
}

/// Who calls, and from where. In the extensions of every request that came over the cluster port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contact {
    pub caller: Caller,
    pub address: SocketAddr,
}

/// Who calls; of a request that came over the cluster port.
#[must_use]
pub fn caller<T>(request: &tonic::Request<T>) -> Caller {
    let found = request.extensions().get::<Contact>();
    found.map_or(Caller::Nobody, |contact| contact.caller)
}

/// Serves both. No service may be in both of them.
#[must_use]
pub fn merge(routes: Routes, others: Routes) -> Routes {
    // Each answers what it does not know; of two such answers one is left.
    let others = others.into_axum_router().reset_fallback();
    Routes::from(routes.into_axum_router().merge(others))
}

impl Connected for Stream {
    type ConnectInfo = Contact;

    fn connect_info(&self) -> Contact {
        self.contact
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.begin = None;
        }
        if let (Poll::Pending, Some(begin)) = (&read, &mut self.begin)
            && begin.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// The connections that the port hands over, as tonic wants them.
struct Incoming(mpsc::Receiver<Stream>);

impl tokio_stream::Stream for Incoming {
    type Item = Result<Stream, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|stream| stream.map(Ok))
    }
}

/// Serves `routes` on what comes in until `stop` ends.
pub(crate) async fn serve(
    routes: Routes,
    incoming: mpsc::Receiver<Stream>,
    stop: impl Future<Output = ()>,
) {
    let served = Server::builder()
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CALLS_LIMIT)
        .add_routes(routes)
        .serve_with_incoming_shutdown(Incoming(incoming), stop)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "cluster port: gRPC ended");
    }
}

/// Why a node cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("{address} does not answer within {seconds} s")]
    Timeout { address: String, seconds: u64 },
    #[error("{address} is not whom we want: {cause}")]
    Tls { address: String, cause: String },
    #[error("{address} speaks no gRPC")]
    Protocol { address: String },
}

/// A channel to the first of `addresses` (`host:port`) that answers and is whom `dial` wants.
///
/// Its connection is made here, so that a failure says why, and is not made again: a channel
/// whose connection ended fails.
///
/// # Errors
/// When none does; what is given is about the last one.
pub async fn connect(
    addresses: &[String],
    dial: &Dial,
    within: Duration,
) -> Result<Channel, ConnectError> {
    let mut fault = ConnectError::Connect {
        address: "nowhere".to_owned(),
        source: io::ErrorKind::AddrNotAvailable.into(),
    };
    for address in addresses {
        match connect_one(address, dial, within).await {
            Ok(channel) => return Ok(channel),
            Err(error) => fault = error,
        }
    }
    Err(fault)
}

async fn connect_one(
    address: &str,
    dial: &Dial,
    within: Duration,
) -> Result<Channel, ConnectError> {
    let named = || address.to_owned();
    let connecting = async {
        let io = |source| ConnectError::Connect {
            address: named(),
            source,
        };
        let tcp = TcpStream::connect(address).await.map_err(io)?;
        tune(&tcp, None).map_err(io)?;
        let connector = TlsConnector::from(dial.config.clone());
        let connected = connector.connect(dial.name.clone(), tcp).await;
        let stream = connected.map_err(|error| ConnectError::Tls {
            address: named(),
            cause: explain(&error),
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(alpn::GRPC) {
            return Err(ConnectError::Protocol { address: named() });
        }
        channel(stream)
            .await
            .map_err(|error| ConnectError::Connect {
                address: named(),
                source: io::Error::other(error),
            })
    };
    tokio::time::timeout(within, connecting)
        .await
        .unwrap_or_else(|_| {
            Err(ConnectError::Timeout {
                address: named(),
                seconds: within.as_secs(),
            })
        })
}

/// Speaks gRPC on a connection that is there.
async fn channel(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(TokioIo::new(stream));
    // The name is never looked up: the one connection that there is goes to it.
    Endpoint::from_static("http://node.warren")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        }))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_routes_with_an_answer_for_the_unknown_are_one() {
        let merged = merge(Routes::default(), Routes::default());
        drop(merge(merged, Routes::default()));
    }
}

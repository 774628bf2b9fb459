//! A small AMQP client: a socket with a buffer on each side, and the handshake.
//!
//! Invariants:
//! - frames are parsed where they were read; the input buffer grows to what a frame may take, and
//!   no further;
//! - nothing is written but by [`Connection::flush`] and [`Connection::write`], so that what the
//!   caller lays into `out` goes out in one piece.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::{TcpSocket, TcpStream};
use warren_protocol::limits::FRAME_MAX_BYTES_DEFAULT;
use warren_protocol::methods::{
    ChannelOpen, ConnectionClose, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
};
use warren_protocol::preamble::PROTOCOL_HEADER;
use warren_protocol::{
    FieldTable, FieldValue, Frame, FrameKind, LongStr, Method, ShortStr, ShortString, Table, frame,
};

use super::uri::Uri;

/// The ports that Linux gives to clients unless told otherwise (`net.ipv4.ip_local_port_range`).
const DYNAMIC_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// How a connection is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// The local address to connect from.
    pub(super) source: Option<IpAddr>,
    /// Seconds; 0 for none. The caller sends them.
    pub(super) heartbeat: u16,
    /// The input buffer's size to begin with.
    pub(super) input_bytes: usize,
}

impl Options {
    /// For loads: no heartbeats, room to read a lot at once.
    pub(super) const LOAD: Self = Self {
        source: None,
        heartbeat: 0,
        input_bytes: 512 * 1024,
    };
    /// For a few methods.
    pub(super) const SMALL: Self = Self {
        source: None,
        heartbeat: 0,
        input_bytes: 4 * 1024,
    };
}

/// Room for some heartbeats.
const INPUT_BYTES_IDLE: usize = 64;

/// What of a method's answer the callers want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Queue(ShortString),
    Other,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    /// What of `input` was read and not parsed.
    start: usize,
    end: usize,
    /// What is to be written next.
    pub(super) out: BytesMut,
    pub(super) frame_max: u32,
    /// Seconds, as agreed.
    pub(super) heartbeat: u16,
}

impl Connection {
    /// Connects, logs in and opens the virtual host.
    ///
    /// # Errors
    /// When there is no connection, or the broker does not like it.
    pub(super) async fn open(uri: &Uri, options: Options) -> Result<Self> {
        let stream = connect(uri.address, options.source)
            .await
            .with_context(|| format!("cannot connect to {}", uri.address))?;
        if stream.local_addr()? == stream.peer_addr()? {
            // Nobody listens, and the system chose that very port for our side.
            bail!("cannot connect to {}: it is our own address", uri.address);
        }
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            input: vec![0; options.input_bytes],
            start: 0,
            end: 0,
            out: BytesMut::with_capacity(4 * 1024),
            frame_max: FRAME_MAX_BYTES_DEFAULT,
            heartbeat: 0,
        };
        connection
            .shake_hands(uri, options.heartbeat)
            .await
            .with_context(|| format!("no AMQP connection to {}", uri.address))?;
        Ok(connection)
    }

    async fn shake_hands(&mut self, uri: &Uri, heartbeat_max: u16) -> Result<()> {
        self.out.extend_from_slice(&PROTOCOL_HEADER);
        match self.wait_method().await? {
            Method::ConnectionStart(_) => {}
            method => bail!("the broker begins with {method}"),
        }
        let properties = client_properties().to_bytes();
        let response = format!("\0{}\0{}", uri.user, uri.password);
        let start_ok = ConnectionStartOk {
            client_properties: Table::from_raw(&properties),
            mechanism: ShortStr::from_static("PLAIN"),
            response: LongStr(response.as_bytes()),
            locale: ShortStr::from_static("en_US"),
        };
        self.put(0, &Method::ConnectionStartOk(start_ok));
        let tune = match self.wait_method().await.context("refused to log in")? {
            Method::ConnectionTune(tune) => tune,
            method => bail!("{method} in place of tune"),
        };
        self.frame_max = match tune.frame_max {
            0 => FRAME_MAX_BYTES_DEFAULT,
            offered => offered.min(FRAME_MAX_BYTES_DEFAULT),
        };
        self.heartbeat = match (tune.heartbeat, heartbeat_max) {
            (_, 0) => 0,
            (0, wanted) => wanted,
            (offered, wanted) => offered.min(wanted),
        };
        let tune_ok = ConnectionTuneOk {
            channel_max: tune.channel_max,
            frame_max: self.frame_max,
            heartbeat: self.heartbeat,
        };
        self.put(0, &Method::ConnectionTuneOk(tune_ok));
        let virtual_host = ShortStr::new(uri.vhost.as_bytes())?;
        self.put(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host }));
        match self.wait_method().await? {
            Method::ConnectionOpenOk(_) => Ok(()),
            method => bail!("{method} in place of open-ok"),
        }
    }

    /// Gives back what memory an idle connection does not need.
    pub(super) fn slim(&mut self) {
        self.make_room();
        let kept = self.end.max(INPUT_BYTES_IDLE);
        self.input.truncate(kept);
        self.input.shrink_to_fit();
        self.out = BytesMut::new();
    }

    /// Lays a method frame into `out`.
    pub(super) fn put(&mut self, channel: u16, method: &Method<'_>) {
        method.encode_frame(channel, &mut self.out);
    }

    /// Sends a method and waits for whatever method comes next.
    ///
    /// # Errors
    /// When the connection is lost or the broker closes channel or connection.
    pub(super) async fn call(&mut self, channel: u16, method: &Method<'_>) -> Result<Answer> {
        self.put(channel, method);
        Ok(match self.wait_method().await? {
            Method::QueueDeclareOk(ok) => Answer::Queue(ok.queue.to_short_string()),
            _ => Answer::Other,
        })
    }

    pub(super) async fn open_channel(&mut self, channel: u16) -> Result<()> {
        self.call(channel, &Method::ChannelOpen(ChannelOpen))
            .await?;
        Ok(())
    }

    /// Says good-bye and waits for the answer, whatever comes before it.
    ///
    /// # Errors
    /// When the connection is lost before.
    pub(super) async fn close(mut self) -> Result<()> {
        let close = ConnectionClose {
            reply_code: 200,
            reply_text: ShortStr::from_static("bye"),
            class_id: 0,
            method_id: 0,
        };
        self.put(0, &Method::ConnectionClose(close));
        loop {
            let frame = self.wait_frame().await?;
            if frame.kind != FrameKind::Method {
                continue;
            }
            if let Method::ConnectionCloseOk(_) = Method::parse(frame.payload)? {
                return Ok(());
            }
        }
    }

    /// The next method; heartbeats are passed over.
    async fn wait_method(&mut self) -> Result<Method<'_>> {
        self.wait_input().await?;
        while self.input[self.start] == FrameKind::Heartbeat as u8 {
            self.next_frame()?;
            self.wait_input().await?;
        }
        let frame = self
            .next_frame()?
            .context("a frame that was there is gone")?;
        if frame.kind != FrameKind::Method {
            bail!("content where a method was expected");
        }
        let method = Method::parse(frame.payload)?;
        match refusal(&method) {
            Some(error) => Err(error),
            None => Ok(method),
        }
    }

    /// Writes `out` and waits for the next frame.
    ///
    /// # Errors
    /// When the connection is lost or the broker sends what is not AMQP.
    pub(super) async fn wait_frame(&mut self) -> Result<Frame<'_>> {
        self.wait_input().await?;
        self.next_frame()?.context("a frame that was there is gone")
    }

    /// Writes `out` and reads until a whole frame is there.
    async fn wait_input(&mut self) -> Result<()> {
        let mut written = self.flush()?;
        while frame::parse(&self.input[self.start..self.end], self.frame_max)?.is_none() {
            if written {
                // Unlike `fill` it knows that a read that did not fill the buffer was the last.
                self.make_room();
                let read = self.stream.read(&mut self.input[self.end..]).await;
                self.end += counted(read.context("connection lost")?)?;
            } else if !self.fill()? {
                self.ready(true).await?;
                written = self.flush()?;
            }
        }
        Ok(())
    }

    /// The next frame of what was read; `None` when it is not whole.
    ///
    /// # Errors
    /// When it is not AMQP.
    #[inline]
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        let input = &self.input[self.start..self.end];
        let Some((frame, bytes)) = frame::parse(input, self.frame_max)? else {
            return Ok(None);
        };
        self.start += bytes;
        Ok(Some(frame))
    }

    /// Reads once; false when there is nothing to read now.
    ///
    /// # Errors
    /// When the connection is lost; an orderly end counts as such.
    pub(super) fn fill(&mut self) -> Result<bool> {
        self.make_room();
        match self.stream.try_read(&mut self.input[self.end..]) {
            Ok(bytes) => {
                self.end += counted(bytes)?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).context("connection lost"),
        }
    }

    /// Moves what is not parsed to the front, and grows when a frame needs more.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let needed = frame::bytes_needed(&self.input[..self.end]);
        if self.input.len() < needed {
            // At most frame_max and a bit: `frame::parse` has refused what is larger.
            self.input.resize(needed, 0);
        }
    }

    /// Writes what it can of `out`; true when all of it is written.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn flush(&mut self) -> Result<bool> {
        while !self.out.is_empty() {
            match write(&self.stream, &self.out)? {
                0 => return Ok(false),
                bytes => self.out.advance(bytes),
            }
        }
        Ok(true)
    }

    /// Writes what it can of `bytes` and gives how much; `out` must have been flushed.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize> {
        write(&self.stream, bytes)
    }

    /// Waits until there is something to read, or, with `write`, room to write.
    ///
    /// # Errors
    /// When the runtime ends.
    pub(super) async fn ready(&self, write: bool) -> Result<()> {
        let interest = if write {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        self.stream.ready(interest).await?;
        Ok(())
    }
}

/// The error that a broker's close is; `None` for other methods.
pub(super) fn refusal(method: &Method<'_>) -> Option<anyhow::Error> {
    let (what, text) = match method {
        Method::ConnectionClose(close) => ("connection", close.reply_text),
        Method::ChannelClose(close) => ("channel", close.reply_text),
        Method::BasicCancel(_) => return Some(anyhow!("the broker has cancelled a consumer")),
        _ => return None,
    };
    let text = String::from_utf8_lossy(text.as_bytes());
    Some(anyhow!("the broker closes the {what}: {text}"))
}

/// How many bytes were read; none are the connection's end.
fn counted(bytes: usize) -> Result<usize> {
    ensure!(bytes > 0, "the broker has closed the connection");
    Ok(bytes)
}

fn write(stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match stream.try_write(bytes) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error).context("connection lost"),
    }
}

async fn connect(address: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect(address).await;
    };
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    bind(&socket, source)?;
    // A bound port in TIME_WAIT is closed to connections without a source address, too: a hundred
    // thousand of them would leave none to the next test.
    socket.set_zero_linger()?;
    socket.connect(address).await
}

/// Binds `socket` to the next free port of `source`.
///
/// Ports are counted here and not left to the kernel: with more than half of the dynamic range
/// taken it looks at every taken port for each bind, 20 connections a second at 14,000 of them.
///
/// # Errors
/// When every dynamic port of `source` is taken, or it is no address of this machine.
fn bind(socket: &TcpSocket, source: IpAddr) -> std::io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = u32::from(DYNAMIC_PORTS.end() - DYNAMIC_PORTS.start()) + 1;
    for _ in 0..ports {
        // All processes begin at the same port: a port that is bound at any address is closed to
        // connections without a source address, which need some as well.
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) % ports;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than the count of ports"
        )]
        let port = DYNAMIC_PORTS.start() + turn as u16;
        match socket.bind(SocketAddr::new(source, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

fn client_properties() -> FieldTable {
    let text = |text: &str| FieldValue::LongStr(text.as_bytes().to_vec());
    let capabilities = FieldTable::new()
        .with("authentication_failure_close", FieldValue::Bool(true))
        .with("basic.nack", FieldValue::Bool(true))
        .with("connection.blocked", FieldValue::Bool(true))
        .with("consumer_cancel_notify", FieldValue::Bool(true))
        .with("publisher_confirms", FieldValue::Bool(true));
    FieldTable::new()
        .with("product", text("warren perf"))
        .with("version", text(env!("CARGO_PKG_VERSION")))
        .with("capabilities", FieldValue::Table(capabilities))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports() {
        let source = IpAddr::from([127, 0, 0, 77]);
        let sockets: Vec<_> = (0..64)
            .map(|_| {
                let socket = TcpSocket::new_v4().expect("socket");
                bind(&socket, source).expect("bind");
                socket
            })
            .collect();
        let mut ports: Vec<u16> = sockets
            .iter()
            .map(|socket| socket.local_addr().expect("address").port())
            .collect();
        assert!(ports.iter().all(|port| DYNAMIC_PORTS.contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), sockets.len());
        let elsewhere = TcpSocket::new_v4().expect("socket");
        let error = bind(&elsewhere, IpAddr::from([192, 0, 2, 1])).expect_err("not here");
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    }
}

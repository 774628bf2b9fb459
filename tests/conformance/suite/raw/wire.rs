//! Frames by hand: just enough of AMQP 0-9-1 to say wrong things and to read the answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

use lapin::uri::AMQPUri;

use crate::outcome::{CheckResult, Stop, ensure, equal};

/// For one peer's whole life, unless it says otherwise.
const PEER_LIMIT: Duration = Duration::from_secs(18);

pub(super) const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
pub(super) const METHOD: u8 = 1;
pub(super) const CONTENT_HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 206;

pub(super) type Id = (u16, u16);
pub(super) const CONNECTION_CLOSE: Id = (10, 50);
pub(super) const CHANNEL_CLOSE: Id = (20, 40);

/// Where the broker is and who logs in.
pub(super) struct Target {
    pub(super) url: String,
    address: String,
    pub(super) user: String,
    pub(super) password: String,
    vhost: String,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, Stop> {
        let uri = AMQPUri::from_str(url).map_err(Stop::Failed)?;
        Ok(Self {
            url: url.to_owned(),
            address: format!("{}:{}", uri.authority.host, uri.authority.port),
            user: uri.authority.userinfo.username,
            password: uri.authority.userinfo.password,
            vhost: uri.vhost,
        })
    }
}

/// Arguments of a method, or any other run of fields.
#[derive(Default, Clone)]
pub(super) struct Fields(pub(super) Vec<u8>);

impl Fields {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn short(mut self, text: &str) -> Self {
        self.0
            .push(u8::try_from(text.len()).expect("the suite's short strings are short"));
        self.0.extend(text.as_bytes());
        self
    }

    /// Four bytes of length, then the bytes: a long string, a table, an array.
    pub(super) fn long(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("the suite's values are small");
        let mut fields = self.u32(length);
        fields.0.extend(bytes);
        fields
    }

    /// A table's entry: its name, its type, and its value's bytes.
    pub(super) fn entry(self, name: &str, kind: u8, value: &[u8]) -> Self {
        let mut fields = self.short(name).u8(kind);
        fields.0.extend(value);
        fields
    }
}

/// A frame with any type, channel and payload.
pub(super) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Fields::new().u8(kind).u16(channel).long(payload).0;
    bytes.push(FRAME_END);
    bytes
}

pub(super) fn method(channel: u16, (class, id): Id, arguments: Fields) -> Vec<u8> {
    let mut payload = Fields::new().u16(class).u16(id).0;
    payload.extend(arguments.0);
    frame(METHOD, channel, &payload)
}

/// A content header of class basic with no properties.
pub(super) fn content_header(channel: u16, body_bytes: u64) -> Vec<u8> {
    let payload = Fields::new().u16(60).u16(0).u64(body_bytes).u16(0);
    frame(CONTENT_HEADER, channel, &payload.0)
}

pub(super) fn publish_method(channel: u16, exchange: &str, key: &str) -> Vec<u8> {
    method(
        channel,
        (60, 40),
        Fields::new().u16(0).short(exchange).short(key).u8(0),
    )
}

/// A whole message in one body frame.
pub(super) fn publish(channel: u16, exchange: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let size = u64::try_from(body.len()).expect("a length fits in 64 bits");
    let mut bytes = publish_method(channel, exchange, key);
    bytes.extend(content_header(channel, size));
    if !body.is_empty() {
        bytes.extend(frame(BODY, channel, body));
    }
    bytes
}

pub(super) const PASSIVE: u8 = 1;
pub(super) const EXCLUSIVE: u8 = 4;
pub(super) const NOWAIT: u8 = 16;

pub(super) fn declare(channel: u16, queue: &str, flags: u8, arguments: &[u8]) -> Vec<u8> {
    let fields = Fields::new().u16(0).short(queue).u8(flags).long(arguments);
    method(channel, (50, 10), fields)
}

/// A frame that was read.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) channel: u16,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// Class and method, if it is a method frame.
    pub(super) fn id(&self) -> Option<Id> {
        match (self.kind, self.payload.as_slice()) {
            (METHOD, [a, b, c, d, ..]) => {
                Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
            }
            _ => None,
        }
    }

    /// Code and text of a connection.close or channel.close.
    fn reason(&self) -> Option<(u16, String)> {
        let (code, rest) = self.payload.get(4..)?.split_first_chunk::<2>()?;
        let (length, text) = rest.split_first()?;
        let text = text.get(..usize::from(*length))?;
        Some((
            u16::from_be_bytes(*code),
            String::from_utf8_lossy(text).into_owned(),
        ))
    }
}

/// The broker's connection.start.
pub(super) struct Start {
    pub(super) peer: Peer,
    payload: Vec<u8>,
}

impl Start {
    /// Major and minor protocol version.
    pub(super) fn protocol(&self) -> (u8, u8) {
        (self.payload[4], self.payload[5])
    }

    /// The long string of that name in the server properties.
    pub(super) fn property(&self, name: &str) -> Option<String> {
        let mut key = vec![u8::try_from(name.len()).ok()?];
        key.extend(name.as_bytes());
        key.push(b'S');
        let at = self
            .payload
            .windows(key.len())
            .position(|window| window == key)?
            + key.len();
        let (length, rest) = self.payload.get(at..)?.split_first_chunk::<4>()?;
        let text = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// Mechanisms and locales, the two long strings after the properties.
    pub(super) fn offers(&self) -> Option<(String, String)> {
        let long = |at: usize| {
            let (length, rest) = self.payload.get(at..)?.split_first_chunk::<4>()?;
            let end = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            Some((rest.get(..end)?.to_vec(), at + 4 + end))
        };
        let (_, at) = long(6)?;
        let (mechanisms, at) = long(at)?;
        let (locales, _) = long(at)?;
        Some((
            String::from_utf8(mechanisms).ok()?,
            String::from_utf8(locales).ok()?,
        ))
    }

    /// Sends start-ok; `capable` says that a refused login is to be answered by a close.
    pub(super) fn login(
        mut self,
        capable: bool,
        mechanism: &str,
        response: &[u8],
    ) -> Result<Peer, Stop> {
        let can = Fields::new().entry("authentication_failure_close", b't', &[u8::from(capable)]);
        let properties = Fields::new().entry("capabilities", b'F', &Fields::new().long(&can.0).0);
        let ok = Fields::new()
            .long(&properties.0)
            .short(mechanism)
            .long(response)
            .short("en_US");
        self.peer.send(&method(0, (10, 11), ok))?;
        Ok(self.peer)
    }

    pub(super) fn login_plain(
        self,
        user: &str,
        password: &str,
        capable: bool,
    ) -> Result<Peer, Stop> {
        let response = format!("\0{user}\0{password}");
        self.login(capable, "PLAIN", response.as_bytes())
    }
}

/// One socket to the broker.
pub(super) struct Peer {
    stream: TcpStream,
    deadline: Instant,
}

impl Peer {
    pub(super) fn connect(target: &Target) -> Result<Self, Stop> {
        let stream = TcpStream::connect(&target.address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PEER_LIMIT))?;
        Ok(Self {
            stream,
            deadline: Instant::now() + PEER_LIMIT,
        })
    }

    /// Sends the protocol header and reads connection.start.
    pub(super) fn start(mut self) -> Result<Start, Stop> {
        self.send(HEADER)?;
        let payload = self.expect((10, 10))?;
        Ok(Start {
            peer: self,
            payload,
        })
    }

    /// Logs in and reads connection.tune.
    pub(super) fn logged_in(target: &Target) -> Result<Self, Stop> {
        let start = Self::connect(target)?.start()?;
        let mut peer = start.login_plain(&target.user, &target.password, true)?;
        peer.expect((10, 30))?;
        Ok(peer)
    }

    /// A whole handshake with the limits given (channel_max, frame_max, heartbeat in seconds).
    pub(super) fn tuned(target: &Target, limits: (u16, u32, u16)) -> Result<Self, Stop> {
        let mut peer = Self::logged_in(target)?;
        peer.tune(limits)?;
        peer.open_vhost(target)?;
        Ok(peer)
    }

    pub(super) fn tune(
        &mut self,
        (channel_max, frame_max, heartbeat): (u16, u32, u16),
    ) -> CheckResult {
        let tune_ok = Fields::new().u16(channel_max).u32(frame_max).u16(heartbeat);
        self.send(&method(0, (10, 31), tune_ok))
    }

    pub(super) fn open_vhost(&mut self, target: &Target) -> CheckResult {
        let open = Fields::new().short(&target.vhost).short("").u8(0);
        self.send(&method(0, (10, 40), open))?;
        self.expect((10, 41))?;
        Ok(())
    }

    /// An open connection without heartbeats.
    pub(super) fn open(target: &Target) -> Result<Self, Stop> {
        Self::tuned(target, (2047, 131_072, 0))
    }

    /// An open connection with channel 1 open.
    pub(super) fn with_channel(target: &Target) -> Result<Self, Stop> {
        let mut peer = Self::open(target)?;
        peer.open_channel(1)?;
        Ok(peer)
    }

    pub(super) fn open_channel(&mut self, channel: u16) -> CheckResult {
        self.send(&method(channel, (20, 10), Fields::new().short("")))?;
        self.expect((20, 11))?;
        Ok(())
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> CheckResult {
        self.stream
            .write_all(bytes)
            .map_err(|error| Stop::Failed(format!("send: {error}")))
    }

    /// Sends, but a broker that has already closed the socket is fine too.
    pub(super) fn send_anyway(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(super) fn finish_sending(&mut self) -> CheckResult {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Reads exactly so many bytes; `None` when the broker closed before the first of them.
    pub(super) fn read(&mut self, count: usize) -> Result<Option<Vec<u8>>, Stop> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Stop::Failed(format!("no answer within {PEER_LIMIT:?}")));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Stop::Failed("closed in the middle of a frame".to_owned())),
                Ok(more) => filled += more,
                Err(error) => match error.kind() {
                    ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => return Ok(None),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Err(Stop::Failed(format!("read: {error}"))),
                },
            }
        }
        Ok(Some(bytes))
    }

    /// The next frame, heartbeats included; `None` when the broker closed the socket.
    pub(super) fn read_frame(&mut self) -> Result<Option<Frame>, Stop> {
        let Some(head) = self.read(7)? else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let size = usize::try_from(size)?;
        ensure(
            size <= 1 << 20,
            format!("a frame of {size} bytes from the broker"),
        )?;
        let Some(mut payload) = self.read(size + 1)? else {
            return Err(Stop::Failed("closed in the middle of a frame".to_owned()));
        };
        equal(payload.pop(), Some(FRAME_END), "frame end")?;
        Ok(Some(Frame {
            kind: head[0],
            channel: u16::from_be_bytes([head[1], head[2]]),
            payload,
        }))
    }

    /// The next frame that is no heartbeat.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Stop> {
        loop {
            match self.read_frame()? {
                Some(frame) if frame.kind == HEARTBEAT => {}
                other => return Ok(other),
            }
        }
    }

    /// The next frame must be this method; gives its payload.
    pub(super) fn expect(&mut self, id: Id) -> Result<Vec<u8>, Stop> {
        match self.next()? {
            Some(frame) if frame.id() == Some(id) => Ok(frame.payload),
            Some(frame) => {
                let (found, reason) = (frame.id(), frame.reason());
                Err(Stop::Failed(format!(
                    "expected method {id:?}, found {found:?} {reason:?}"
                )))
            }
            None => Err(Stop::Failed(format!(
                "expected method {id:?}, but it was closed"
            ))),
        }
    }

    /// The broker must close the connection (or channel) and say why; gives code and text.
    pub(super) fn close_reason(&mut self, id: Id) -> Result<(u16, String), Stop> {
        match self.next()? {
            Some(frame) if frame.id() == Some(id) => {
                let reason = frame.reason();
                reason.ok_or_else(|| Stop::Failed("a close that cannot be read".to_owned()))
            }
            Some(frame) => {
                let (found, reason) = (frame.id(), frame.reason());
                Err(Stop::Failed(format!(
                    "expected close {id:?}, found {found:?} {reason:?}"
                )))
            }
            None => Err(Stop::Failed(format!(
                "expected close {id:?}, but the socket was closed"
            ))),
        }
    }

    /// connection.close with this code and text; answers it and waits for the end.
    pub(super) fn expect_close(&mut self, code: u16, text: &str) -> CheckResult {
        equal(
            self.close_reason(CONNECTION_CLOSE)?,
            (code, text.to_owned()),
            "connection.close",
        )?;
        self.send_anyway(&method(0, (10, 51), Fields::new()));
        self.hang_up()
    }

    /// connection.close with one of these codes; answers it and waits for the end.
    pub(super) fn expect_close_code(&mut self, codes: &[u16]) -> CheckResult {
        let (code, text) = self.close_reason(CONNECTION_CLOSE)?;
        ensure(
            codes.contains(&code),
            format!("close {code} {text}, expected one of {codes:?}"),
        )?;
        self.send_anyway(&method(0, (10, 51), Fields::new()));
        self.hang_up()
    }

    /// Code and text of a connection.close, or nothing when the socket is closed without a word.
    pub(super) fn close_or_end(&mut self) -> Result<Option<(u16, String)>, Stop> {
        match self.next()? {
            None => Ok(None),
            Some(frame) if frame.id() == Some(CONNECTION_CLOSE) => Ok(frame.reason()),
            Some(frame) => Err(Stop::Failed(format!("answered by {:?}", frame.id()))),
        }
    }

    /// connection.close with one of these codes, or the socket closed without a word.
    pub(super) fn expect_close_code_or_end(&mut self, codes: &[u16]) -> CheckResult {
        match self.close_or_end()? {
            Some((code, text)) => ensure(
                codes.contains(&code),
                format!("close {code} {text}, expected one of {codes:?}"),
            ),
            None => Ok(()),
        }
    }

    /// Nothing more comes, and the broker closes the socket.
    pub(super) fn expect_end(&mut self) -> CheckResult {
        match self.next()? {
            None => Ok(()),
            Some(frame) => Err(Stop::Failed(format!(
                "more after the end: {:?}",
                frame.id()
            ))),
        }
    }

    /// Closes the connection as the protocol wants it.
    pub(super) fn close(&mut self) -> CheckResult {
        let close = Fields::new().u16(200).short("done").u16(0).u16(0);
        self.send(&method(0, CONNECTION_CLOSE, close))?;
        self.expect((10, 51))?;
        self.hang_up()
    }

    /// The end after a close-ok: RabbitMQ leaves it to the client to go first, for up to 30 s.
    fn hang_up(&mut self) -> CheckResult {
        // The broker may have been quicker.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.expect_end()
    }
}

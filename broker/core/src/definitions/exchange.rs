//! An exchange. Key: vhost, name. Value, version 1: type u8, flags u8 (1 durable, 2 auto-delete,
//! 4 internal, 8 transient), with flag 8 the node and the incarnation that it lives with (u64
//! each), arguments as a table to the end.

use bytes::Bytes;
use warren_cluster_core::ids::NodeId;
use warren_cluster_core::rows::RowKey;
use warren_protocol::table::FieldTable;

use super::codec::{Reader, RowError, Writer};
use super::{Home, kind};

const VERSION: u8 = 1;
const DURABLE: u8 = 1;
const AUTO_DELETE: u8 = 2;
const INTERNAL: u8 = 4;
const TRANSIENT: u8 = 8;

/// How an exchange chooses among its bindings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ExchangeKind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

/// What names an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExchangeKey<'a> {
    pub vhost: &'a str,
    pub name: &'a [u8],
}

/// What was declared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExchangeRow {
    pub kind: ExchangeKind,
    pub durable: bool,
    /// Goes when its last binding as a source goes.
    pub auto_delete: bool,
    /// Takes messages from exchanges alone.
    pub internal: bool,
    /// What a transient one lives and dies with.
    pub home: Option<Home>,
    pub arguments: FieldTable,
}

/// An exchange that every vhost has without a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Predeclared {
    pub name: &'static str,
    pub kind: ExchangeKind,
    pub internal: bool,
}

impl Predeclared {
    /// All of them; the default exchange is the one without a name.
    pub const ALL: [Self; 7] = [
        Self::new("", ExchangeKind::Direct),
        Self::new("amq.direct", ExchangeKind::Direct),
        Self::new("amq.fanout", ExchangeKind::Fanout),
        Self::new("amq.headers", ExchangeKind::Headers),
        Self::new("amq.match", ExchangeKind::Headers),
        Self {
            name: "amq.rabbitmq.trace",
            kind: ExchangeKind::Topic,
            internal: true,
        },
        Self::new("amq.topic", ExchangeKind::Topic),
    ];

    const fn new(name: &'static str, kind: ExchangeKind) -> Self {
        Self {
            name,
            kind,
            internal: false,
        }
    }

    /// What the exchange would have been declared as.
    #[must_use]
    pub fn row(self) -> ExchangeRow {
        ExchangeRow {
            kind: self.kind,
            durable: true,
            auto_delete: false,
            internal: self.internal,
            home: None,
            arguments: FieldTable::new(),
        }
    }
}

impl ExchangeKind {
    /// The type's name in `exchange.declare`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }

    /// The type of that name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Direct, Self::Fanout, Self::Topic, Self::Headers]
            .into_iter()
            .find(|kind| kind.name().as_bytes() == name)
    }

    fn code(self) -> u8 {
        match self {
            Self::Direct => 1,
            Self::Fanout => 2,
            Self::Topic => 3,
            Self::Headers => 4,
        }
    }
}

impl<'a> ExchangeKey<'a> {
    #[must_use]
    pub fn encode(self) -> RowKey {
        let key = Writer::key().bytes(self.vhost.as_bytes()).bytes(self.name);
        RowKey {
            kind: kind::EXCHANGE,
            key: key.finish(),
        }
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode(key: &'a [u8]) -> Result<Self, RowError> {
        let mut reader = Reader::key(key);
        let vhost = reader.text("vhost")?;
        let name = reader.bytes("exchange")?;
        reader.finish()?;
        Ok(Self { vhost, name })
    }
}

impl ExchangeRow {
    /// `alternate-exchange`: where messages go that no binding takes.
    #[must_use]
    pub fn alternate(&self) -> Option<&[u8]> {
        self.arguments.get("alternate-exchange")?.as_long_str()
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let flags = u8::from(self.durable) * DURABLE
            + u8::from(self.auto_delete) * AUTO_DELETE
            + u8::from(self.internal) * INTERNAL
            + u8::from(self.home.is_some()) * TRANSIENT;
        let mut writer = Writer::value(VERSION).u8(self.kind.code()).u8(flags);
        if let Some(home) = self.home {
            writer = writer.u64(home.node.0).u64(home.incarnation);
        }
        writer.table(&self.arguments).finish()
    }

    /// # Errors
    /// When the bytes are no such row.
    pub fn decode(value: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::value(value, VERSION)?;
        let kind = match reader.u8("exchange type")? {
            1 => ExchangeKind::Direct,
            2 => ExchangeKind::Fanout,
            3 => ExchangeKind::Topic,
            4 => ExchangeKind::Headers,
            value => {
                let field = "exchange type";
                return Err(RowError::Unknown { field, value });
            }
        };
        let flags = reader.u8("flags")?;
        if flags & !(DURABLE | AUTO_DELETE | INTERNAL | TRANSIENT) != 0 {
            let field = "flags";
            return Err(RowError::Unknown {
                field,
                value: flags,
            });
        }
        let home = if flags & TRANSIENT == 0 {
            None
        } else {
            Some(Home {
                node: NodeId(reader.u64("node")?),
                incarnation: reader.u64("incarnation")?,
            })
        };
        Ok(Self {
            kind,
            home,
            durable: flags & DURABLE != 0,
            auto_delete: flags & AUTO_DELETE != 0,
            internal: flags & INTERNAL != 0,
            arguments: reader.table()?,
        })
    }
}

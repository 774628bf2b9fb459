//! RabbitMQ's definitions files: what they say, read ([`parse()`]) and written ([`export()`]).
//!
//! Invariants:
//! - reading is tolerant of what is left out or unknown, and exact about the rest: what does not
//!   fit is an error that names its place;
//! - what Warren does not have is kept as [`Unsupported`], never dropped;
//! - values are in the form that JSON leaves of AMQP's types ([`normalized`]), so that what was
//!   written reads back equal;
//! - everything is in the order of its names: the same definitions make the same bytes.
//!
//! This file and its folder are the only ones of the broker's core that know of JSON.

mod export;
mod fields;
mod parse;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use warren_cluster_core::rows::RowKey;
use warren_protocol::table::FieldTable;

use super::{BindingKey, HashingAlgorithm, PermissionRow, UserRow, VhostRow};
use crate::auth::password;
use crate::dispatch::operation::{DeclareExchange, DeclareQueue, DestinationKind};
use crate::topology::Topology;

pub(super) use export::touches_internal;
pub use export::{ExportOptions, Exported, NoSuchVhost, Scope, export};
pub use parse::parse;
pub use values::normalized;
pub(super) use values::to_text as arguments_text;

/// The largest file that is read.
pub const FILE_BYTES_MAX: usize = 256 << 20;
/// The most users, vhosts, queues and so on of one file, all together.
pub const OBJECTS_MAX: usize = 2_000_000;
/// The largest arguments of one object, in wire form.
pub const ARGUMENTS_BYTES_MAX: usize = 128 << 10;
/// The longest name of AMQP; users, vhosts and tags have the same limit.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest description, pattern, hash or password.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// The most tags of one user or vhost.
pub const TAGS_MAX: usize = 1000;

/// A list of a definitions file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Section {
    Users,
    Vhosts,
    Permissions,
    TopicPermissions,
    Parameters,
    GlobalParameters,
    Policies,
    Exchanges,
    Queues,
    Bindings,
}

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectKind {
    User,
    UserLimit,
    Vhost,
    VhostLimit,
    Permission,
    GlobalParameter,
    TopicPermission,
    Policy,
    OperatorPolicy,
    Parameter,
    Exchange,
    Queue,
    Binding,
}

/// The contents of a definitions file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Definitions {
    /// The vhost that a file of a single vhost is for; `None` for a whole cluster.
    pub vhost: Option<String>,
    /// The sections that stand in the file, empty or not.
    pub sections: BTreeSet<Section>,
    pub users: BTreeMap<String, UserDefinition>,
    /// With their tags in order.
    pub vhosts: BTreeMap<String, VhostRow>,
    /// By user and vhost.
    pub permissions: BTreeMap<(String, String), PermissionRow>,
    /// What is in each vhost.
    pub contents: BTreeMap<String, Contents>,
    /// What the file asks for and Warren does not have, in order.
    pub unsupported: Vec<Unsupported>,
    /// What was left out because it means nothing outside of where the file comes from.
    pub notes: Vec<String>,
}

/// What is in a vhost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    pub exchanges: BTreeMap<String, ExchangeDefinition>,
    pub queues: BTreeMap<String, QueueDefinition>,
    /// By the keys of their rows.
    pub bindings: BTreeMap<RowKey, BindingDefinition>,
}

/// A user of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserDefinition {
    pub secret: Secret,
    /// In order.
    pub tags: Vec<String>,
}

/// How a file gives a user's password. `Debug` leaves it out.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Hash {
        algorithm: HashingAlgorithm,
        /// Salt and digest; empty for a user without a password.
        hash: Vec<u8>,
    },
    Password(String),
}

/// An exchange of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExchangeDefinition {
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: FieldTable,
}

/// A queue of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueDefinition {
    /// Its field `type`, or the argument `x-queue-type`.
    pub kind: Option<String>,
    pub durable: bool,
    pub auto_delete: bool,
    pub arguments: FieldTable,
}

/// A binding of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BindingDefinition {
    pub source: String,
    pub destination: String,
    pub destination_kind: DestinationKind,
    pub routing_key: String,
    pub arguments: FieldTable,
}

/// Something that Warren does not have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Unsupported {
    pub kind: ObjectKind,
    /// `None` for what belongs to the whole cluster.
    pub vhost: Option<String>,
    pub name: String,
    pub cause: String,
    /// The whole object as JSON, to compare it.
    pub value: String,
}

/// Where in a file something is wrong, and what.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ParseError {
    /// `None`: the file as a whole.
    pub place: Option<Place>,
    pub cause: String,
}

/// A place in a definitions file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub section: Section,
    /// Which item of the section, from 0; `None`: the section as a whole.
    pub index: Option<usize>,
    /// The item's name, empty where it has none.
    pub name: String,
    /// The item's field, as in `arguments.x-max-length`; empty: the item as a whole.
    pub field: String,
}

impl Definitions {
    /// The definitions that are in force.
    ///
    /// # Errors
    /// A vhost that does not exist; names in rows that no file could have.
    pub fn of_topology(
        topology: &Topology,
        options: &ExportOptions<'_>,
    ) -> Result<Self, ParseError> {
        let mut file = Vec::new();
        let exported = export(topology, options, &mut |piece| {
            file.extend_from_slice(piece);
        });
        exported.map_err(|error| ParseError {
            place: None,
            cause: error.to_string(),
        })?;
        parse(&file, options.scope.vhost())
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let contents = self.contents.values().map(|contents| {
            contents.exchanges.len() + contents.queues.len() + contents.bindings.len()
        });
        let global = self.users.len() + self.vhosts.len() + self.permissions.len();
        global + self.unsupported.len() + contents.sum::<usize>()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ExchangeDefinition {
    /// The declaration that it stands for.
    #[must_use]
    pub fn declare(&self, name: &str) -> DeclareExchange {
        DeclareExchange {
            name: name.into(),
            kind: self.kind.clone().into_bytes(),
            passive: false,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments.clone(),
        }
    }
}

impl QueueDefinition {
    /// The declaration that it stands for.
    #[must_use]
    pub fn declare(&self, name: &str) -> DeclareQueue {
        DeclareQueue {
            name: name.into(),
            passive: false,
            durable: self.durable,
            exclusive: false,
            auto_delete: self.auto_delete,
            arguments: self.arguments.clone(),
        }
    }
}

impl BindingDefinition {
    /// What names it, in a vhost.
    #[must_use]
    pub fn key<'a>(&'a self, vhost: &'a str) -> BindingKey<'a> {
        BindingKey {
            vhost,
            source: self.source.as_bytes(),
            destination: self.destination.as_bytes(),
            destination_kind: self.destination_kind,
            routing_key: self.routing_key.as_bytes(),
            arguments: self.arguments.clone(),
        }
    }
}

impl Section {
    const ALL: [Self; 10] = [
        Self::Users,
        Self::Vhosts,
        Self::Permissions,
        Self::TopicPermissions,
        Self::Parameters,
        Self::GlobalParameters,
        Self::Policies,
        Self::Exchanges,
        Self::Queues,
        Self::Bindings,
    ];

    /// Its key in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Vhosts => "vhosts",
            Self::Permissions => "permissions",
            Self::TopicPermissions => "topic_permissions",
            Self::Parameters => "parameters",
            Self::GlobalParameters => "global_parameters",
            Self::Policies => "policies",
            Self::Exchanges => "exchanges",
            Self::Queues => "queues",
            Self::Bindings => "bindings",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.name() == name)
    }
}

impl ObjectKind {
    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::UserLimit => "user limit",
            Self::Vhost => "vhost",
            Self::VhostLimit => "vhost limit",
            Self::Permission => "permission",
            Self::GlobalParameter => "global parameter",
            Self::TopicPermission => "topic permission",
            Self::Policy => "policy",
            Self::OperatorPolicy => "operator policy",
            Self::Parameter => "parameter",
            Self::Exchange => "exchange",
            Self::Queue => "queue",
            Self::Binding => "binding",
        }
    }
}

/// `source -> destination [routing key]`, as people are shown a binding.
impl fmt::Display for BindingDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = destination_type(self.destination_kind);
        write!(f, "'{}' -> {kind} '{}'", self.source, self.destination)?;
        if !self.routing_key.is_empty() {
            write!(f, " with key '{}'", self.routing_key)?;
        }
        if !self.arguments.is_empty() {
            write!(f, " and arguments {}", values::to_text(&self.arguments))?;
        }
        Ok(())
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section.name())?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        if !self.name.is_empty() {
            write!(f, " '{}'", self.name)?;
        }
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        Ok(())
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.cause),
            None => f.write_str(&self.cause),
        }
    }
}

impl Secret {
    /// Whether both let in the same password, as far as hashes can tell.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password(password), Self::Hash { algorithm, hash })
            | (Self::Hash { algorithm, hash }, Self::Password(password)) => {
                let user = UserRow {
                    password_hash: hash.clone(),
                    algorithm: *algorithm,
                    ..UserRow::default()
                };
                password::check(&user, password.as_bytes()).is_ok()
            }
            (Self::Password(_), Self::Password(_)) | (Self::Hash { .. }, Self::Hash { .. }) => {
                self == other
            }
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash { algorithm, .. } => write!(f, "Hash({})", algorithm.name()),
            Self::Password(_) => f.write_str("Password"),
        }
    }
}

/// The value of a binding's field `destination_type`.
fn destination_type(kind: DestinationKind) -> &'static str {
    match kind {
        DestinationKind::Queue => "queue",
        DestinationKind::Exchange => "exchange",
    }
}

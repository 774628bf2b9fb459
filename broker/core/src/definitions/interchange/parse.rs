//! Reading a definitions file: one item at a time, never the whole as JSON in memory.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::fields::{self, Item};
use super::{
    BindingDefinition, Contents, Definitions, ExchangeDefinition, FILE_BYTES_MAX, OBJECTS_MAX,
    ObjectKind, ParseError, Place, QueueDefinition, Secret, Section, Unsupported, UserDefinition,
};
use crate::auth::password;
use crate::definitions::{HashingAlgorithm, PermissionRow, VhostRow};
use crate::dispatch::operation::DestinationKind;

/// Bytes of salt and digest by which an algorithm that is not named is known.
const SHA256_BYTES: usize = password::SALT_BYTES + 32;
const SHA512_BYTES: usize = password::SALT_BYTES + 64;
const MD5_BYTES: usize = password::SALT_BYTES + 16;

/// Reads a definitions file. `vhost` is where the items of a file of a single vhost belong.
///
/// # Errors
/// The first thing that is wrong, and where.
pub fn parse(json: &[u8], vhost: Option<&str>) -> Result<Definitions, ParseError> {
    if json.len() > FILE_BYTES_MAX {
        return Err(ParseError::file(format!(
            "the file has {} bytes, at most {FILE_BYTES_MAX} are taken",
            json.len()
        )));
    }
    let mut parser = Parser {
        definitions: Definitions {
            vhost: vhost.map(str::to_owned),
            ..Definitions::default()
        },
        section: None,
        index: 0,
        objects: 0,
        error: None,
    };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = deserializer
        .deserialize_any(&mut parser)
        .and_then(|()| deserializer.end());
    match (parser.error.take(), read) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(parser.broken(&error)),
        (None, Ok(())) => {
            parser.definitions.unsupported.sort_unstable();
            parser.definitions.unsupported.dedup();
            Ok(parser.definitions)
        }
    }
}

/// What was read so far, and where the reading is.
struct Parser {
    definitions: Definitions,
    section: Option<Section>,
    index: usize,
    objects: usize,
    /// An error of ours, which serde cannot carry.
    error: Option<ParseError>,
}

/// The items of one section.
struct Items<'p> {
    parser: &'p mut Parser,
    section: Section,
}

impl<'de> Visitor<'de> for &mut Parser {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the definitions")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if let Some(section) = Section::from_name(&key) {
                self.section = Some(section);
                self.index = 0;
                map.next_value_seed(Items {
                    parser: self,
                    section,
                })?;
                self.section = None;
            } else if key == "limits" {
                let value = map.next_value::<Value>()?;
                let taken = self.vhost_limits(&value);
                self.keep(taken)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.parser.definitions.sections.insert(self.section);
        while let Some(value) = items.next_element::<Value>()? {
            let taken = self.parser.item(self.section, &value);
            self.parser.keep(taken)?;
            self.parser.index += 1;
        }
        Ok(())
    }
}

impl ParseError {
    fn file(cause: impl Into<String>) -> Self {
        Self {
            place: None,
            cause: cause.into(),
        }
    }
}

impl Parser {
    /// Keeps an error of ours and gives serde one to stop with.
    fn keep<E: serde::de::Error>(&mut self, taken: Result<(), ParseError>) -> Result<(), E> {
        taken.map_err(|error| {
            self.error = Some(error);
            E::custom("")
        })
    }

    /// What is no JSON, or not of the form that was expected.
    fn broken(&self, error: &serde_json::Error) -> ParseError {
        let place = self.section.map(|section| Place {
            section,
            index: Some(self.index).filter(|index| *index > 0),
            name: String::new(),
            field: String::new(),
        });
        ParseError {
            place,
            cause: format!("not the JSON of definitions: {error}"),
        }
    }

    fn item(&mut self, section: Section, value: &Value) -> Result<(), ParseError> {
        let item = Item::new(section, self.index, value)?;
        self.objects += 1;
        if self.objects > OBJECTS_MAX {
            let cause = format!("more than {OBJECTS_MAX} objects in one file");
            return Err(item.error("", cause));
        }
        if self.definitions.vhost.is_some() && section.is_global() {
            let cause = "a file of a single vhost has no such section; import the file of a \
                         cluster without naming a vhost";
            return Err(item.error("", cause));
        }
        match section {
            Section::Users => self.user(&item),
            Section::Vhosts => self.vhost(&item),
            Section::Permissions => self.permission(&item),
            Section::TopicPermissions => self.topic_permission(&item),
            Section::Parameters => self.parameter(&item),
            Section::GlobalParameters => self.global_parameter(&item),
            Section::Policies => self.policy(&item),
            Section::Exchanges => self.exchange(&item),
            Section::Queues => self.queue(&item),
            Section::Bindings => self.binding(&item),
        }
    }

    fn user(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let name = item.name("name")?.to_owned();
        for (limit, value) in item.limits()? {
            self.definitions.unsupported.push(Unsupported {
                kind: ObjectKind::UserLimit,
                vhost: None,
                name: format!("{name}/{limit}"),
                cause: "limits of users are not supported yet".to_owned(),
                value,
            });
        }
        let user = UserDefinition {
            secret: secret(item)?,
            tags: item.tags()?,
        };
        unique(&mut self.definitions.users, name, user, item)
    }

    fn vhost(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let name = item.name("name")?.to_owned();
        for (limit, value) in item.limits()? {
            let limit = vhost_limit(&name, &limit, value);
            self.definitions.unsupported.push(limit);
        }
        let row = vhost_row(item)?;
        unique(&mut self.definitions.vhosts, name, row, item)
    }

    fn permission(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let key = (
            item.name("user")?.to_owned(),
            item.name("vhost")?.to_owned(),
        );
        let row = PermissionRow {
            configure: item.text("configure")?.to_owned(),
            write: item.text("write")?.to_owned(),
            read: item.text("read")?.to_owned(),
        };
        unique(&mut self.definitions.permissions, key, row, item)
    }

    fn topic_permission(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let vhost = item.name("vhost")?.to_owned();
        let name = format!("{}/{}", item.name("user")?, item.short_text("exchange")?);
        let cause = "topic permissions are not supported yet";
        self.unsupported(ObjectKind::TopicPermission, Some(vhost), name, cause, item);
        Ok(())
    }

    fn policy(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let vhost = self.vhost_of(item)?;
        let name = item.name("name")?.to_owned();
        let cause = "policies are not supported yet";
        self.unsupported(ObjectKind::Policy, Some(vhost), name, cause, item);
        Ok(())
    }

    fn parameter(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let vhost = self.vhost_of(item)?;
        let component = item.name("component")?;
        let name = item.name("name")?;
        match component {
            "operator_policy" => {
                let (kind, name) = (ObjectKind::OperatorPolicy, name.to_owned());
                let cause = "operator policies are not supported yet";
                self.unsupported(kind, Some(vhost), name, cause, item);
            }
            "policy" => {
                let (kind, name) = (ObjectKind::Policy, name.to_owned());
                let cause = "policies are not supported yet";
                self.unsupported(kind, Some(vhost), name, cause, item);
            }
            "vhost-limits" => {
                let limits = fields::limits(item.field("value"));
                for (limit, value) in limits.map_err(|cause| item.error("value", cause))? {
                    let limit = vhost_limit(&vhost, &limit, value);
                    self.definitions.unsupported.push(limit);
                }
            }
            _ => {
                let (kind, name) = (ObjectKind::Parameter, format!("{component}/{name}"));
                let cause = "runtime parameters are not supported yet";
                self.unsupported(kind, Some(vhost), name, cause, item);
            }
        }
        Ok(())
    }

    fn global_parameter(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let name = item.name("name")?.to_owned();
        if name.starts_with("internal") || name == "cluster_name" {
            let note = format!("global parameter '{name}' is the other cluster's own: left out");
            self.definitions.notes.push(note);
            return Ok(());
        }
        let cause = "global parameters are not supported yet";
        self.unsupported(ObjectKind::GlobalParameter, None, name, cause, item);
        Ok(())
    }

    fn exchange(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let name = item.name("name")?.to_owned();
        let exchange = ExchangeDefinition {
            kind: item.short_text("type")?.to_owned(),
            durable: item.flag("durable", true)?,
            auto_delete: item.flag("auto_delete", false)?,
            internal: item.flag("internal", false)?,
            arguments: item.arguments()?,
        };
        unique(&mut self.contents_of(item)?.exchanges, name, exchange, item)
    }

    fn queue(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let name = item.name("name")?.to_owned();
        let arguments = item.arguments()?;
        let argument = arguments
            .get("x-queue-type")
            .and_then(|value| value.as_str());
        let kind = item.optional_text("type")?;
        if let (Some(kind), Some(argument)) = (kind, argument)
            && kind != argument
        {
            let cause = format!("it is '{kind}', and the argument 'x-queue-type' is '{argument}'");
            return Err(item.error("type", cause));
        }
        let queue = QueueDefinition {
            kind: kind.or(argument).map(str::to_owned),
            durable: item.flag("durable", true)?,
            auto_delete: item.flag("auto_delete", false)?,
            arguments,
        };
        unique(&mut self.contents_of(item)?.queues, name, queue, item)
    }

    fn binding(&mut self, item: &Item<'_>) -> Result<(), ParseError> {
        let destination_kind = match item.text("destination_type")? {
            "queue" => DestinationKind::Queue,
            "exchange" => DestinationKind::Exchange,
            other => {
                let cause = format!("it is '{other}', neither 'queue' nor 'exchange'");
                return Err(item.error("destination_type", cause));
            }
        };
        let binding = BindingDefinition {
            source: item.short_text("source")?.to_owned(),
            destination: item.name("destination")?.to_owned(),
            destination_kind,
            routing_key: item.optional_short_text("routing_key")?.to_owned(),
            arguments: item.arguments()?,
        };
        let implicit = destination_kind == DestinationKind::Queue
            && binding.routing_key == binding.destination;
        if binding.source.is_empty() {
            if !implicit {
                let cause = "operation not permitted on the default exchange";
                return Err(item.error("source", cause));
            }
            // Every queue is bound to the default exchange by its name.
            self.vhost_of(item)?;
            return Ok(());
        }
        let vhost = self.vhost_of(item)?;
        let key = binding.key(&vhost).encode();
        let contents = self.definitions.contents.entry(vhost).or_default();
        contents.bindings.insert(key, binding);
        Ok(())
    }

    /// Limits at the top of a file of a single vhost.
    fn vhost_limits(&mut self, value: &Value) -> Result<(), ParseError> {
        let limits = fields::limits(Some(value));
        let limits = limits.map_err(|cause| ParseError::file(format!("limits: {cause}")))?;
        let vhost = self.definitions.vhost.clone();
        for (limit, value) in limits {
            let Some(vhost) = &vhost else {
                return Err(ParseError::file(
                    "limits: the file is of a single vhost: say which one it is for",
                ));
            };
            let limit = vhost_limit(vhost, &limit, value);
            self.definitions.unsupported.push(limit);
        }
        Ok(())
    }

    fn contents_of(&mut self, item: &Item<'_>) -> Result<&mut Contents, ParseError> {
        let vhost = self.vhost_of(item)?;
        Ok(self.definitions.contents.entry(vhost).or_default())
    }

    /// The item's vhost, or the one that the file is for.
    fn vhost_of(&self, item: &Item<'_>) -> Result<String, ParseError> {
        let own = match item.field("vhost") {
            Some(_) => Some(item.name("vhost")?),
            None => None,
        };
        match (own, &self.definitions.vhost) {
            (Some(own), None) => Ok(own.to_owned()),
            (None, Some(vhost)) => Ok(vhost.clone()),
            (Some(own), Some(vhost)) if own == vhost => Ok(own.to_owned()),
            (Some(own), Some(vhost)) => {
                let cause = format!("it is '{own}', and the file is imported into '{vhost}'");
                Err(item.error("vhost", cause))
            }
            (None, None) => {
                let cause = "it is missing; if the file is of a single vhost, say which one it \
                             is for";
                Err(item.error("vhost", cause))
            }
        }
    }

    fn unsupported(
        &mut self,
        kind: ObjectKind,
        vhost: Option<String>,
        name: String,
        cause: &str,
        item: &Item<'_>,
    ) {
        self.definitions.unsupported.push(Unsupported {
            kind,
            vhost,
            name,
            cause: cause.to_owned(),
            value: item.to_json(),
        });
    }
}

impl Section {
    /// Whether its items belong to no vhost alone.
    fn is_global(self) -> bool {
        match self {
            Self::Users
            | Self::Vhosts
            | Self::Permissions
            | Self::TopicPermissions
            | Self::GlobalParameters => true,
            Self::Parameters | Self::Policies | Self::Exchanges | Self::Queues | Self::Bindings => {
                false
            }
        }
    }
}

/// Keeps an object; the same again is taken, another of its name is not.
fn unique<K: Ord, V: PartialEq>(
    objects: &mut std::collections::BTreeMap<K, V>,
    key: K,
    value: V,
    item: &Item<'_>,
) -> Result<(), ParseError> {
    match objects.get(&key) {
        Some(present) if *present != value => {
            Err(item.error("", "it stands in the file twice, and differs"))
        }
        Some(_) => Ok(()),
        None => {
            objects.insert(key, value);
            Ok(())
        }
    }
}

fn vhost_limit(vhost: &str, limit: &str, value: String) -> Unsupported {
    Unsupported {
        kind: ObjectKind::VhostLimit,
        vhost: Some(vhost.to_owned()),
        name: limit.to_owned(),
        cause: "limits of vhosts are not supported yet".to_owned(),
        value,
    }
}

/// A hash (its algorithm named, or known by its length), or a password.
fn secret(item: &Item<'_>) -> Result<Secret, ParseError> {
    let text = item.optional_text("password_hash")?;
    if let (None, Some(password)) = (text, item.optional_text("password")?)
        && !password.is_empty()
    {
        return Ok(Secret::Password(password.to_owned()));
    }
    let Some(hash) = password::from_base64(text.unwrap_or_default()) else {
        return Err(item.error("password_hash", "it is no base64"));
    };
    let algorithm = match item.optional_text("hashing_algorithm")? {
        Some(name) => HashingAlgorithm::from_name(name).ok_or_else(|| {
            let cause = format!("'{name}' is not known");
            item.error("hashing_algorithm", cause)
        })?,
        None => match hash.len() {
            0 | SHA256_BYTES => HashingAlgorithm::Sha256,
            SHA512_BYTES => HashingAlgorithm::Sha512,
            MD5_BYTES => HashingAlgorithm::Md5,
            bytes => {
                let cause = format!("no algorithm makes a hash of {bytes} bytes");
                return Err(item.error("password_hash", cause));
            }
        },
    };
    Ok(Secret::Hash { algorithm, hash })
}

/// `metadata`, or in older files the same fields at the top of the item.
fn vhost_row(item: &Item<'_>) -> Result<VhostRow, ParseError> {
    let none = serde_json::Map::new();
    let metadata = match item.field("metadata") {
        None => &none,
        Some(Value::Object(fields)) => fields,
        // An empty list of Erlang.
        Some(Value::Array(fields)) if fields.is_empty() => &none,
        Some(_) => return Err(item.error("metadata", "it must be an object")),
    };
    let text = |field: &str| match metadata.get(field) {
        None | Some(Value::Null) => item.optional_text(field),
        Some(Value::String(text)) if text.len() <= super::TEXT_BYTES_MAX => Ok(Some(text.as_str())),
        Some(_) => {
            let limit = super::TEXT_BYTES_MAX;
            let cause = format!("it must be a string of at most {limit} bytes");
            Err(item.error(&format!("metadata.{field}"), cause))
        }
    };
    let description = text("description")?.unwrap_or_default().to_owned();
    let default_queue_type = text("default_queue_type")?.unwrap_or_default();
    let default_queue_type = match default_queue_type {
        "undefined" => "",
        kind => kind,
    };
    let tags = match metadata.get("tags") {
        None | Some(Value::Null) => item.tags()?,
        tags => fields::tags(tags).map_err(|cause| item.error("metadata.tags", cause))?,
    };
    Ok(VhostRow {
        description,
        tags,
        default_queue_type: default_queue_type.to_owned(),
    })
}

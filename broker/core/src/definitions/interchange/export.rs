//! Writing a definitions file, piece by piece: what is held of it is one buffer and the order of
//! the objects, never its text.
//!
//! Left out, as in RabbitMQ: exclusive and transient queues, transient exchanges, the default
//! exchange and what is bound to it, everything predeclared, and, unless they are asked for,
//! internal exchanges. So is every binding that would be without one of its ends.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Value;
use warren_protocol::table::FieldTable;

use super::{ObjectKind, destination_type, values};
use crate::auth::password;
use crate::dispatch::operation::DestinationKind;
use crate::topology::{Binding, Exchange, Topology, Vhost};

/// Bytes of a piece; a piece is at most one object longer.
const PIECE_BYTES: usize = 32 << 10;
/// The most notes about what JSON cannot say.
const NOTES_MAX: usize = 100;

/// Which definitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope<'a> {
    Cluster,
    Vhost(&'a str),
}

/// What to write, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions<'a> {
    pub scope: Scope<'a>,
    /// RabbitMQ leaves internal exchanges out; a backup must have them.
    pub internal_exchanges: bool,
    /// The version of RabbitMQ that tools may take this for.
    pub rabbitmq_version: &'a str,
    pub product_version: &'a str,
    pub cluster_name: &'a str,
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    pub objects: u64,
    /// Objects that have bytes which are no text, at most 100 of them: they are written with
    /// replacement characters and will not read back equal.
    pub notes: Vec<String>,
}

/// The vhost to write does not exist.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("vhost '{vhost}' not found")]
pub struct NoSuchVhost {
    pub vhost: String,
}

/// Writes the definitions of `topology` as a file, an object a line.
///
/// # Errors
/// When the vhost of the scope does not exist; then nothing was written.
pub fn export(
    topology: &Topology,
    options: &ExportOptions<'_>,
    emit: &mut dyn FnMut(&[u8]),
) -> Result<Exported, NoSuchVhost> {
    let mut vhosts: Vec<_> = match options.scope {
        Scope::Cluster => topology.vhosts().collect(),
        Scope::Vhost(name) => match topology.vhost(name) {
            Some(vhost) => vec![vhost],
            None => {
                let vhost = name.to_owned();
                return Err(NoSuchVhost { vhost });
            }
        },
    };
    vhosts.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    let mut file = File {
        emit,
        buffer: String::with_capacity(PIECE_BYTES + 4096),
        first: true,
        with_vhost: options.scope == Scope::Cluster,
        internal: options.internal_exchanges,
        exported: Exported::default(),
    };
    file.head(options, vhosts.first().map(AsRef::as_ref));
    if options.scope == Scope::Cluster {
        file.users(topology);
        file.vhosts(&vhosts);
        file.permissions(topology);
        file.section("topic_permissions", |_| {});
    }
    file.section("parameters", |_| {});
    if options.scope == Scope::Cluster {
        file.section("global_parameters", |_| {});
    }
    file.section("policies", |_| {});
    file.section("exchanges", |file| {
        vhosts.iter().for_each(|vhost| file.exchanges(vhost));
    });
    file.section("queues", |file| {
        vhosts.iter().for_each(|vhost| file.queues(vhost));
    });
    file.section("bindings", |file| {
        vhosts.iter().for_each(|vhost| file.bindings(vhost));
    });
    file.buffer.push_str("\n}\n");
    file.flush();
    Ok(file.exported)
}

impl<'a> Scope<'a> {
    /// The vhost of a file of a single one.
    #[must_use]
    pub fn vhost(self) -> Option<&'a str> {
        match self {
            Self::Cluster => None,
            Self::Vhost(name) => Some(name),
        }
    }
}

/// A file that is being written.
struct File<'e> {
    emit: &'e mut dyn FnMut(&[u8]),
    buffer: String,
    /// Whether the next field or item is the first of its object or array.
    first: bool,
    with_vhost: bool,
    internal: bool,
    exported: Exported,
}

impl File<'_> {
    fn head(&mut self, options: &ExportOptions<'_>, vhost: Option<&Vhost>) {
        self.buffer.push('{');
        self.line("rabbit_version", options.rabbitmq_version);
        self.line("rabbitmq_version", options.rabbitmq_version);
        self.line("product_name", "Warren");
        self.line("product_version", options.product_version);
        match (options.scope, vhost) {
            (Scope::Vhost(_), Some(vhost)) => {
                self.line("rabbitmq_definition_format", "single_virtual_host");
                self.line("original_vhost_name", vhost.name());
                self.buffer.push_str(",\n");
                self.first = true;
                self.metadata(vhost);
                self.line("description", &vhost.row().description);
                self.section("limits", |_| {});
            }
            _ => {
                self.line("rabbitmq_definition_format", "cluster");
                self.line("original_cluster_name", options.cluster_name);
            }
        }
    }

    fn line(&mut self, field: &str, text: &str) {
        self.comma("\n");
        self.field(field);
        self.text(text);
        self.first = false;
    }

    fn section(&mut self, name: &str, items: impl FnOnce(&mut Self)) {
        self.comma("\n");
        self.field(name);
        self.buffer.push('[');
        self.first = true;
        items(self);
        self.buffer.push(']');
        self.first = false;
    }

    fn item(&mut self, fields: impl FnOnce(&mut Self)) {
        self.comma("\n");
        self.buffer.push('{');
        self.first = true;
        fields(self);
        self.buffer.push('}');
        self.first = false;
        self.exported.objects += 1;
        if self.buffer.len() >= PIECE_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        (self.emit)(self.buffer.as_bytes());
        self.buffer.clear();
    }

    fn comma(&mut self, separator: &str) {
        if !self.first {
            self.buffer.push(',');
        }
        self.buffer.push_str(separator);
    }

    fn field(&mut self, name: &str) {
        self.text(name);
        self.buffer.push(':');
    }

    fn text(&mut self, text: &str) {
        self.buffer.push_str(&Value::from(text).to_string());
    }

    fn text_field(&mut self, name: &str, text: &str) {
        self.comma("");
        self.field(name);
        self.text(text);
        self.first = false;
    }

    fn flag_field(&mut self, name: &str, value: bool) {
        self.comma("");
        self.field(name);
        self.buffer.push_str(if value { "true" } else { "false" });
        self.first = false;
    }

    fn tags_field(&mut self, tags: &[String]) {
        let mut tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        tags.sort_unstable();
        self.comma("");
        self.field("tags");
        self.buffer.push_str(&Value::from(tags).to_string());
        self.first = false;
    }

    /// The last field of an object, and a note if it or what was gathered before is no text.
    fn arguments_field(
        &mut self,
        arguments: &FieldTable,
        mut lossy: bool,
        what: impl FnOnce() -> String,
    ) {
        self.comma("");
        self.field("arguments");
        values::write(arguments, &mut self.buffer, &mut lossy);
        self.first = false;
        if lossy && self.exported.notes.len() < NOTES_MAX {
            let note = format!("{} has bytes that are no text", what());
            self.exported.notes.push(note);
        }
    }

    fn vhost_field(&mut self, vhost: &Vhost) {
        if self.with_vhost {
            self.text_field("vhost", vhost.name());
        }
    }

    fn users(&mut self, topology: &Topology) {
        let mut users: Vec<_> = topology.users().collect();
        users.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.section("users", |file| {
            for user in users {
                file.item(|file| {
                    file.text_field("name", &user.name);
                    let hash = password::to_base64(&user.row.password_hash);
                    file.text_field("password_hash", &hash);
                    file.text_field("hashing_algorithm", user.row.algorithm.name());
                    file.tags_field(&user.row.tags);
                    file.buffer.push_str(",\"limits\":{}");
                });
            }
        });
    }

    fn vhosts(&mut self, vhosts: &[&Arc<Vhost>]) {
        self.section("vhosts", |file| {
            for vhost in vhosts {
                file.item(|file| {
                    file.text_field("name", vhost.name());
                    file.buffer.push(',');
                    file.metadata(vhost);
                    file.buffer.push_str(",\"limits\":[]");
                });
            }
        });
    }

    fn metadata(&mut self, vhost: &Vhost) {
        let row = vhost.row();
        self.field("metadata");
        self.buffer.push('{');
        self.first = true;
        self.text_field("description", &row.description);
        self.tags_field(&row.tags);
        if !row.default_queue_type.is_empty() {
            self.text_field("default_queue_type", &row.default_queue_type);
        }
        self.buffer.push('}');
        self.first = false;
    }

    fn permissions(&mut self, topology: &Topology) {
        // Rows may outlive their user or their vhost.
        let mut grants: Vec<_> = topology
            .all_grants()
            .filter(|(user, vhost, _)| {
                topology.user(user).is_some() && topology.vhost(vhost).is_some()
            })
            .filter_map(|(user, vhost, grants)| Some((user, vhost, grants.permission()?)))
            .collect();
        grants.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        self.section("permissions", |file| {
            for (user, vhost, permission) in grants {
                file.item(|file| {
                    file.text_field("user", user);
                    file.text_field("vhost", vhost);
                    file.text_field("configure", &permission.row.configure);
                    file.text_field("write", &permission.row.write);
                    file.text_field("read", &permission.row.read);
                });
            }
        });
    }

    fn exchanges(&mut self, vhost: &Vhost) {
        let written = |exchange: &&Arc<Exchange>| {
            is_exported(exchange) && (self.internal || !exchange.row.internal)
        };
        let mut exchanges: Vec<_> = vhost.exchanges().filter(written).collect();
        exchanges.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for exchange in exchanges {
            self.item(|file| {
                let mut lossy = false;
                file.text_field("name", &values::text(&exchange.name, &mut lossy));
                file.vhost_field(vhost);
                file.text_field("type", exchange.row.kind.name());
                file.flag_field("durable", exchange.row.durable);
                file.flag_field("auto_delete", exchange.row.auto_delete);
                file.flag_field("internal", exchange.row.internal);
                file.arguments_field(&exchange.row.arguments, lossy, || {
                    note(ObjectKind::Exchange, &exchange.name.to_text(), vhost)
                });
            });
        }
    }

    fn queues(&mut self, vhost: &Vhost) {
        let queues = vhost.queues().filter(|queue| queue.is_kept());
        let mut queues: Vec<_> = queues.collect();
        queues.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for queue in queues {
            self.item(|file| {
                let mut lossy = false;
                file.text_field("name", &values::text(&queue.name, &mut lossy));
                file.vhost_field(vhost);
                file.text_field("type", queue.row.kind.name());
                file.flag_field("durable", queue.row.durable);
                file.flag_field("auto_delete", queue.row.auto_delete);
                file.arguments_field(&queue.row.arguments, lossy, || {
                    note(ObjectKind::Queue, &queue.name.to_text(), vhost)
                });
            });
        }
    }

    fn bindings(&mut self, vhost: &Vhost) {
        let written = |binding: &&Arc<Binding>| {
            vhost.keeps(binding)
                && ends_exist(vhost, binding)
                && (self.internal || !touches_internal(vhost, binding))
        };
        let mut bindings: Vec<_> = vhost.bindings().filter(written).collect();
        bindings.sort_unstable_by(|a, b| in_order(a, b));
        for binding in bindings {
            self.item(|file| {
                let mut lossy = false;
                file.text_field("source", &values::text(&binding.source, &mut lossy));
                file.vhost_field(vhost);
                let destination = values::text(&binding.destination, &mut lossy);
                file.text_field("destination", &destination);
                let kind = destination_type(binding.destination_kind);
                file.text_field("destination_type", kind);
                let routing_key = values::text(&binding.routing_key, &mut lossy);
                file.text_field("routing_key", &routing_key);
                file.arguments_field(&binding.arguments, lossy, || {
                    let name = format!("{} -> {}", binding.source, binding.destination);
                    note(ObjectKind::Binding, &name, vhost)
                });
            });
        }
    }
}

/// Whether an exchange is what a user declared and means to keep.
fn is_exported(exchange: &Exchange) -> bool {
    exchange.is_kept() && !exchange.is_predeclared() && !exchange.name.starts_with(b"amq.")
}

fn in_order(a: &Binding, b: &Binding) -> Ordering {
    let arguments = |binding: &Binding| values::to_text(&binding.arguments);
    (a.source.cmp(&b.source))
        .then_with(|| a.destination_kind.cmp(&b.destination_kind))
        .then_with(|| a.destination.cmp(&b.destination))
        .then_with(|| a.routing_key.cmp(&b.routing_key))
        .then_with(|| arguments(a).cmp(&arguments(b)))
}

fn ends_exist(vhost: &Vhost, binding: &Binding) -> bool {
    let destination = match binding.destination_kind {
        DestinationKind::Queue => vhost.queue(&binding.destination).is_some(),
        DestinationKind::Exchange => vhost.exchange(&binding.destination).is_some(),
    };
    destination && vhost.exchange(&binding.source).is_some()
}

/// Whether an end of the binding is an internal exchange.
pub(in crate::definitions) fn touches_internal(vhost: &Vhost, binding: &Binding) -> bool {
    let internal = |name: &[u8]| {
        let exchange = vhost.exchange(name);
        exchange.is_some_and(|exchange| exchange.row.internal && !exchange.is_predeclared())
    };
    internal(&binding.source)
        || (binding.destination_kind == DestinationKind::Exchange && internal(&binding.destination))
}

fn note(kind: ObjectKind, name: &str, vhost: &Vhost) -> String {
    format!("{kind} '{name}' in vhost '{}'", vhost.name())
}

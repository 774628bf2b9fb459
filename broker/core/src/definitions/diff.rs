//! What differs between two sets of definitions, in a fixed order.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::interchange::{
    Contents, Definitions, ExchangeDefinition, ObjectKind, QueueDefinition, UserDefinition,
};
use super::{PermissionRow, VhostRow};

/// An object that one side has and the other has not, or has differently.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Difference {
    pub kind: ObjectKind,
    /// `None` for what belongs to the whole cluster.
    pub vhost: Option<String>,
    pub name: String,
    pub change: Change,
}

/// How the right side differs from the left.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    Added,
    Removed,
    /// What is different, as `field: left -> right`.
    Changed(Vec<String>),
}

/// What must be done to `left` for it to be `right`, ordered by kind, vhost and name.
#[must_use]
pub fn diff(left: &Definitions, right: &Definitions) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut global = Side {
        kind: ObjectKind::User,
        vhost: None,
        found: &mut found,
    };
    global.compare(&left.users, &right.users, Clone::clone, users);
    global.kind = ObjectKind::Vhost;
    global.compare(&left.vhosts, &right.vhosts, Clone::clone, vhosts);
    global.kind = ObjectKind::Permission;
    let name = |(user, vhost): &(String, String)| permission_name(user, vhost);
    global.compare(&left.permissions, &right.permissions, name, permissions);
    unsupported(left, right, &mut found);
    let none = Contents::default();
    let mut vhosts: Vec<&String> = left.contents.keys().chain(right.contents.keys()).collect();
    vhosts.sort_unstable();
    vhosts.dedup();
    for vhost in vhosts {
        let of = |side: &'_ Definitions| default_type(side, vhost);
        let defaults = (of(left), of(right));
        let left = left.contents.get(vhost).unwrap_or(&none);
        let right = right.contents.get(vhost).unwrap_or(&none);
        contents(vhost, left, right, &defaults, &mut found);
    }
    found.sort_unstable();
    found
}

/// A permission as people are shown it.
pub(super) fn permission_name(user: &str, vhost: &str) -> String {
    format!("'{user}' in vhost '{vhost}'")
}

/// Where differences go, and of what they are.
struct Side<'f> {
    kind: ObjectKind,
    vhost: Option<String>,
    found: &'f mut Vec<Difference>,
}

impl Side<'_> {
    fn push(&mut self, name: String, change: Change) {
        self.found.push(Difference {
            kind: self.kind,
            vhost: self.vhost.clone(),
            name,
            change,
        });
    }

    fn compare<K: Ord, V>(
        &mut self,
        left: &BTreeMap<K, V>,
        right: &BTreeMap<K, V>,
        name: impl Fn(&K) -> String,
        differences: impl Fn(&V, &V) -> Vec<String>,
    ) {
        for (key, value) in left {
            match right.get(key) {
                None => self.push(name(key), Change::Removed),
                Some(other) => {
                    let changed = differences(value, other);
                    if !changed.is_empty() {
                        self.push(name(key), Change::Changed(changed));
                    }
                }
            }
        }
        for key in right.keys().filter(|key| !left.contains_key(key)) {
            self.push(name(key), Change::Added);
        }
    }
}

fn contents(
    vhost: &str,
    left: &Contents,
    right: &Contents,
    defaults: &(String, String),
    found: &mut Vec<Difference>,
) {
    let mut side = Side {
        kind: ObjectKind::Exchange,
        vhost: Some(vhost.to_owned()),
        found,
    };
    side.compare(&left.exchanges, &right.exchanges, Clone::clone, exchanges);
    side.kind = ObjectKind::Queue;
    let queues = |left: &QueueDefinition, right: &QueueDefinition| queues(left, right, defaults);
    side.compare(&left.queues, &right.queues, Clone::clone, queues);
    side.kind = ObjectKind::Binding;
    for (key, binding) in &left.bindings {
        if !right.bindings.contains_key(key) {
            side.push(binding.to_string(), Change::Removed);
        }
    }
    for (key, binding) in &right.bindings {
        if !left.bindings.contains_key(key) {
            side.push(binding.to_string(), Change::Added);
        }
    }
}

fn unsupported(left: &Definitions, right: &Definitions, found: &mut Vec<Difference>) {
    let by_name = |side: &Definitions| -> BTreeMap<_, _> {
        let of = |object: &super::interchange::Unsupported| {
            let key = (object.kind, object.vhost.clone(), object.name.clone());
            (key, object.value.clone())
        };
        side.unsupported.iter().map(of).collect()
    };
    let (left, right) = (by_name(left), by_name(right));
    let mut push = |key: &(ObjectKind, Option<String>, String), change| {
        let (kind, vhost, name) = key.clone();
        found.push(Difference {
            kind,
            vhost,
            name,
            change,
        });
    };
    for (key, value) in &left {
        match right.get(key) {
            None => push(key, Change::Removed),
            Some(other) if other != value => {
                push(key, Change::Changed(vec![format!("{value} -> {other}")]));
            }
            Some(_) => {}
        }
    }
    for key in right.keys().filter(|key| !left.contains_key(key)) {
        push(key, Change::Added);
    }
}

fn field<T: PartialEq + Debug>(found: &mut Vec<String>, name: &str, left: &T, right: &T) {
    if left != right {
        found.push(format!("{name}: {left:?} -> {right:?}"));
    }
}

fn users(left: &UserDefinition, right: &UserDefinition) -> Vec<String> {
    let mut found = Vec::new();
    if !left.secret.agrees_with(&right.secret) {
        found.push("password".to_owned());
    }
    field(&mut found, "tags", &left.tags, &right.tags);
    found
}

pub(super) fn vhosts(left: &VhostRow, right: &VhostRow) -> Vec<String> {
    let mut found = Vec::new();
    field(
        &mut found,
        "description",
        &left.description,
        &right.description,
    );
    field(&mut found, "tags", &left.tags, &right.tags);
    let (left, right) = (&left.default_queue_type, &right.default_queue_type);
    field(&mut found, "default_queue_type", left, right);
    found
}

pub(super) fn permissions(left: &PermissionRow, right: &PermissionRow) -> Vec<String> {
    let mut found = Vec::new();
    field(&mut found, "configure", &left.configure, &right.configure);
    field(&mut found, "write", &left.write, &right.write);
    field(&mut found, "read", &left.read, &right.read);
    found
}

fn exchanges(left: &ExchangeDefinition, right: &ExchangeDefinition) -> Vec<String> {
    let mut found = Vec::new();
    field(&mut found, "type", &left.kind, &right.kind);
    field(&mut found, "durable", &left.durable, &right.durable);
    field(
        &mut found,
        "auto_delete",
        &left.auto_delete,
        &right.auto_delete,
    );
    field(&mut found, "internal", &left.internal, &right.internal);
    arguments(&mut found, &left.arguments, &right.arguments);
    found
}

fn queues(
    left: &QueueDefinition,
    right: &QueueDefinition,
    defaults: &(String, String),
) -> Vec<String> {
    let mut found = Vec::new();
    let kind = |queue: &QueueDefinition, default: &String| {
        queue.kind.clone().unwrap_or_else(|| default.clone())
    };
    let kinds = (kind(left, &defaults.0), kind(right, &defaults.1));
    field(&mut found, "type", &kinds.0, &kinds.1);
    field(&mut found, "durable", &left.durable, &right.durable);
    field(
        &mut found,
        "auto_delete",
        &left.auto_delete,
        &right.auto_delete,
    );
    arguments(&mut found, &left.arguments, &right.arguments);
    found
}

fn arguments(
    found: &mut Vec<String>,
    left: &warren_protocol::table::FieldTable,
    right: &warren_protocol::table::FieldTable,
) {
    if left != right {
        let text = super::interchange::arguments_text;
        found.push(format!("arguments: {} -> {}", text(left), text(right)));
    }
}

/// The type of queues that say none.
fn default_type(side: &Definitions, vhost: &str) -> String {
    let default = side
        .vhosts
        .get(vhost)
        .map(|row| row.default_queue_type.as_str());
    match default {
        None | Some("") => "classic".to_owned(),
        Some(kind) => kind.to_owned(),
    }
}

#[cfg(test)]
mod tests;

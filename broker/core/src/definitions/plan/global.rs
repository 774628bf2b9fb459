//! Users, vhosts and permissions.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use warren_cluster_core::rows::{Precondition, RowKey, Transaction, Version, Write};

use super::{Action, Planner, UnitPlan};
use crate::auth::password;
use crate::definitions::interchange::{ObjectKind, Secret, Section, UserDefinition};
use crate::definitions::{
    HashingAlgorithm, PermissionKey, PermissionRow, Store, TopicPermissionKey, UserKey, UserRow,
    VhostKey, VhostRow, diff,
};
use crate::splitmix::mix;
use crate::topology::{Grants, User};

/// Who may do everything; somebody always must.
const ADMINISTRATOR: &str = "administrator";

/// What pruning takes away of the whole cluster.
#[derive(Default)]
pub(super) struct Leaving {
    pub(super) users: BTreeSet<Arc<str>>,
    pub(super) vhosts: BTreeSet<Arc<str>>,
    /// Users that would go, were one of them not the last administrator.
    kept: BTreeSet<Arc<str>>,
}

impl Planner<'_> {
    /// Users and vhosts that the file lacks.
    pub(super) fn leaving(&self) -> Leaving {
        let mut leaving = Leaving::default();
        let file = self.definitions;
        if self.prunes(Section::Vhosts) {
            let vhosts = self.topology.vhosts().map(|vhost| vhost.name());
            let lacking = vhosts.filter(|name| {
                let name: &str = name;
                !file.vhosts.contains_key(name) && !file.contents.contains_key(name)
            });
            leaving.vhosts = lacking.cloned().collect();
        }
        if self.prunes(Section::Users) {
            let users = self.topology.users().map(|user| &user.name);
            let lacking = users.filter(|name| !file.users.contains_key(&***name));
            leaving.users = lacking.cloned().collect();
        }
        if self.loses_administrators(&leaving) {
            let administrates = |name: &Arc<str>| {
                let user = self.topology.user(name);
                user.is_some_and(|user| user.row.has_tag(ADMINISTRATOR))
            };
            leaving.kept = leaving
                .users
                .iter()
                .filter(|name| administrates(name))
                .cloned()
                .collect();
            leaving.users.retain(|name| !administrates(name));
        }
        leaving
    }

    /// Whether there is an administrator now and would be none.
    fn loses_administrators(&self, leaving: &Leaving) -> bool {
        let file = self.definitions;
        let in_file = file
            .users
            .values()
            .any(|user| user.tags.iter().any(|tag| tag == ADMINISTRATOR));
        let stays = |user: &&Arc<User>| {
            !leaving.users.contains(&user.name) && !file.users.contains_key(&*user.name)
        };
        let administrates = |user: &Arc<User>| user.row.has_tag(ADMINISTRATOR);
        let mut left = self.topology.users().filter(stays);
        self.topology.users().any(administrates) && !in_file && !left.any(administrates)
    }

    pub(super) fn global(&self, leaving: &Leaving, unit: &mut UnitPlan) {
        self.unsupported(unit);
        self.users(leaving, unit);
        self.vhost_rows(unit);
        self.permissions(leaving, unit);
        self.leave(leaving, unit);
    }

    fn users(&self, leaving: &Leaving, unit: &mut UnitPlan) {
        let no_administrator = self.loses_administrators(leaving);
        for (at, (name, wanted)) in self.definitions.users.iter().enumerate() {
            let present = self.topology.user(name).map(AsRef::as_ref);
            let (row, changes) = self.user_row(at, wanted, present);
            let row = match row {
                Ok(row) => row,
                Err(cause) => {
                    unit.entry(ObjectKind::User, name, Action::Unsupported, cause);
                    continue;
                }
            };
            let was_administrator = present.is_some_and(|user| user.row.has_tag(ADMINISTRATOR));
            if no_administrator && was_administrator {
                let cause = "no user would be left with the tag 'administrator'";
                unit.entry(ObjectKind::User, name, Action::Conflict, cause);
                continue;
            }
            let key = UserKey { name }.encode();
            let version = present.map(|user| user.version);
            let value = row.encode();
            put(
                unit,
                ObjectKind::User,
                name,
                &changes,
                (key, version, value),
            );
        }
    }

    /// The row that a user is to have, and how it differs from the present one.
    fn user_row(
        &self,
        at: usize,
        wanted: &UserDefinition,
        present: Option<&User>,
    ) -> (Result<UserRow, String>, Vec<String>) {
        let mut changes = Vec::new();
        let (algorithm, password_hash) = match (&wanted.secret, present) {
            (Secret::Hash { algorithm, hash }, _) => (*algorithm, hash.clone()),
            (Secret::Password(password), Some(user))
                if password::check(&user.row, password.as_bytes()).is_ok() =>
            {
                (user.row.algorithm, user.row.password_hash.clone())
            }
            (Secret::Password(password), _) => {
                let algorithm = HashingAlgorithm::default();
                let salt = (mix(self.options.random, at as u64) >> 32) as u32;
                match password::hash(algorithm, salt.to_le_bytes(), password.as_bytes()) {
                    Some(hash) => (algorithm, hash),
                    None => {
                        let cause = format!("{} makes no hashes", algorithm.name());
                        return (Err(cause), changes);
                    }
                }
            }
        };
        let row = UserRow {
            password_hash,
            algorithm,
            tags: wanted.tags.clone(),
            limits: present.map(|user| user.row.limits).unwrap_or_default(),
        };
        if let Some(user) = present {
            let same = user.row.password_hash == row.password_hash;
            if !same || user.row.algorithm != row.algorithm {
                changes.push("password".to_owned());
            }
            let mut tags = user.row.tags.clone();
            tags.sort_unstable();
            if tags != row.tags {
                let joined = |tags: &[String]| tags.join(",");
                let (from, to) = (joined(&tags), joined(&row.tags));
                changes.push(format!("tags: '{from}' -> '{to}'"));
            }
        }
        (Ok(row), changes)
    }

    fn vhost_rows(&self, unit: &mut UnitPlan) {
        for (name, wanted) in &self.definitions.vhosts {
            match &*wanted.default_queue_type {
                "" | "classic" | "quorum" => {}
                other => {
                    let cause = format!("default queue type '{other}' is not supported yet");
                    unit.entry(ObjectKind::Vhost, name, Action::Unsupported, cause);
                    continue;
                }
            }
            let present = self.topology.vhost(name);
            let changes = present.map(|vhost| {
                let mut row: VhostRow = vhost.row().clone();
                row.tags.sort_unstable();
                diff::vhosts(&row, wanted)
            });
            let key = VhostKey { name }.encode();
            let version = present.map(|vhost| vhost.version());
            let value = wanted.encode();
            let changes = changes.unwrap_or_default();
            put(
                unit,
                ObjectKind::Vhost,
                name,
                &changes,
                (key, version, value),
            );
        }
    }

    fn permissions(&self, leaving: &Leaving, unit: &mut UnitPlan) {
        for ((user, vhost), wanted) in &self.definitions.permissions {
            let name = diff::permission_name(user, vhost);
            if let Some(cause) = self.lacks(leaving, user, vhost) {
                unit.entry(ObjectKind::Permission, name, Action::Conflict, cause);
                continue;
            }
            let present = self.topology.permission(user, vhost);
            let changes = present.map(|present| diff::permissions(&present.row, wanted));
            let key = PermissionKey { user, vhost }.encode();
            let version = present.map(|permission| permission.version);
            let value = PermissionRow::encode(wanted);
            let changes = changes.unwrap_or_default();
            let row = (key, version, value);
            put(unit, ObjectKind::Permission, &name, &changes, row);
        }
    }

    /// Why a permission cannot be: its user or its vhost is not there.
    fn lacks(&self, leaving: &Leaving, user: &str, vhost: &str) -> Option<String> {
        let file = self.definitions;
        let has_user = file.users.contains_key(user)
            || (self.topology.user(user).is_some() && !leaving.users.contains(user));
        let has_vhost = file.vhosts.contains_key(vhost)
            || (self.topology.vhost(vhost).is_some() && !leaving.vhosts.contains(vhost));
        match (has_user, has_vhost) {
            (false, _) => Some(format!("user '{user}' not found")),
            (true, false) => Some(format!("vhost '{vhost}' not found")),
            (true, true) => None,
        }
    }

    /// Deletes what the file lacks, and the permissions of users and vhosts that go.
    fn leave(&self, leaving: &Leaving, unit: &mut UnitPlan) {
        let mut grants: Vec<_> = self.topology.all_grants().collect();
        grants.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let prunes = self.prunes(Section::Permissions);
        for (user, vhost, grants) in grants {
            let key = (user.to_string(), vhost.to_string());
            let orphaned = leaving.users.contains(user) || leaving.vhosts.contains(vhost);
            let lacking = prunes && !self.definitions.permissions.contains_key(&key);
            if let Some(permission) = grants.permission()
                && (orphaned || lacking)
                && !leaving.kept.contains(user)
            {
                let name = diff::permission_name(user, vhost);
                let row = PermissionKey { user, vhost }.encode();
                delete(unit, ObjectKind::Permission, name, row, permission.version);
            }
            if orphaned {
                leave_topics(user, vhost, grants, unit);
            }
        }
        for name in &leaving.kept {
            let cause = "the file lacks it; kept, because no administrator would be left";
            unit.entry(ObjectKind::User, &**name, Action::Same, cause);
        }
        for name in &leaving.users {
            if let Some(user) = self.topology.user(name) {
                let row = UserKey { name }.encode();
                delete(unit, ObjectKind::User, &**name, row, user.version);
            }
        }
        for name in &leaving.vhosts {
            if let Some(vhost) = self.topology.vhost(name) {
                let row = VhostKey { name }.encode();
                delete(unit, ObjectKind::Vhost, &**name, row, vhost.version());
            }
        }
    }
}

/// Topic permissions would hold for whoever has the name next.
fn leave_topics(user: &str, vhost: &str, grants: &Grants, unit: &mut UnitPlan) {
    let mut topics: Vec<_> = grants.topics().collect();
    topics.sort_unstable_by(|a, b| a.0.cmp(b.0));
    for (exchange, permission) in topics {
        let key = TopicPermissionKey {
            user,
            vhost,
            exchange,
        };
        let name = format!("{user}/{vhost}/{exchange}");
        let kind = ObjectKind::TopicPermission;
        delete(unit, kind, name, key.encode(), permission.version);
    }
}

/// The entry of an object that is put as it should be, and the write unless it is so already.
fn put(
    unit: &mut UnitPlan,
    kind: ObjectKind,
    name: &str,
    changes: &[String],
    (row, version, value): (RowKey, Option<Version>, Bytes),
) {
    let action = match version {
        None => Action::Create,
        Some(_) if changes.is_empty() => Action::Same,
        Some(_) => Action::Change,
    };
    unit.entry(kind, name, action, changes.join(", "));
    if action == Action::Same {
        return;
    }
    let precondition = match version {
        None => Precondition::Absent(row.clone()),
        Some(version) => Precondition::Unchanged(row.clone(), version),
    };
    let piece = Transaction {
        preconditions: vec![precondition],
        writes: vec![Write::Put { row, value }],
    };
    unit.puts.add(Store::Replicated, piece);
}

fn delete(
    unit: &mut UnitPlan,
    kind: ObjectKind,
    name: impl Into<String>,
    row: RowKey,
    version: Version,
) {
    unit.entry(kind, name, Action::Delete, "");
    let piece = Transaction {
        preconditions: vec![Precondition::Unchanged(row.clone(), version)],
        writes: vec![Write::Delete { row }],
    };
    unit.deletes.add(Store::Replicated, piece);
}

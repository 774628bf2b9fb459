//! The service `Users`: each call is a transaction that depends on the rows it has seen, and is
//! tried again when it lost a race.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use warren_broker_core::auth::access::Pattern;
use warren_broker_core::auth::password;
use warren_broker_core::definitions::interchange::{NAME_BYTES_MAX, TAGS_MAX, TEXT_BYTES_MAX};
use warren_broker_core::definitions::{
    HashingAlgorithm, PermissionKey, PermissionRow, Store, TopicPermissionKey, UserKey, UserRow,
    VhostKey,
};
use warren_broker_core::topology::{Topology, User};
use warren_cluster_core::rows::{Committed, Precondition, RowKey, Transaction, Write};

use super::access::who;
use crate::broker::{Broker, random};
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::users_server::Users;

/// How often a lost race is run again.
const TRIES: usize = 8;

pub(super) struct Service {
    pub(super) broker: Arc<Broker>,
}

impl Service {
    /// Commits what `plan` makes of the topology, again when others were quicker. `None` of it:
    /// there is nothing to do.
    async fn change(
        &self,
        mut plan: impl FnMut(&Topology) -> Result<Option<Transaction>, Status> + Send,
    ) -> Result<(), Status> {
        for _ in 0..TRIES {
            let transaction = plan(&self.broker.topology())?;
            let Some(transaction) = transaction else {
                return Ok(());
            };
            match self.broker.commit(Store::Replicated, transaction).await {
                Some(Committed::Yes { .. }) => return Ok(()),
                Some(Committed::Conflict { .. }) => {}
                None => {
                    let text = "the node takes no changes: it is stopping, or its disk is full";
                    return Err(Status::unavailable(text));
                }
            }
        }
        Err(Status::aborted("others change the same; try again"))
    }

    /// Changes a user's row.
    async fn change_user(
        &self,
        name: &str,
        change: impl Fn(&mut UserRow) + Send + Sync,
    ) -> Result<(), Status> {
        self.change(|topology| {
            let user = user(topology, name)?;
            let mut row = user.row.clone();
            change(&mut row);
            let key = UserKey { name }.encode();
            Ok(Some(Transaction {
                preconditions: vec![Precondition::Unchanged(key.clone(), user.version)],
                writes: vec![put(key, row.encode())],
            }))
        })
        .await
    }
}

#[tonic::async_trait]
impl Users for Service {
    async fn add_user(
        &self,
        request: Request<proto::AddUserRequest>,
    ) -> Result<Response<proto::AddUserResponse>, Status> {
        let who = who(&request)?;
        let proto::AddUserRequest {
            name,
            password,
            tags,
        } = request.into_inner();
        check_name("the user's name", &name)?;
        let tags = checked_tags(tags)?;
        let (password_hash, algorithm) = hashed(&password)?;
        let row = UserRow {
            password_hash,
            algorithm,
            tags,
            ..UserRow::default()
        };
        self.change(|topology| {
            if topology.user(&name).is_some() {
                let text = format!("user '{name}' exists already");
                return Err(Status::already_exists(text));
            }
            let key = UserKey { name: &name }.encode();
            Ok(Some(Transaction {
                preconditions: vec![Precondition::Absent(key.clone())],
                writes: vec![put(key, row.encode())],
            }))
        })
        .await?;
        tracing::info!(user = ?name, tags = ?row.tags, %who, "user added");
        Ok(Response::new(proto::AddUserResponse {}))
    }

    async fn change_password(
        &self,
        request: Request<proto::ChangePasswordRequest>,
    ) -> Result<Response<proto::ChangePasswordResponse>, Status> {
        let who = who(&request)?;
        let proto::ChangePasswordRequest { name, password } = request.into_inner();
        let (hash, algorithm) = hashed(&password)?;
        self.change_user(&name, |row| {
            row.password_hash.clone_from(&hash);
            row.algorithm = algorithm;
        })
        .await?;
        tracing::info!(user = ?name, %who, "password changed");
        Ok(Response::new(proto::ChangePasswordResponse {}))
    }

    async fn delete_user(
        &self,
        request: Request<proto::DeleteUserRequest>,
    ) -> Result<Response<proto::DeleteUserResponse>, Status> {
        let who = who(&request)?;
        let name = request.into_inner().name;
        user(&self.broker.topology(), &name)?;
        // A permission that somebody sets meanwhile is in the next topology, and goes then.
        let mut is_gone = false;
        while !is_gone {
            self.change(|topology| Ok(delete(topology, &name))).await?;
            is_gone = delete(&self.broker.topology(), &name).is_none();
        }
        tracing::info!(user = ?name, %who, "user deleted");
        Ok(Response::new(proto::DeleteUserResponse {}))
    }

    async fn list_users(
        &self,
        _: Request<proto::ListUsersRequest>,
    ) -> Result<Response<proto::ListUsersResponse>, Status> {
        let topology = self.broker.topology();
        let mut users: Vec<_> = topology
            .users()
            .map(|user| proto::User {
                name: user.name.to_string(),
                tags: user.row.tags.clone(),
                has_password: !user.row.password_hash.is_empty(),
            })
            .collect();
        users.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(proto::ListUsersResponse { users }))
    }

    async fn set_tags(
        &self,
        request: Request<proto::SetTagsRequest>,
    ) -> Result<Response<proto::SetTagsResponse>, Status> {
        let who = who(&request)?;
        let proto::SetTagsRequest { name, tags } = request.into_inner();
        let tags = checked_tags(tags)?;
        self.change_user(&name, |row| row.tags.clone_from(&tags))
            .await?;
        tracing::info!(user = ?name, ?tags, %who, "tags set");
        Ok(Response::new(proto::SetTagsResponse {}))
    }

    async fn set_permissions(
        &self,
        request: Request<proto::SetPermissionsRequest>,
    ) -> Result<Response<proto::SetPermissionsResponse>, Status> {
        let who = who(&request)?;
        let Some(permission) = request.into_inner().permission else {
            return Err(Status::invalid_argument("there is no permission"));
        };
        let row = checked_patterns(&permission)?;
        let proto::Permission { user, vhost, .. } = &permission;
        self.change(|topology| {
            self::user(topology, user)?;
            if topology.vhost(vhost).is_none() {
                return Err(Status::not_found(format!("no vhost '{vhost}'")));
            }
            Ok(Some(Transaction {
                preconditions: vec![
                    Precondition::Present(UserKey { name: user }.encode()),
                    Precondition::Present(VhostKey { name: vhost }.encode()),
                ],
                writes: vec![put(PermissionKey { user, vhost }.encode(), row.encode())],
            }))
        })
        .await?;
        tracing::info!(?user, ?vhost, permission = ?row, %who, "permissions set");
        Ok(Response::new(proto::SetPermissionsResponse {}))
    }

    async fn clear_permissions(
        &self,
        request: Request<proto::ClearPermissionsRequest>,
    ) -> Result<Response<proto::ClearPermissionsResponse>, Status> {
        let who = who(&request)?;
        let proto::ClearPermissionsRequest { user, vhost } = request.into_inner();
        self.change(|topology| {
            let Some(permission) = topology.permission(&user, &vhost) else {
                let text = format!("user '{user}' has no permissions in vhost '{vhost}'");
                return Err(Status::not_found(text));
            };
            let (user, vhost) = (&*user, &*vhost);
            let row = PermissionKey { user, vhost }.encode();
            Ok(Some(Transaction {
                preconditions: vec![Precondition::Unchanged(row.clone(), permission.version)],
                writes: vec![Write::Delete { row }],
            }))
        })
        .await?;
        tracing::info!(?user, ?vhost, %who, "permissions cleared");
        Ok(Response::new(proto::ClearPermissionsResponse {}))
    }

    async fn list_permissions(
        &self,
        request: Request<proto::ListPermissionsRequest>,
    ) -> Result<Response<proto::ListPermissionsResponse>, Status> {
        let wanted = request.into_inner();
        let topology = self.broker.topology();
        let is_wanted = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let mut permissions: Vec<_> = topology
            .all_grants()
            .filter(|(user, vhost, _)| {
                is_wanted(&wanted.user, user) && is_wanted(&wanted.vhost, vhost)
            })
            .filter_map(|(user, vhost, grants)| {
                let row = &grants.permission()?.row;
                Some(proto::Permission {
                    user: user.to_string(),
                    vhost: vhost.to_string(),
                    configure: row.configure.clone(),
                    write: row.write.clone(),
                    read: row.read.clone(),
                })
            })
            .collect();
        permissions.sort_unstable_by(|a, b| (&a.user, &a.vhost).cmp(&(&b.user, &b.vhost)));
        Ok(Response::new(proto::ListPermissionsResponse {
            permissions,
        }))
    }
}

fn user<'t>(topology: &'t Topology, name: &str) -> Result<&'t Arc<User>, Status> {
    let user = topology.user(name);
    user.ok_or_else(|| Status::not_found(format!("no user '{name}'")))
}

/// Deletes a user and what it may do; `None` when nothing is left of it.
fn delete(topology: &Topology, name: &str) -> Option<Transaction> {
    let mut transaction = Transaction::default();
    for (user, vhost, grants) in topology.all_grants() {
        if **user != *name {
            continue;
        }
        let (user, vhost) = (&**user, &**vhost);
        let topics = grants.topics().map(|(exchange, _)| {
            let key = TopicPermissionKey {
                user,
                vhost,
                exchange,
            };
            key.encode()
        });
        let permission = grants.permission();
        let permission = permission.map(|_| PermissionKey { user, vhost }.encode());
        let gone = topics.chain(permission).map(|row| Write::Delete { row });
        transaction.writes.extend(gone);
    }
    if let Some(user) = topology.user(name) {
        let row = UserKey { name }.encode();
        let precondition = Precondition::Unchanged(row.clone(), user.version);
        transaction.preconditions.push(precondition);
        transaction.writes.push(Write::Delete { row });
    }
    (!transaction.writes.is_empty()).then_some(transaction)
}

fn put(row: RowKey, value: bytes::Bytes) -> Write {
    Write::Put { row, value }
}

fn check_name(what: &str, name: &str) -> Result<(), Status> {
    if name.is_empty() {
        return Err(Status::invalid_argument(format!("{what} is empty")));
    }
    if name.len() > NAME_BYTES_MAX {
        let text = format!("{what} has more than {NAME_BYTES_MAX} bytes");
        return Err(Status::invalid_argument(text));
    }
    if name.chars().any(char::is_control) {
        let text = format!("{what} has control characters");
        return Err(Status::invalid_argument(text));
    }
    Ok(())
}

/// In order, each once.
fn checked_tags(mut tags: Vec<String>) -> Result<Vec<String>, Status> {
    if tags.len() > TAGS_MAX {
        let text = format!("there are more than {TAGS_MAX} tags");
        return Err(Status::invalid_argument(text));
    }
    for tag in &tags {
        check_name("a tag", tag)?;
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

fn hashed(password: &str) -> Result<(Vec<u8>, HashingAlgorithm), Status> {
    if password.is_empty() {
        return Err(Status::invalid_argument("the password is empty"));
    }
    if password.len() > TEXT_BYTES_MAX {
        return Err(Status::invalid_argument("the password is too long"));
    }
    let algorithm = HashingAlgorithm::default();
    let salt = (random() as u32).to_le_bytes();
    let hash = password::hash(algorithm, salt, password.as_bytes());
    let hash = hash.ok_or_else(|| Status::internal("the default hash algorithm is not there"))?;
    Ok((hash, algorithm))
}

fn checked_patterns(permission: &proto::Permission) -> Result<PermissionRow, Status> {
    let proto::Permission {
        configure,
        write,
        read,
        ..
    } = permission;
    for (what, pattern) in [("configure", configure), ("write", write), ("read", read)] {
        if pattern.len() > TEXT_BYTES_MAX || !Pattern::is_valid(pattern) {
            let text = format!("{what}: '{pattern}' is not a regular expression that can be used");
            return Err(Status::invalid_argument(text));
        }
    }
    Ok(PermissionRow {
        configure: configure.clone(),
        write: write.clone(),
        read: read.clone(),
    })
}

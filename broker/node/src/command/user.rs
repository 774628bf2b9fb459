//! `warren user`: who may log in, and what they may do.

use clap::Subcommand;
use serde_json::json;

use super::client::{self, Connection, Target, refused};
use super::output;
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::users_client::UsersClient;

/// Users and their permissions.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Add a user. The password is asked for, or is a line of standard input.
    Add {
        name: String,
        /// A tag, such as administrator; may be given more than once.
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
    },
    /// Give a user another password. It is asked for, or is a line of standard input.
    Password { name: String },
    /// Delete a user, with all permissions.
    Delete { name: String },
    /// List the users.
    List,
    /// Set a user's tags, in place of those that there are.
    Tags { name: String, tags: Vec<String> },
    /// What users may do.
    #[command(subcommand)]
    Permissions(Permissions),
}

#[derive(Subcommand)]
enum Permissions {
    /// Set what a user may do in a vhost: expressions that names must match.
    Set {
        name: String,
        #[arg(long, value_name = "NAME", default_value = "/")]
        vhost: String,
        #[arg(long, value_name = "REGEX", default_value = "")]
        configure: String,
        #[arg(long, value_name = "REGEX", default_value = "")]
        write: String,
        #[arg(long, value_name = "REGEX", default_value = "")]
        read: String,
    },
    /// Take away what a user may do in a vhost.
    Clear {
        name: String,
        #[arg(long, value_name = "NAME", default_value = "/")]
        vhost: String,
    },
    /// List permissions.
    List {
        /// Of this user alone.
        name: Option<String>,
        /// In this vhost alone.
        #[arg(long, value_name = "NAME")]
        vhost: Option<String>,
    },
}

/// Does it; gives the exit code.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { target, verb } = arguments;
    client::run(async {
        let is_json = target.json;
        match verb {
            Verb::Add { name, tags } => {
                let password = client::new_password()?;
                let request = proto::AddUserRequest {
                    name,
                    password,
                    tags,
                };
                let mut users = connect(&target).await?;
                users.add_user(request).await.map_err(refused)?;
            }
            Verb::Password { name } => {
                let password = client::new_password()?;
                let request = proto::ChangePasswordRequest { name, password };
                let mut users = connect(&target).await?;
                users.change_password(request).await.map_err(refused)?;
            }
            Verb::Delete { name } => {
                let request = proto::DeleteUserRequest { name };
                let mut users = connect(&target).await?;
                users.delete_user(request).await.map_err(refused)?;
            }
            Verb::List => list(&mut connect(&target).await?, is_json).await?,
            Verb::Tags { name, tags } => {
                let request = proto::SetTagsRequest { name, tags };
                let mut users = connect(&target).await?;
                users.set_tags(request).await.map_err(refused)?;
            }
            Verb::Permissions(verb) => {
                let mut users = connect(&target).await?;
                permissions(&mut users, verb, is_json).await?;
            }
        }
        Ok(0)
    })
}

async fn connect(target: &Target) -> anyhow::Result<UsersClient<Connection>> {
    Ok(UsersClient::new(target.connect().await?))
}

async fn list(users: &mut UsersClient<Connection>, is_json: bool) -> anyhow::Result<()> {
    let answer = users.list_users(proto::ListUsersRequest {}).await;
    let found = answer.map_err(refused)?.into_inner().users;
    if is_json {
        let of = |user: &proto::User| {
            json!({
                "name": user.name,
                "tags": user.tags,
                "has_password": user.has_password,
            })
        };
        output::json(&found.iter().map(of).collect())?;
        return Ok(());
    }
    let rows = found.into_iter().map(|user| {
        let password = if user.has_password { "yes" } else { "no" };
        [user.name, user.tags.join(", "), password.to_owned()]
    });
    Ok(output::table(["NAME", "TAGS", "PASSWORD"], rows)?)
}

async fn permissions(
    users: &mut UsersClient<Connection>,
    verb: Permissions,
    is_json: bool,
) -> anyhow::Result<()> {
    let (name, vhost) = match verb {
        Permissions::Set {
            name,
            vhost,
            configure,
            write,
            read,
        } => {
            let permission = Some(proto::Permission {
                user: name,
                vhost,
                configure,
                write,
                read,
            });
            let request = proto::SetPermissionsRequest { permission };
            users.set_permissions(request).await.map_err(refused)?;
            return Ok(());
        }
        Permissions::Clear { name, vhost } => {
            let request = proto::ClearPermissionsRequest { user: name, vhost };
            users.clear_permissions(request).await.map_err(refused)?;
            return Ok(());
        }
        Permissions::List { name, vhost } => (name, vhost),
    };
    let request = proto::ListPermissionsRequest {
        user: name.unwrap_or_default(),
        vhost: vhost.unwrap_or_default(),
    };
    let answer = users.list_permissions(request).await;
    let found = answer.map_err(refused)?.into_inner().permissions;
    if is_json {
        let of = |permission: &proto::Permission| {
            json!({
                "user": permission.user,
                "vhost": permission.vhost,
                "configure": permission.configure,
                "write": permission.write,
                "read": permission.read,
            })
        };
        output::json(&found.iter().map(of).collect())?;
        return Ok(());
    }
    let rows = found.into_iter().map(|permission| {
        [
            permission.user,
            permission.vhost,
            permission.configure,
            permission.write,
            permission.read,
        ]
    });
    let head = ["USER", "VHOST", "CONFIGURE", "WRITE", "READ"];
    Ok(output::table(head, rows)?)
}

//! Users and permissions.

use std::net::{IpAddr, Ipv4Addr};

use tonic::Code;

use super::*;
use crate::proto::admin_v1::users_client::UsersClient;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn add(name: &str, password: &str, tags: &[&str]) -> proto::AddUserRequest {
    proto::AddUserRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        tags: tags.iter().map(ToString::to_string).collect(),
    }
}

fn permit(user: &str, vhost: &str, read: &str) -> proto::SetPermissionsRequest {
    proto::SetPermissionsRequest {
        permission: Some(proto::Permission {
            user: user.to_owned(),
            vhost: vhost.to_owned(),
            configure: String::new(),
            write: "^w".to_owned(),
            read: read.to_owned(),
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_from_beginning_to_end() {
    let node = Node::start(|_| {}).await;
    let mut users = UsersClient::new(node.admin().await);
    let request = add("bob", "one", &["b", "a", "b"]);
    users.add_user(request).await.expect("adds");
    assert!(node.broker.log_in("bob", b"one", HERE).is_ok());
    let again = users.add_user(add("bob", "two", &[])).await;
    assert_eq!(again.expect_err("is there").code(), Code::AlreadyExists);
    let request = proto::ChangePasswordRequest {
        name: "bob".to_owned(),
        password: "two".to_owned(),
    };
    users.change_password(request).await.expect("changes");
    assert!(node.broker.log_in("bob", b"one", HERE).is_err());
    assert!(node.broker.log_in("bob", b"two", HERE).is_ok());
    let listed = users.list_users(proto::ListUsersRequest {}).await;
    let listed = listed.expect("lists").into_inner().users;
    let bob = proto::User {
        name: "bob".to_owned(),
        tags: vec!["a".to_owned(), "b".to_owned()],
        has_password: true,
    };
    assert_eq!(listed.first(), Some(&bob));
    assert_eq!(listed.len(), 2);
    let set = users.set_permissions(permit("bob", "/", "r+")).await;
    set.expect("sets");
    let of_bob = proto::ListPermissionsRequest {
        user: "bob".to_owned(),
        vhost: String::new(),
    };
    let listed = users.list_permissions(of_bob.clone()).await;
    let listed = listed.expect("lists").into_inner().permissions;
    assert_eq!(listed, [permit("bob", "/", "r+").permission.expect("one")]);
    let name = "bob".to_owned();
    let deleted = users.delete_user(proto::DeleteUserRequest { name }).await;
    deleted.expect("deletes");
    assert!(node.broker.log_in("bob", b"two", HERE).is_err());
    let listed = users.list_permissions(of_bob).await;
    assert_eq!(listed.expect("lists").into_inner().permissions, []);
    // A new user of that name begins with nothing.
    users.add_user(add("bob", "x", &[])).await.expect("adds");
    assert!(node.broker.topology().permission("bob", "/").is_none());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let node = Node::start(|_| {}).await;
    let mut users = UsersClient::new(node.admin().await);
    let before = node.version();
    let long = "x".repeat(256);
    for request in [
        add("", "x", &[]),
        add(&long, "x", &[]),
        add("a\nb", "x", &[]),
        add("bob", "", &[]),
        add("bob", "x", &[""]),
    ] {
        let refused = users.add_user(request).await.expect_err("is refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let name = || "nobody".to_owned();
    let request = proto::ChangePasswordRequest {
        name: name(),
        password: "x".to_owned(),
    };
    let clear = proto::ClearPermissionsRequest {
        user: "guest".to_owned(),
        vhost: "elsewhere".to_owned(),
    };
    let tags = Vec::new();
    let set = proto::SetTagsRequest { name: name(), tags };
    let missing = [
        users.change_password(request).await.map(drop),
        users.set_tags(set).await.map(drop),
        users
            .delete_user(proto::DeleteUserRequest { name: name() })
            .await
            .map(drop),
        users
            .set_permissions(permit("nobody", "/", ""))
            .await
            .map(drop),
        users
            .set_permissions(permit("guest", "elsewhere", ""))
            .await
            .map(drop),
        users.clear_permissions(clear).await.map(drop),
    ];
    for answer in missing {
        let refused = answer.expect_err("is refused");
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
    let wrong = users.set_permissions(permit("guest", "/", "(")).await;
    let wrong = wrong.expect_err("is no expression");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains("read: '('"), "{wrong}");
    assert_eq!(node.version(), before);
    node.stop().await;
}

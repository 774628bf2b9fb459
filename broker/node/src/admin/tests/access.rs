//! Who is let in.

use std::sync::Arc;

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use warren_cluster::tls::{Credentials, admin_client, user_client};

use super::*;
use crate::proto::admin_v1::backup_client::BackupClient;
use crate::proto::admin_v1::users_client::UsersClient;

const LIST: proto::ListUsersRequest = proto::ListUsersRequest {};

async fn add(node: &Node, name: &str, tags: &[&str]) {
    let request = proto::AddUserRequest {
        name: name.to_owned(),
        password: format!("{name}'s"),
        tags: tags.iter().map(ToString::to_string).collect(),
    };
    let added = UsersClient::new(node.admin().await).add_user(request).await;
    added.expect("adds");
}

fn services() -> ServerReflectionRequest {
    ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_nothing_answers() {
    let node = Node::start(|_| {}).await;
    let keys = node.files().node().expect("reads").expect("is there");
    let anonymous = user_client(&keys.authority).expect("a client");
    let credentials = Arc::new(Credentials::new(&keys).expect("credentials"));
    let as_node = credentials.grpc_to(None).expect("a client");
    for (dial, why) in [(anonymous, "is needed"), (as_node, "no administrator's")] {
        let channel = node.channel(&dial).await.expect("connects");
        let users = UsersClient::new(channel.clone()).list_users(LIST).await;
        let refused = users.expect_err("is refused");
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains(why), "{refused}");
        let backups = BackupClient::new(channel.clone())
            .list(proto::ListRequest {})
            .await;
        let file = DefinitionsClient::new(channel.clone())
            .export(proto::ExportRequest::default())
            .await;
        let health = HealthClient::new(channel.clone())
            .check(HealthCheckRequest::default())
            .await;
        let reflection = ServerReflectionClient::new(channel.clone())
            .server_reflection_info(tokio_stream::iter([services()]))
            .await;
        let codes = [
            backups.expect_err("is refused").code(),
            file.map(drop).expect_err("is refused").code(),
            health.expect_err("is refused").code(),
            reflection.map(drop).expect_err("is refused").code(),
        ];
        assert_eq!(codes, [Code::Unauthenticated; 4]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_need_their_password_and_the_tag() {
    let node = Node::start(|config| config.loopback_users.clear()).await;
    add(&node, "ann", &["administrator"]).await;
    add(&node, "mon", &["monitoring", "management"]).await;
    let keys = node.files().node().expect("reads").expect("is there");
    let dial = user_client(&keys.authority).expect("a client");
    let mut users = UsersClient::new(node.channel(&dial).await.expect("connects"));
    let cases = [
        ("ann", "ann's", None),
        ("guest", "guest", None),
        ("ann", "wrong", Some(Code::Unauthenticated)),
        ("ann", "", Some(Code::Unauthenticated)),
        ("nobody", "wrong", Some(Code::Unauthenticated)),
        ("mon", "mon's", Some(Code::PermissionDenied)),
        ("mon", "wrong", Some(Code::Unauthenticated)),
    ];
    let mut texts = Vec::new();
    for (name, password, code) in cases {
        let answer = users.list_users(from_user(LIST, name, password)).await;
        let refused = answer.err();
        assert_eq!(refused.as_ref().map(Status::code), code, "{name}");
        if let Some(status) = refused.filter(|_| code == Some(Code::Unauthenticated)) {
            texts.push(status.message().to_owned());
        }
    }
    // Nobody learns who exists.
    texts.dedup();
    assert_eq!(texts, ["wrong user or password"]);
    // What no longer holds is noticed at once.
    let tags = Vec::new();
    let name = "ann".to_owned();
    let mut admin = UsersClient::new(node.admin().await);
    let set = admin.set_tags(proto::SetTagsRequest { name, tags }).await;
    set.expect("sets");
    let refused = users.list_users(from_user(LIST, "ann", "ann's")).await;
    assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_administrator_is_not_let_in() {
    let (node, other) = (Node::start(|_| {}).await, Node::start(|_| {}).await);
    let keys = other.files().admin().expect("reads").expect("is there");
    let dial = admin_client(&keys).expect("a client");
    // It does not believe the node, and the node would not believe it.
    assert!(node.channel(&dial).await.is_err());
    node.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_see_health_and_services() {
    let node = Node::start(|_| {}).await;
    let channel = node.admin().await;
    let mut health = HealthClient::new(channel.clone());
    let check = HealthCheckRequest {
        service: String::new(),
    };
    let state = health.check(check).await.expect("answers").into_inner();
    assert_eq!(state.status().as_str_name(), "SERVING");
    let mut reflection = ServerReflectionClient::new(channel);
    let answer = reflection
        .server_reflection_info(tokio_stream::iter([services()]))
        .await;
    let mut stream = answer.expect("answers").into_inner();
    let message = stream.message().await.expect("goes on").expect("answers");
    let Some(MessageResponse::ListServicesResponse(list)) = message.message_response else {
        panic!("{message:?}");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|found| found.name).collect();
    names.sort_unstable();
    names.retain(|name| name.starts_with("warren.") || name.contains("health"));
    let wanted = [
        "grpc.health.v1.Health",
        "warren.admin.v1.Backup",
        "warren.admin.v1.Cluster",
        "warren.admin.v1.Definitions",
        "warren.admin.v1.Users",
    ];
    assert_eq!(names, wanted);
    node.stop().await;
}

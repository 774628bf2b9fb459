//! Backups: made, verified, tampered with, restored.

use std::fs;

use tonic::Code;

use super::*;
use crate::proto::admin_v1::backup_client::BackupClient;

async fn client(node: &Node) -> BackupClient<Channel> {
    BackupClient::new(node.admin().await)
}

async fn create(node: &Node) -> proto::BackupInfo {
    let made = client(node).await.create(proto::CreateRequest {}).await;
    made.expect("makes").into_inner().backup.expect("tells")
}

async fn list(node: &Node) -> Vec<proto::BackupInfo> {
    let listed = client(node).await.list(proto::ListRequest {}).await;
    listed.expect("lists").into_inner().backups
}

async fn verify(node: &Node, name: &str) -> Result<Vec<String>, Status> {
    let name = name.to_owned();
    let request = proto::VerifyRequest { name };
    let verified = client(node).await.verify(request).await?;
    Ok(verified.into_inner().faults)
}

async fn restore(node: &Node, name: &str, prune: bool) -> Result<Imported, Status> {
    let request = proto::RestoreRequest {
        name: name.to_owned(),
        dry_run: false,
        prune,
    };
    let answer = client(node).await.restore(request).await?;
    imported(answer.into_inner()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_backed_up_can_be_restored() {
    let node = Node::start(|_| {}).await;
    node.import(FIXTURE, proto::ImportOptions::default())
        .await
        .expect("imports");
    let before = node.export("").await;
    let made = create(&node).await;
    assert_eq!(list(&node).await, std::slice::from_ref(&made));
    assert_eq!(verify(&node, &made.name).await.expect("reads"), [""; 0]);
    let empty = br#"{"users":[],"vhosts":[{"name":"/"}],"permissions":[],"exchanges":[],
        "queues":[],"bindings":[]}"#;
    let prune = proto::ImportOptions {
        prune: true,
        ..proto::ImportOptions::default()
    };
    let pruned = node.import(empty, prune).await.expect("imports");
    assert!(pruned.result.deleted > 20, "{:?}", pruned.result);
    assert_ne!(node.export("").await, before);
    let restored = restore(&node, &made.name, true).await.expect("restores");
    assert_eq!(restored.result.blocked, []);
    assert_eq!(node.export("").await, before);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_backup_is_said() {
    let node = Node::start(|_| {}).await;
    let name = create(&node).await.name;
    let folder = node.data().join("backups").join(&name);
    let (file, manifest) = (
        folder.join("definitions.json"),
        folder.join("manifest.json"),
    );
    let (file_bytes, manifest_bytes) = (
        fs::read(&file).expect("reads"),
        fs::read(&manifest).expect("reads"),
    );
    let half = &file_bytes[..file_bytes.len() / 2];
    let text = String::from_utf8(file_bytes.clone()).expect("is text");
    let other_user = text.replace("guest", "quest").into_bytes();
    let more = [&file_bytes[..], b" "].concat();
    let manifest_text = String::from_utf8(manifest_bytes.clone()).expect("is text");
    let other_sum = manifest_text.replace("\"objects\": 3", "\"objects\": 4");
    let cases: [(&Path, Option<&[u8]>, &str); 7] = [
        (&file, Some(half), "cut short"),
        (&file, Some(&other_user), "definitions.json was changed"),
        (&file, Some(&more), "1 bytes more"),
        (&file, None, "definitions.json is missing"),
        (&manifest, Some(b"{"), "manifest.json cannot be read"),
        (
            &manifest,
            Some(other_sum.as_bytes()),
            "manifest.json was changed",
        ),
        (&manifest, None, "manifest.json is missing"),
    ];
    let before = node.version();
    for (path, contents, fault) in cases {
        match contents {
            Some(contents) => fs::write(path, contents).expect("writes"),
            None => fs::remove_file(path).expect("removes"),
        }
        let faults = verify(&node, &name).await.expect("reads");
        assert!(faults.iter().any(|said| said.contains(fault)), "{faults:?}");
        let refused = restore(&node, &name, false).await.map(|_| ());
        let refused = refused.expect_err("is refused");
        assert_eq!(refused.code(), Code::DataLoss, "{refused}");
        assert!(refused.message().contains(fault), "{refused}");
        fs::write(&file, &file_bytes).expect("writes");
        fs::write(&manifest, &manifest_bytes).expect("writes");
    }
    assert_eq!(node.version(), before);
    assert_eq!(verify(&node, &name).await.expect("reads"), [""; 0]);
    for (name, code) in [
        ("../data", Code::InvalidArgument),
        ("/etc", Code::InvalidArgument),
        ("warren-x-20261128T042114.123Z", Code::NotFound),
    ] {
        let refused = verify(&node, name).await.expect_err("is refused");
        assert_eq!(refused.code(), code);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_backups_go_after_a_newer_one_is_verified() {
    let node = Node::start(|_| {}).await;
    let folder = node.data().join("backups");
    let made = create(&node).await.name;
    let other = Node::start(|_| {}).await;
    let foreign = create(&other).await.name;
    // The same files under an older name and time, as this and as another cluster made them.
    let aged = |from: &Path, stamp: &str| {
        let to = folder.join(format!("warren-aged-{stamp}"));
        crate::backup::age(from, &to, 1_000_000_000_000);
    };
    aged(&folder.join(&made), "20010909T014640.000Z");
    let foreign = other.data().join("backups").join(foreign);
    aged(&foreign, "20010909T014641.000Z");
    // What an interrupted one left behind.
    let id = node.files().node().expect("reads").expect("there").cluster;
    let part = folder.join(format!(".part-{id}-20010909T014640.000Z"));
    fs::create_dir(&part).expect("makes");
    assert_eq!(list(&node).await.len(), 3);
    let newest = create(&node).await.name;
    let names: Vec<_> = list(&node)
        .await
        .into_iter()
        .map(|found| found.name)
        .collect();
    let kept = "warren-aged-20010909T014641.000Z".to_owned();
    assert_eq!(names, [kept, made, newest], "the other cluster's stays");
    assert!(!part.exists());
    node.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be_made_leaves_nothing() {
    let mut place = PathBuf::new();
    let node = Node::start(|config| {
        place = config.data_dir.with_extension("backups");
        config.backup_folder = Some(place.clone());
    })
    .await;
    fs::write(&place, b"a file where the folder should be").expect("writes");
    let refused = client(&node).await.create(proto::CreateRequest {}).await;
    let refused = refused.expect_err("is refused");
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("backups"), "{refused}");
    fs::remove_file(&place).expect("removes");
    // One at a time: who comes second is told of the first.
    let held = node.backups.slot().take("a backup", "the schedule");
    let busy = client(&node).await.create(proto::CreateRequest {}).await;
    let busy = busy.expect_err("is refused");
    assert_eq!(busy.code(), Code::Aborted);
    assert!(busy.message().contains("the schedule"), "{busy}");
    drop(held);
    let name = create(&node).await.name;
    assert!(place.join(name).is_dir());
    node.stop().await;
}

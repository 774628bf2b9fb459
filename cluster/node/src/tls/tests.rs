//! Who is let in: handshakes between configurations, in memory.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustls::{ClientConnection, ServerConnection};
use warren_cluster_core::ids::{NodeId, Time};

use super::*;
use crate::testing::{Folder, wall_clock};
use verify::explain_tls;

const CLUSTER: ClusterId = ClusterId(0xc1);
const DAY_MS: u64 = 24 * 3_600_000;

fn authority(cluster: ClusterId) -> Authority {
    Authority::generate(cluster, wall_clock()).expect("an authority")
}

fn keys(authority: &Authority, node: u64) -> NodeKeys {
    keys_at(authority, node, wall_clock(), DAY_MS)
}

fn keys_at(authority: &Authority, node: u64, now: Time, life_ms: u64) -> NodeKeys {
    let key = Key::generate().expect("a key");
    let request = SignRequest::parse(&key.sign_request().expect("a request")).expect("parses");
    let signed = authority.sign_node(NodeId(node), &request, now, life_ms);
    let certificate = signed.expect("signs");
    NodeKeys::new(authority.certificate().clone(), certificate, key).expect("belongs together")
}

fn credentials(keys: &NodeKeys) -> Credentials {
    Credentials::new(keys).expect("credentials")
}

/// Both sides' view of a handshake: the client's, and what the server takes the client for.
fn handshake(server: &Credentials, dial: &Dial) -> Result<Option<Name>, String> {
    let config = server.server().expect("a server");
    let mut server = ServerConnection::new(config).expect("a server");
    let mut client =
        ClientConnection::new(dial.config.clone(), dial.name.clone()).expect("a client");
    let mut wire = Vec::new();
    while server.is_handshaking() || client.is_handshaking() || client.wants_write() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("into memory");
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("from memory");
            server
                .process_new_packets()
                .map_err(|e| format!("server: {}", explain_tls(&e)))?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("into memory");
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).expect("from memory");
            client
                .process_new_packets()
                .map_err(|e| format!("client: {}", explain_tls(&e)))?;
        }
    }
    let shown = server.peer_certificates().and_then(<[_]>::first);
    Ok(shown.map(|shown| name_of(shown).expect("verified")))
}

#[track_caller]
fn refused(server: &Credentials, dial: &Dial, by: &str, why: &str) {
    let error = handshake(server, dial).expect_err("refused");
    assert!(error.starts_with(by), "{error}");
    assert!(error.contains(why), "{error}");
}

#[test]
fn nodes_of_a_cluster_know_each_other_by_id() {
    let authority = authority(CLUSTER);
    let (one, two) = (keys(&authority, 1), keys(&authority, 2));
    let (one, two) = (credentials(&one), credentials(&two));
    let seen = handshake(&two, &one.link_to(NodeId(2)).expect("a dial"));
    let node = NodeId(1);
    let cluster = CLUSTER;
    assert_eq!(seen, Ok(Some(Name::Node { node, cluster })));
    let any = one.grpc_to(None).expect("a dial");
    assert!(handshake(&two, &any).is_ok());
    let wrong = one.link_to(NodeId(3)).expect("a dial");
    refused(&two, &wrong, "client", "reached node 2, not node 3");
}

#[test]
fn strangers_and_other_clusters_are_refused() {
    let (ours, theirs) = (authority(CLUSTER), authority(ClusterId(0xc2)));
    // Same cluster id, another authority: what somebody would make who knows the id.
    let forged = authority(CLUSTER);
    let one = credentials(&keys(&ours, 1));
    for other in [&theirs, &forged] {
        let other = credentials(&keys(other, 2));
        let dial = other.link_to(NodeId(1)).expect("a dial");
        refused(&one, &dial, "client", "certificate");
        let dial = one.link_to(NodeId(2)).expect("a dial");
        refused(&other, &dial, "client", "certificate");
    }
    // One that believes everybody is stopped by the server.
    let shown = keys(&ours, 1);
    let mut dial = credentials(&keys(&theirs, 1))
        .link_to(NodeId(1))
        .expect("a dial");
    let pin = CertificatePin(Fingerprint::of(&shown.certificate));
    let mut config = (*dial.config).clone();
    config.dangerous().set_certificate_verifier(Arc::new(pin));
    dial.config = Arc::new(config);
    refused(&credentials(&shown), &dial, "server", "UnknownIssuer");
}

#[test]
fn a_certificate_of_our_authority_with_another_clusters_name_is_refused() {
    // An authority that signs for a cluster that is not its own: only the name tells.
    let ours = authority(CLUSTER);
    let key = Key::from_pem(&ours.key_to_pem()).expect("its key");
    let rogue = Authority::new(ClusterId(0xbad), ours.certificate().clone(), key).expect("takes");
    let (one, rogue) = (credentials(&keys(&ours, 1)), keys(&rogue, 2));
    let dial = one.grpc_to(None).expect("a dial");
    refused(&credentials(&rogue), &dial, "client", "is of cluster");
}

#[test]
fn administrators_are_no_nodes_and_nodes_no_administrators() {
    let authority = authority(CLUSTER);
    let one = credentials(&keys(&authority, 1));
    let admin = authority.issue_admin(wall_clock(), DAY_MS).expect("issues");
    let dial = admin_client(&admin).expect("a dial");
    let cluster = CLUSTER;
    assert_eq!(handshake(&one, &dial), Ok(Some(Name::Admin { cluster })));
    let error = NodeKeys::new(admin.authority, admin.certificate, admin.key);
    let error = error.expect_err("not a node's").to_string();
    assert!(error.contains("administrator"), "{error}");
}

#[test]
fn joiners_pin_the_authority() {
    let authority = authority(CLUSTER);
    let one = credentials(&keys(&authority, 1));
    let dial = |fingerprint, cluster| {
        let pin = AuthorityPin {
            cluster,
            fingerprint,
        };
        Dial::anonymous(Arc::new(pin), cluster).expect("a dial")
    };
    let good = dial(authority.fingerprint(), CLUSTER);
    assert_eq!(handshake(&one, &good), Ok(None));
    let wrong = dial(Fingerprint([0; 32]), CLUSTER);
    refused(&one, &wrong, "client", "fingerprint");
    let wrong = dial(authority.fingerprint(), ClusterId(5));
    refused(&one, &wrong, "client", "is of cluster");
}

#[test]
fn certificates_count_for_their_time_alone() {
    let authority = authority(CLUSTER);
    let one = credentials(&keys(&authority, 1));
    let old = keys_at(&authority, 2, Time(wall_clock().0 - 2 * DAY_MS), DAY_MS);
    let dial = one.link_to(NodeId(2)).expect("a dial");
    refused(&credentials(&old), &dial, "client", "expired");
    // A clock that is behind by less than an hour does no harm.
    let ahead = keys_at(&authority, 2, Time(wall_clock().0 + 50 * 60_000), DAY_MS);
    assert!(handshake(&credentials(&ahead), &dial).is_ok());
}

#[test]
fn a_certificate_is_renewed_in_place() {
    let authority = authority(CLUSTER);
    let start = Time(wall_clock().0 / 1000 * 1000);
    let one = keys_at(&authority, 1, start, 3 * DAY_MS);
    let shown = credentials(&one);
    assert_eq!(shown.renew_at(), Time(start.0 + 2 * DAY_MS));
    let two = credentials(&keys(&authority, 2));
    let renewed = keys_at(&authority, 1, Time(start.0 + 2 * DAY_MS), 3 * DAY_MS);
    let dial = shown.link_to(NodeId(2)).expect("a dial");
    assert!(handshake(&two, &dial).is_ok());
    shown.replace(&renewed).expect("replaces");
    assert_eq!(shown.renew_at(), Time(start.0 + 4 * DAY_MS));
    // Not valid yet: so the dial that was made before shows the new one.
    refused(&two, &dial, "server", "not valid yet");
    let other = shown
        .replace(&keys(&authority, 3))
        .expect_err("another node's");
    assert!(other.to_string().contains("node 3"), "{other}");
}

#[test]
fn requests_are_only_keys() {
    let authority = authority(CLUSTER);
    assert!(SignRequest::parse(b"").is_err());
    let key = Key::generate().expect("a key");
    let mut request = key.sign_request().expect("a request");
    assert!(SignRequest::parse(&request).is_ok());
    let last = request.len() - 1;
    request[last] ^= 1;
    assert!(SignRequest::parse(&request).is_err(), "a forged signature");
    request[last] ^= 1;
    let request = SignRequest::parse(&request).expect("parses");
    for id in [0, 65_536] {
        assert!(
            authority
                .sign_node(NodeId(id), &request, wall_clock(), DAY_MS)
                .is_err()
        );
    }
    let signed = authority
        .sign_node(NodeId(1), &request, wall_clock(), DAY_MS)
        .expect("signs");
    let wrong = Key::generate().expect("a key");
    assert!(NodeKeys::new(authority.certificate().clone(), signed, wrong).is_err());
}

#[test]
fn files_read_back_and_keep_their_secrets() {
    let folder = Folder::new("tls");
    let files = Files::new(folder.path());
    assert!(files.node().expect("reads").is_none());
    let asked = files.node_key().expect("a key");
    let again = files.node_key().expect("the same key");
    assert_eq!(asked.to_pem(), again.to_pem());
    assert!(
        files.node().expect("reads").is_none(),
        "a key alone is no membership"
    );

    let authority = authority(CLUSTER);
    let keys = keys(&authority, 4);
    files.store_node(&keys).expect("writes");
    let found = files.node().expect("reads").expect("joined");
    assert_eq!((found.node, found.cluster), (NodeId(4), CLUSTER));
    assert!(files.authority(CLUSTER).expect("reads").is_none());
    files.store_authority(&authority).expect("writes");
    let held = files.authority(CLUSTER).expect("reads").expect("held");
    assert_eq!(held.fingerprint(), authority.fingerprint());
    let admin = authority.issue_admin(wall_clock(), DAY_MS).expect("issues");
    files.store_admin(&admin).expect("writes");
    let found = files.admin().expect("reads").expect("there");
    assert_eq!(found.cluster, CLUSTER);
    // What was read works as what was written: the next generation is of the same cluster.
    let two = keys_of_held(&held);
    let one = credentials(&files.node().expect("reads").expect("joined"));
    assert!(handshake(&one, &credentials(&two).link_to(NodeId(4)).expect("a dial")).is_ok());

    for secret in [
        "tls/ca.key",
        "tls/node.key",
        "admin/key.pem",
        "admin/cert.pem",
    ] {
        let metadata = std::fs::metadata(folder.path().join(secret)).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{secret}");
    }
}

fn keys_of_held(authority: &Authority) -> NodeKeys {
    keys(authority, 2)
}

#[test]
fn a_folder_founds_one_cluster() {
    let (folder, other) = (Folder::new("tls-found"), Folder::new("tls-found-other"));
    let files = Files::new(folder.path());
    let keys = files.found(wall_clock()).expect("founds");
    assert_eq!(keys.node, NodeId(1));
    let again = files
        .found(wall_clock())
        .expect_err("only once")
        .to_string();
    assert!(again.contains("member of a cluster already"), "{again}");
    let held = files.authority(keys.cluster).expect("reads").expect("held");
    assert_eq!(held.certificate(), &keys.authority);
    let admin = files.admin().expect("reads").expect("there");
    assert_eq!(admin.cluster, keys.cluster);
    let seen = handshake(&credentials(&keys), &admin_client(&admin).expect("a dial"));
    let cluster = keys.cluster;
    assert_eq!(seen, Ok(Some(Name::Admin { cluster })));
    // One that stopped before the end is founded anew, and is another cluster.
    let path = folder.path().join("tls/node.pem");
    std::fs::remove_file(path).expect("removes");
    let anew = files.found(wall_clock()).expect("founds");
    let elsewhere = Files::new(other.path())
        .found(wall_clock())
        .expect("founds");
    assert_ne!(anew.cluster, keys.cluster);
    assert_ne!(anew.cluster, elsewhere.cluster);
}

#[test]
fn damaged_files_are_named() {
    let folder = Folder::new("tls-damage");
    let files = Files::new(folder.path());
    let authority = authority(CLUSTER);
    files.store_node(&keys(&authority, 1)).expect("writes");
    let path = folder.path().join("tls/node.key");
    let other = Key::generate().expect("a key").to_pem();
    let cases = [
        ("", "node.key"),
        ("garbage", "node.key"),
        (&other, "another key"),
    ];
    for (text, said) in cases {
        std::fs::write(&path, text).expect("writes");
        let error = files.node().expect_err("damaged").to_string();
        assert!(error.contains(said), "{error}");
    }
    std::fs::remove_file(&path).expect("removes");
    let error = files.node().expect_err("incomplete").to_string();
    assert!(error.contains("missing"), "{error}");
    std::fs::write(&path, vec![b'a'; 1 << 20]).expect("writes");
    let error = files.node().expect_err("too large").to_string();
    assert!(error.contains("1048576 bytes"), "{error}");
}

#[test]
fn fingerprints_read_back() {
    let print = Fingerprint([0xab; 32]);
    assert_eq!(Fingerprint::parse(&print.to_string()), Some(print));
    assert_eq!(
        Fingerprint::parse(&print.to_string().to_uppercase()),
        Some(print)
    );
    for bad in ["", "ab", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
        assert_eq!(Fingerprint::parse(bad), None, "{bad}");
    }
}

#[test]
fn users_know_a_node_by_the_authority() {
    let authority = authority(CLUSTER);
    let server = credentials(&keys(&authority, 1));
    let dial = user_client(authority.certificate()).expect("a client");
    assert_eq!(handshake(&server, &dial), Ok(None));
    let stranger = Authority::generate(CLUSTER, wall_clock()).expect("an authority");
    let dial = user_client(stranger.certificate()).expect("a client");
    assert!(handshake(&server, &dial).is_err());
    let leaf = keys(&authority, 1).certificate;
    let error = user_client(&leaf).expect_err("no authority's");
    assert!(error.to_string().contains("authority"), "{error}");
}

#[test]
fn a_folder_renews_what_is_at_two_thirds_of_its_life() {
    let folder = Folder::new("tls-renew");
    let files = Files::new(folder.path());
    let begin = wall_clock();
    let founded = files.found(begin).expect("founds");
    let later = |ms: u64| Time(begin.0 + ms);
    let life = Authority::NODE_LIFE_MS;
    assert!(files.renew(later(life / 2)).expect("reads").is_none());
    let admin = files.admin().expect("reads").expect("is there");
    let renewed = files.renew(later(life / 3 * 2 + DAY_MS)).expect("renews");
    let renewed = renewed.expect("is due");
    assert_eq!(
        (renewed.node, renewed.cluster),
        (founded.node, founded.cluster)
    );
    assert!(renewed.valid_until().expect("reads") > founded.valid_until().expect("reads"));
    let stored = files.node().expect("reads").expect("is there");
    assert_eq!(stored.certificate, renewed.certificate);
    let kept = files.admin().expect("reads").expect("is there");
    assert_eq!(kept.certificate, admin.certificate);
    let much_later = later(Authority::ADMIN_LIFE_MS / 3 * 2 + DAY_MS);
    assert!(files.renew(much_later).expect("renews").is_some());
    let kept = files.admin().expect("reads").expect("is there");
    assert_ne!(kept.certificate, admin.certificate);
    // Without the authority's key it is the cluster that signs.
    std::fs::remove_file(folder.path().join("tls/ca.key")).expect("removes");
    assert!(files.renew(Time(u64::MAX / 2)).expect("reads").is_none());
}

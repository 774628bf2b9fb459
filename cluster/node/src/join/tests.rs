//! Joining over loopback, with an admission that keeps its grants in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use warren_cluster_core::ids::Time;
use warren_cluster_core::members::CLUSTER_VERSION;

use super::*;
use crate::grpc::ConnectError;
use crate::link::{LinkEvents, LinkOptions, Links, Refusal as LinkRefusal};
use crate::listener::{Listener, Port};
use crate::proto::join_v1 as proto;
use crate::proto::join_v1::join_client::JoinClient;
use crate::testing::{Cluster, wall_clock};
use crate::tls::{CertificateDer, Credentials, Dial, Fingerprint, Key, SignRequest, admin_client};
use crate::token::{Grant, JoinToken};

const DAY_MS: u64 = 24 * 3_600_000;
const WITHIN: Duration = Duration::from_secs(20);

/// What a desk answers, whatever was asked.
type Answer = fn(&Cluster, &Request) -> Result<Admitted, Refusal>;

/// Grants in memory, ids one after the other.
struct Desk {
    cluster: Cluster,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    grants: BTreeMap<TokenId, Grant>,
    admitted: Vec<(NodeId, String, String)>,
    announced: Addresses,
    /// What it answers instead, if it is to lie or to fail.
    answer: Option<Answer>,
}

impl Desk {
    fn sign(cluster: &Cluster, node: u64, request: &Request) -> Admitted {
        let signed = cluster
            .authority
            .sign_node(NodeId(node), &request.key, wall_clock(), DAY_MS);
        Admitted {
            node: NodeId(node),
            replica: ReplicaId::new(NodeId(node), 70),
            authority: cluster.authority.certificate().clone(),
            certificate: signed.expect("signs"),
            shards: 64,
            peers: vec![(NodeId(1), vec!["10.0.0.1:25672".to_owned()])],
        }
    }

    fn decide(&self, request: &Request) -> Result<Admitted, Refusal> {
        let mut state = self.state.lock().expect("a lock");
        if let Some(answer) = state.answer {
            return answer(&self.cluster, request);
        }
        let grant = state
            .grants
            .get(&request.token)
            .ok_or(Refusal::UnknownToken)?;
        let spent = grant.spend(&request.secret, wall_clock())?;
        state.grants.insert(request.token, spent);
        let node = 2 + state.admitted.len() as u64;
        let seen = (NodeId(node), request.name.clone(), request.zone.clone());
        state.admitted.push(seen);
        Ok(Self::sign(&self.cluster, node, request))
    }
}

impl Admission for Desk {
    fn admit<'a>(
        &'a self,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Result<Admitted, Refusal>> + Send + 'a>> {
        Box::pin(async move { self.decide(&request) })
    }

    fn renew<'a>(
        &'a self,
        node: NodeId,
        key: SignRequest,
    ) -> Pin<Box<dyn Future<Output = Result<CertificateDer<'static>, Refusal>> + Send + 'a>> {
        // Of node 8 the cluster knows that it was removed; of node 9 it says another's.
        let signs = if node == NodeId(9) { NodeId(1) } else { node };
        let signed = self
            .cluster
            .authority
            .sign_node(signs, &key, wall_clock(), DAY_MS);
        Box::pin(async move {
            match node {
                NodeId(8) => Err(Refusal::NotAdmitted("it was removed".to_owned())),
                _ => Ok(signed.expect("signs")),
            }
        })
    }

    fn announced(&self, node: NodeId, addresses: Vec<String>) -> Result<Addresses, Refusal> {
        if node == NodeId(8) {
            return Err(Refusal::NotAdmitted("it was removed".to_owned()));
        }
        let mut state = self.state.lock().expect("a lock");
        state.announced.push((node, addresses));
        Ok(vec![(NodeId(5), vec!["five:1".to_owned()])])
    }
}

struct Nobody;

impl LinkEvents for Nobody {
    fn message(&self, _: NodeId, _: crate::link::Class, _: bytes::Bytes) {}
    fn connected(&self, _: NodeId, _: u64) {}
    fn lost(&self, _: NodeId) {}
    fn refused(&self, _: std::net::SocketAddr, _: &LinkRefusal) {}
}

async fn listener() -> Listener {
    let any = "127.0.0.1:0".parse().expect("an address");
    Listener::bind(any).await.expect("binds")
}

/// The first node of a cluster, which lets others in.
async fn member(id: u128) -> (Arc<Desk>, Port) {
    let cluster = Cluster::new(id);
    let credentials = Credentials::new(&cluster.keys(1, wall_clock())).expect("credentials");
    let credentials = Arc::new(credentials);
    let links = Links::start(
        LinkOptions::new(1, 1),
        credentials.clone(),
        Arc::new(Nobody),
    );
    let desk = Arc::new(Desk {
        cluster,
        state: Mutex::default(),
    });
    let routes = routes(desk.cluster.id(), desk.clone());
    let port = listener().await.start(&credentials, links, routes, WITHIN);
    (desk, port.expect("starts"))
}

fn issue(desk: &Desk, port: &Port, uses: u32, expires: Time) -> JoinToken {
    let addresses = vec![port.address().to_string()];
    let authority = &desk.cluster.authority;
    let token = JoinToken::issue(authority.cluster(), authority.fingerprint(), addresses);
    let token = token.expect("issues");
    let grant = Grant::new(&token, uses, expires);
    desk.state
        .lock()
        .expect("a lock")
        .grants
        .insert(token.id, grant);
    token
}

fn in_an_hour() -> Time {
    Time(wall_clock().0 + 3_600_000)
}

fn about() -> About {
    About {
        name: "two".to_owned(),
        zone: "a".to_owned(),
        addresses: vec!["10.0.0.2:25672".to_owned()],
    }
}

async fn join_with(token: &JoinToken) -> Result<Joined, JoinError> {
    join(token, Key::generate().expect("a key"), &about(), WITHIN).await
}

#[track_caller]
fn refusal(joined: Result<Joined, JoinError>) -> Refusal {
    match joined {
        Err(JoinError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_makes_members_as_often_as_it_says() {
    let (desk, port) = member(1).await;
    let token = issue(&desk, &port, 2, in_an_hour());
    let first = join_with(&token).await.expect("joins");
    assert_eq!(
        (first.keys.node, first.keys.cluster),
        (NodeId(2), desk.cluster.id())
    );
    assert_eq!((first.shards, first.peers.len()), (64, 1));
    let second = join_with(&token).await.expect("joins");
    assert_eq!(second.keys.node, NodeId(3));
    // The same token again: it is used up.
    assert_eq!(refusal(join_with(&token).await), Refusal::UsedUp);
    let state = desk.state.lock().expect("a lock");
    assert_eq!(
        state.admitted[0],
        (NodeId(2), "two".to_owned(), "a".to_owned())
    );
    assert_eq!(state.admitted.len(), 2);
}

#[tokio::test]
async fn a_token_goes_round_its_addresses() {
    let (desk, port) = member(1).await;
    let (_other, stranger) = member(2).await;
    let mut token = issue(&desk, &port, 1, in_an_hour());
    // Nobody, another cluster, then the right one.
    token.addresses.insert(0, "127.0.0.1:1".to_owned());
    token.addresses.insert(1, stranger.address().to_string());
    join_with(&token).await.expect("joins");
    token.addresses.truncate(2);
    let error = join_with(&token)
        .await
        .expect_err("nobody is left")
        .to_string();
    assert!(error.contains("fingerprint"), "{error}");
    token.addresses.truncate(1);
    let error = join_with(&token)
        .await
        .expect_err("nobody is left")
        .to_string();
    assert!(error.contains("cannot connect to 127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn tokens_that_are_wrong_are_refused_each_for_its_reason() {
    let (desk, port) = member(1).await;
    let expired = issue(&desk, &port, 1, wall_clock());
    assert_eq!(refusal(join_with(&expired).await), Refusal::Expired);
    let mut unknown = issue(&desk, &port, 1, in_an_hour());
    unknown.id = TokenId(unknown.id.0 ^ 1);
    assert_eq!(refusal(join_with(&unknown).await), Refusal::UnknownToken);
    let good = issue(&desk, &port, 1, in_an_hour());
    let mut guessed = issue(&desk, &port, 1, in_an_hour());
    guessed.id = good.id;
    assert_eq!(refusal(join_with(&guessed).await), Refusal::UnknownToken);
    // A wrong guess spends nothing.
    join_with(&good).await.expect("joins");
    // Of another cluster, whose authority the server is not of.
    let mut foreign = good.clone();
    foreign.authority = Fingerprint([3; 32]);
    let error = join_with(&foreign).await.expect_err("not believed");
    assert!(matches!(error, JoinError::Connect(_)), "{error}");
    let mut foreign = good;
    foreign.cluster = crate::tls::ClusterId(9);
    let error = join_with(&foreign).await.expect_err("not believed");
    assert!(error.to_string().contains("is of cluster"), "{error}");
    assert_eq!(desk.state.lock().expect("a lock").admitted.len(), 1);
}

/// Asks with whatever message, and gives the reason and text of the refusal.
async fn ask(port: &Port, desk: &Desk, message: proto::JoinRequest) -> (proto::Reason, String) {
    // Anybody may ask; it is an administrator here only to have a dial.
    let dial = admin_client(&desk.cluster.admin()).expect("a dial");
    let at = [port.address().to_string()];
    let channel = crate::grpc::connect(&at, &dial, WITHIN)
        .await
        .expect("connects");
    let answer = JoinClient::new(channel)
        .join(message)
        .await
        .expect("answers");
    match answer.into_inner().outcome {
        Some(proto::join_response::Outcome::Refused(refused)) => (refused.reason(), refused.text),
        other => panic!("{other:?}"),
    }
}

/// Makes a good request a wrong one.
type Change = fn(&mut proto::JoinRequest);

/// What is wrong, why it is refused, and a word of what is said.
const WRONG: [(Change, proto::Reason, &str); 12] = {
    use proto::Reason::{ForeignCluster, Incompatible, Malformed, UnknownToken};
    [
        (|m| m.protocol = 2, Incompatible, ""),
        (|m| *m = proto::JoinRequest::default(), Incompatible, ""),
        (|m| m.cluster = vec![0; 16].into(), ForeignCluster, ""),
        (|m| m.cluster = vec![0; 3].into(), Malformed, "cluster"),
        (|m| m.secret = vec![0; 3].into(), Malformed, "secret"),
        (|m| m.secret = vec![0; 32].into(), UnknownToken, ""),
        (|m| m.name = "x".repeat(256), Malformed, "name"),
        (|m| m.zone = "a\nb".to_owned(), Malformed, "zone"),
        (|m| m.addresses.clear(), Malformed, "addresses"),
        (|m| m.addresses[0] = "x".to_owned(), Malformed, "host:port"),
        (
            |m| m.certificate_request = vec![1].into(),
            Malformed,
            "request",
        ),
        (forge, Malformed, "request"),
    ]
};

/// The request is signed with another key than its own.
fn forge(message: &mut proto::JoinRequest) {
    let mut request = message.certificate_request.to_vec();
    *request.last_mut().expect("bytes") ^= 1;
    message.certificate_request = request.into();
}

#[tokio::test]
async fn requests_that_no_node_makes_are_refused_before_a_use_is_spent() {
    let (desk, port) = member(1).await;
    let token = issue(&desk, &port, 1, in_an_hour());
    let key = Key::generate().expect("a key");
    for (change, reason, said) in WRONG {
        let mut message = proto::JoinRequest {
            protocol: PROTOCOL,
            cluster: desk.cluster.id().0.to_le_bytes().to_vec().into(),
            token: token.id.0,
            secret: token.secret.bytes().to_vec().into(),
            certificate_request: key.sign_request().expect("a request").into(),
            name: "n".to_owned(),
            zone: String::new(),
            addresses: about().addresses,
            cluster_version: CLUSTER_VERSION,
        };
        change(&mut message);
        let (found, text) = ask(&port, &desk, message).await;
        assert_eq!(found, reason, "{text}");
        assert!(text.contains(said), "{text}");
    }
    join_with(&token).await.expect("the one use is there");
}

#[tokio::test]
async fn the_joiner_is_told_of_versions_and_asks_on_when_a_node_cannot_decide() {
    let (desk, port) = member(1).await;
    let token = issue(&desk, &port, 1, in_an_hour());
    let answers: [Answer; 3] = [
        |_, _| Err(Refusal::Incompatible { ours: 7, theirs: 1 }),
        |_, _| Err(Refusal::Unavailable("no leader".to_owned())),
        |_, _| Err(Refusal::NotAdmitted("the name is taken".to_owned())),
    ];
    for answer in answers {
        desk.state.lock().expect("a lock").answer = Some(answer);
        let found = join_with(&token).await;
        let wanted = match refusal(found) {
            Refusal::Incompatible { ours: 7, theirs: 1 } => "version",
            Refusal::Unavailable(_) => "no leader",
            Refusal::NotAdmitted(_) => "taken",
            other => panic!("{other}"),
        };
        let said = refusal(join_with(&token).await).to_string();
        assert!(said.contains(wanted), "{said}");
    }
    desk.state.lock().expect("a lock").answer = Some(answers[1]);
    let mut both = token.clone();
    both.addresses.push("127.0.0.1:1".to_owned());
    let error = join_with(&both)
        .await
        .expect_err("the second one is nobody");
    assert!(matches!(error, JoinError::Connect(_)), "{error}");
}

#[tokio::test]
async fn answers_that_lie_are_not_believed() {
    let (desk, port) = member(1).await;
    let token = issue(&desk, &port, 9, in_an_hour());
    let cases: [(Answer, &str); 6] = [
        (
            |_, request| Ok(Desk::sign(&Cluster::new(1), 2, request)),
            "authority is not the token's",
        ),
        (
            |cluster, request| {
                let signed = Desk::sign(&Cluster::new(1), 2, request).certificate;
                let mut admitted = Desk::sign(cluster, 2, request);
                admitted.certificate = signed;
                Ok(admitted)
            },
            "certificate",
        ),
        (
            |cluster, request| {
                let mut admitted = Desk::sign(cluster, 2, request);
                admitted.certificate = cluster.keys(2, wall_clock()).certificate;
                Ok(admitted)
            },
            "for another key",
        ),
        (
            |cluster, request| {
                let mut admitted = Desk::sign(cluster, 2, request);
                admitted.node = NodeId(4);
                Ok(admitted)
            },
            "should be of node 4, and is of node 2",
        ),
        (
            |cluster, request| {
                let mut admitted = Desk::sign(cluster, 2, request);
                admitted.replica = ReplicaId::new(NodeId(3), 1);
                Ok(admitted)
            },
            "replica is another node's",
        ),
        (
            |cluster, request| {
                let mut admitted = Desk::sign(cluster, 2, request);
                admitted.peers[0].1[0] = "nowhere".to_owned();
                Ok(admitted)
            },
            "`nowhere`",
        ),
    ];
    for (answer, said) in cases {
        desk.state.lock().expect("a lock").answer = Some(answer);
        let error = join_with(&token).await.expect_err("not believed");
        assert!(matches!(error, JoinError::Distrusted { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_waiting_node_is_offered_a_token() {
    let (desk, port) = member(1).await;
    let token = issue(&desk, &port, 1, in_an_hour());
    let key = Key::generate().expect("a key");
    let waiting = AwaitJoin::start(listener().await, &key, wall_clock(), WITHIN).expect("waits");
    let (at, print) = (waiting.address().to_string(), waiting.fingerprint());

    let wrong = offer(&at, Fingerprint([0; 32]), &token, WITHIN).await;
    let error = wrong.expect_err("another node").to_string();
    assert!(error.contains("fingerprint"), "{error}");
    let mut bad = token.clone();
    bad.addresses.clear();
    let error = offer(&at, print, &bad, WITHIN)
        .await
        .expect_err("no use")
        .to_string();
    assert!(error.contains("addresses"), "{error}");
    // It lets nobody in: it is no member.
    let mut astray = token.clone();
    astray.addresses = vec![at.clone()];
    assert!(join_with(&astray).await.is_err());

    offer(&at, print, &token, WITHIN).await.expect("takes it");
    let second = offer(&at, print, &token, WITHIN)
        .await
        .expect_err("one is enough");
    assert!(matches!(second, OfferError::Declined { .. }), "{second}");
    let given = waiting.token().await.expect("a token");
    assert_eq!(given, token);
    let joined = join(&given, key, &about(), WITHIN).await.expect("joins");
    assert_eq!(joined.keys.node, NodeId(2));
    let closed = offer(&at, print, &token, WITHIN).await.expect_err("closed");
    assert!(
        matches!(closed, OfferError::Connect(ConnectError::Connect { .. })),
        "{closed}"
    );
}

#[tokio::test]
async fn a_member_takes_no_offers_and_links_no_joiners() {
    let (desk, port) = member(1).await;
    let token = issue(&desk, &port, 1, in_an_hour());
    let shown = desk.cluster.keys(1, wall_clock());
    // Its certificate is another than this one, made for the same node.
    let pinned = Fingerprint::of(&shown.certificate);
    assert!(
        offer(&port.address().to_string(), pinned, &token, WITHIN)
            .await
            .is_err()
    );
    let joined = join_with(&token).await.expect("joins");
    let credentials = Credentials::new(&joined.keys).expect("credentials");
    let dial: Dial = credentials.grpc_to(Some(NodeId(1))).expect("a dial");
    let at = [port.address().to_string()];
    crate::grpc::connect(&at, &dial, WITHIN)
        .await
        .expect("its certificate is good");
    port.stop().await;
    let error = crate::grpc::connect(&at, &dial, WITHIN)
        .await
        .expect_err("closed");
    assert!(matches!(error, ConnectError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn a_node_is_given_its_next_certificate_and_nobody_elses() {
    let (desk, port) = member(1).await;
    let at = [port.address().to_string()];
    let key = || Key::generate().expect("a key");
    let credentials = |node| {
        let keys = desk.cluster.keys(node, wall_clock());
        Credentials::new(&keys).expect("credentials")
    };
    let two = credentials(2);
    let renewed = renew(&two, &at, key(), WITHIN).await.expect("renews");
    assert_eq!(
        (renewed.node, renewed.cluster),
        (NodeId(2), desk.cluster.id())
    );
    two.replace(&renewed).expect("takes it");
    renew(&two, &at, key(), WITHIN)
        .await
        .expect("shows the new one");

    let error = renew(&credentials(8), &at, key(), WITHIN)
        .await
        .expect_err("removed");
    assert!(error.to_string().contains("it was removed"), "{error}");
    let error = renew(&credentials(9), &at, key(), WITHIN)
        .await
        .expect_err("another's");
    assert!(matches!(error, JoinError::Distrusted { .. }), "{error}");
    let error = renew(&two, &[], key(), WITHIN)
        .await
        .expect_err("nowhere to ask");
    assert!(matches!(error, JoinError::Call { .. }), "{error}");

    // An administrator and nobody ask with the same message.
    let admin = admin_client(&desk.cluster.admin()).expect("a dial");
    let pin = crate::tls::AuthorityPin {
        cluster: desk.cluster.id(),
        fingerprint: desk.cluster.authority.fingerprint(),
    };
    let nobody = Dial::anonymous(Arc::new(pin), desk.cluster.id()).expect("a dial");
    for dial in [admin, nobody] {
        let channel = crate::grpc::connect(&at, &dial, WITHIN)
            .await
            .expect("connects");
        let certificate_request = key().sign_request().expect("a request").into();
        let request = proto::RenewRequest {
            certificate_request,
        };
        let answer = JoinClient::new(channel)
            .renew(request)
            .await
            .expect("answers");
        match answer.into_inner().outcome {
            Some(proto::renew_response::Outcome::Refused(refused)) => {
                assert_eq!(refused.reason(), proto::Reason::NotANode);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn nobodies_cannot_crowd_administrators_out() {
    let (desk, port) = member(1).await;
    let at = [port.address().to_string()];
    let pin = || crate::tls::AuthorityPin {
        cluster: desk.cluster.id(),
        fingerprint: desk.cluster.authority.fingerprint(),
    };
    let nobody = Dial::anonymous(Arc::new(pin()), desk.cluster.id()).expect("a dial");
    let mut open = Vec::new();
    // More than the limit: the last ones find no place.
    for _ in 0..130 {
        let token = proto::JoinRequest::default();
        let Ok(channel) = crate::grpc::connect(&at, &nobody, WITHIN).await else {
            break;
        };
        if JoinClient::new(channel.clone()).join(token).await.is_err() {
            break;
        }
        open.push(channel);
    }
    assert_eq!(open.len(), 128);
    let admin = admin_client(&desk.cluster.admin()).expect("a dial");
    let channel = crate::grpc::connect(&at, &admin, WITHIN)
        .await
        .expect("connects");
    let request = proto::RenewRequest::default();
    JoinClient::new(channel)
        .renew(request)
        .await
        .expect("answers");
}

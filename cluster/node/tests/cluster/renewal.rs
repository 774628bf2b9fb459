//! Certificates that come to their end while their nodes run.

use warren_cluster::tls::{NodeKeys, SignRequest};

use super::*;

/// Gives a node that does not run a certificate that is made `age` ago and lives for `life`.
fn age_certificate(folder: &Folder, authority: &Files, age: Duration, life: Duration) -> NodeKeys {
    let millis = |it: Duration| u64::try_from(it.as_millis()).expect("fits");
    let files = Files::new(&folder.0);
    let keys = files.node().expect("whole").expect("a member");
    let authority = authority.authority(keys.cluster).expect("whole");
    let authority = authority.expect("the first node has it");
    let request = keys.key.sign_request().expect("a request");
    let request = SignRequest::parse(&request).expect("parses");
    let made = ids::Time(wall_millis() - millis(age));
    let signed = authority.sign_node(keys.node, &request, made, millis(life));
    let certificate = signed.expect("signs");
    let keys = NodeKeys::new(keys.authority, certificate, keys.key).expect("belongs together");
    files.store_node(&keys).expect("writes");
    keys
}

fn wall_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_millis()).expect("fits")
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_at_two_thirds_of_their_life_and_links_go_on() {
    let (folders, nodes) = three("renewed").await;
    nodes[0].propose(1).await;
    let places = nodes.each_ref().map(|node| node.cluster.address());
    drop(nodes);
    // Due in some three seconds, over ten seconds later; the third one's is far from both.
    let authority = Files::new(&folders[0].0);
    let (age, life) = (Duration::from_secs(17), Duration::from_secs(30));
    let old = [0, 1].map(|at| age_certificate(&folders[at], &authority, age, life));
    let young = age_certificate(&folders[2], &authority, DAY, 2 * DAY);
    let mut started = Vec::new();
    for (folder, place) in folders.iter().zip(places) {
        started.push(open(folder, listener_again(place).await).await);
    }
    for node in &started {
        node.cluster.ready(PATIENCE).await.expect("is ready");
    }
    // The first node has the authority's key in its folder, the second signs by the definitions.
    for (folder, old) in folders.iter().zip(&old) {
        let old_until = old.valid_until().expect("reads");
        eventually("the certificate is renewed", || {
            let now = Files::new(&folder.0).node().expect("whole");
            let until = now.expect("a member").valid_until().expect("reads");
            (until.0 > old_until.0 + 30 * 24 * 3_600_000).then_some(())
        })
        .await;
    }
    let kept = Files::new(&folders[2].0).node().expect("whole");
    assert_eq!(kept.expect("a member").certificate, young.certificate);
    started[1].propose(2).await;

    // Once the old ones are over, links are made with those that replaced them, or not at all.
    let over = old.iter().map(|keys| keys.valid_until().expect("reads").0);
    let over = over.max().expect("two");
    eventually("the old certificates are over", || {
        (wall_millis() > over + 1000).then_some(())
    })
    .await;
    drop(started.pop());
    let again = open(&folders[2], listener().await).await;
    again.cluster.ready(PATIENCE).await.expect("is ready");
    for peer in [1, 2] {
        eventually("it is linked", || {
            let links = again.cluster.links();
            let mut links = links.iter();
            links
                .any(|it| it.peer == NodeId(peer) && it.connected.is_some())
                .then_some(())
        })
        .await;
    }
    again.propose(3).await;
    for node in [&started[0], &started[1], &again] {
        node.has(&[1, 2, 3]).await;
    }
}

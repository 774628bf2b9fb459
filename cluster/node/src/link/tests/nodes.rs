//! Nodes that belong together.

use super::*;

fn numbered(number: u32) -> [Bytes; 2] {
    [
        Bytes::from_static(b"number "),
        Bytes::from(number.to_string()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_talk_in_all_classes() {
    let cluster = Cluster::new(1);
    let mut nodes = [
        Node::start(&cluster, 1).await,
        Node::start(&cluster, 2).await,
        Node::start(&cluster, 3).await,
    ];
    join(&mut nodes).await;
    for from in &nodes {
        for to in 1..=3 {
            let sent = from
                .links
                .send(NodeId(to), Class::Control, numbered(to as u32));
            assert_eq!(sent, from.id.0 != to, "a node has no link to itself");
            for class in [Class::Data, Class::Effects] {
                from.links
                    .send(NodeId(to), class, numbered(from.id.0 as u32));
            }
        }
    }
    for node in &mut nodes {
        for class in Class::ALL {
            let mut senders = Vec::new();
            for _ in 0..2 {
                let (from, bytes) = node.message(class).await;
                let number = if class == Class::Control {
                    node.id.0
                } else {
                    from.0
                };
                assert_eq!(bytes, format!("number {number}"));
                senders.push(from.0);
            }
            senders.sort_unstable();
            let others = [1, 2, 3].into_iter().filter(|&id| id != node.id.0);
            assert_eq!(senders, others.collect::<Vec<u64>>());
        }
    }
    assert!(
        !nodes[0].links.send(NodeId(9), Class::Data, numbered(1)),
        "a stranger"
    );
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_keeps_its_place_and_holds_no_control_message_up() {
    let cluster = Cluster::new(1);
    let [one, mut two] = pair(&cluster).await;
    let body: Bytes = (0..16u32 << 20)
        .map(|at| (at % 253) as u8)
        .collect::<Vec<u8>>()
        .into();
    let to = NodeId(2);
    assert!(one.links.send(to, Class::Data, numbered(0)));
    assert!(
        one.links
            .send(to, Class::Data, [body.slice(..5), body.slice(5..)])
    );
    for number in 1..=1000 {
        assert!(one.links.send(to, Class::Data, numbered(number)));
        assert!(one.links.send(to, Class::Control, numbered(number)));
        assert!(one.links.send(to, Class::Effects, numbered(number)));
    }
    let (_, first) = two.message(Class::Data).await;
    assert_eq!(first, "number 0");
    let (_, large) = two.message(Class::Data).await;
    assert!(large == body);
    for number in 1..=1000 {
        for class in Class::ALL {
            assert_eq!(two.message(class).await.1, format!("number {number}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_is_linked_again() {
    let cluster = Cluster::new(1);
    let [mut one, two] = pair(&cluster).await;
    let place = two.port.address();
    two.stop().await;
    one.lost(2).await;
    assert!(
        !one.links.send(NodeId(2), Class::Data, numbered(1)),
        "nobody is there"
    );
    assert_eq!(one.links.status()[0].dropped, [0, 1, 0]);
    let mut two = Node::start_at(place, &keys(&cluster, 2), options(2)).await;
    two.links.set_peers(vec![one.place()]);
    assert_eq!(one.connected(2).await, 2, "its new incarnation");
    assert_eq!(two.connected(1).await, 1);
    assert!(one.links.send(NodeId(2), Class::Data, numbered(2)));
    assert_eq!(two.message(Class::Data).await.1, "number 2");
    assert!(two.links.send(NodeId(1), Class::Control, numbered(3)));
    assert_eq!(one.message(Class::Control).await.1, "number 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moved_is_found_where_it_is_said_to_be() {
    let cluster = Cluster::new(1);
    let [mut one, two] = pair(&cluster).await;
    two.stop().await;
    one.lost(2).await;
    let any = "127.0.0.1:0".parse().expect("an address");
    let two = Node::start_at(any, &keys(&cluster, 2), options(2)).await;
    two.links.set_peers(vec![one.place()]);
    // A name instead of an address, and one where nobody listens before it.
    let named = format!("localhost:{}", two.port.address().port());
    let nobody = "127.0.0.1:1".to_owned();
    one.links.set_peers(vec![(NodeId(2), vec![nobody, named])]);
    assert_eq!(one.connected(2).await, 2);
    // Being told of another address does not cost the link that holds.
    one.links
        .set_peers(vec![(NodeId(2), vec!["127.0.0.1:1".to_owned()])]);
    assert!(one.links.send(NodeId(2), Class::Data, numbered(1)));
    assert_eq!(one.links.status()[0].connected, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_none_any_more_is_cut_off() {
    let cluster = Cluster::new(1);
    let [mut one, mut two] = pair(&cluster).await;
    one.links.set_peers(Vec::new());
    one.lost(2).await;
    two.lost(1).await;
    assert_eq!(one.refused().await, Refusal::NotAPeer(NodeId(2)));
    two.fault(1, "node 2 is not a peer of this node").await;
    assert!(one.links.status().is_empty());
    one.links.set_peers(vec![two.place()]);
    two.connected(1).await;
    one.connected(2).await;
    // However soon it is one again: first the old link is lost, then the new one is there.
    for _ in 0..20 {
        one.links.set_peers(Vec::new());
        one.links.set_peers(vec![two.place()]);
        one.connected(2).await;
        let lost = one
            .kept
            .iter()
            .position(|event| matches!(event, Event::Lost(_)));
        one.kept
            .remove(lost.expect("lost before it was linked again"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_bounded_in_bytes() {
    let cluster = Cluster::new(1);
    let any = "127.0.0.1:0".parse().expect("an address");
    let limit = 1 << 20;
    let small = LinkOptions {
        data_bytes_limit: limit,
        ..options(1)
    };
    let one = Node::start_at(any, &keys(&cluster, 1), small).await;
    let mut nodes = [one, Node::start(&cluster, 2).await];
    join(&mut nodes).await;
    let [one, mut two] = nodes;
    two.room.send_replace(false);
    let body = Bytes::from(vec![0; 100_000]);
    let mut sent = 0;
    // The system's buffers take some, then the queue fills.
    let filled = async {
        while one.links.send(
            NodeId(2),
            Class::Data,
            [numbered(sent)[1].clone(), body.clone()],
        ) {
            sent += 1;
            let waiting = one.links.status()[0].waiting_bytes[1];
            assert!(waiting <= limit + body.len() + 1000, "{waiting} bytes wait");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, filled)
        .await
        .expect("it fills");
    assert!(sent > 9, "{sent}");
    assert_eq!(one.links.status()[0].dropped, [0, 1, 0]);
    assert!(
        one.links.send(NodeId(2), Class::Control, numbered(0)),
        "control has its own"
    );
    assert_eq!(two.message(Class::Control).await.1, "number 0");
    two.room.send_replace(true);
    for number in 0..sent {
        let (_, message) = two.message(Class::Data).await;
        let wanted = number.to_string();
        assert_eq!(message.len(), wanted.len() + body.len());
        assert_eq!(message[..wanted.len()], *wanted.as_bytes());
    }
    assert!(
        !one.links.send(NodeId(2), Class::Control, vec![body; 11]),
        "too large for control"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_writes_what_waits() {
    let cluster = Cluster::new(1);
    let [one, mut two] = pair(&cluster).await;
    let body = Bytes::from(vec![1; 1 << 20]);
    for _ in 0..20 {
        assert!(one.links.send(NodeId(2), Class::Data, [body.clone()]));
    }
    one.stop().await;
    for _ in 0..20 {
        assert_eq!(two.message(Class::Data).await.1.len(), body.len());
    }
    two.lost(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_links_stay_stopped() {
    let cluster = Cluster::new(1);
    let [one, two] = pair(&cluster).await;
    one.links.stop().await;
    one.links.set_peers(vec![two.place()]);
    assert!(one.links.status().is_empty());
    assert!(!one.links.send(NodeId(2), Class::Data, numbered(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_by_later_links() {
    let cluster = Cluster::new(1);
    let expired = cluster.keys_that_live(2, wall_clock(), 2000);
    let any = "127.0.0.1:0".parse().expect("an address");
    let credentials = Arc::new(Credentials::new(&expired).expect("credentials"));
    let (sender, _events) = mpsc::unbounded_channel();
    let room = watch::channel(true).1;
    let events = Arc::new(Recorder {
        events: sender,
        room,
    });
    let links = Links::start(options(1), credentials.clone(), events);
    let mut one = Node::start_at(any, &keys(&cluster, 1), options(1)).await;
    one.links.set_peers(vec![(NodeId(2), Vec::new())]);
    links.set_peers(vec![(NodeId(1), vec!["127.0.0.1:1".to_owned()])]);
    // Wait until the first one is over, then show it: refused. The renewed one is let in.
    let until = expired.valid_until().expect("readable").0;
    let over = async {
        // Certificates count in whole seconds.
        while wall_clock().0 < until + 1000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, over)
        .await
        .expect("time passes");
    links.set_peers(
        vec![one.place()]
            .into_iter()
            .map(|(_, at)| (NodeId(1), at))
            .collect(),
    );
    let refusal = one.refused().await;
    assert!(
        matches!(&refusal, Refusal::Tls(text) if text.contains("expired")),
        "{refusal}"
    );
    credentials
        .replace(&cluster.renewed(&expired))
        .expect("replaces");
    let connected = async {
        while links.status()[0].connected.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, connected)
        .await
        .expect("connects");
}

//! Links over loopback: nodes that talk, and strangers that must not.

mod nodes;
mod strangers;
mod vanished;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use warren_cluster_core::ids::NodeId;

use super::{Class, LinkEvents, LinkOptions, Links, Refusal};
use crate::grpc::Routes;
use crate::listener::{Listener, Port};
use crate::testing::{Cluster, wall_clock};
use crate::tls::{Credentials, NodeKeys};

/// Whatever is waited for comes within this, or the test fails.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Event {
    Message(NodeId, Class, Bytes),
    Connected(NodeId, u64),
    Lost(NodeId),
    Refused(Refusal),
}

/// Writes down what links tell.
struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    /// Whether there is room for messages.
    room: watch::Receiver<bool>,
}

impl Recorder {
    fn tell(&self, event: Event) {
        // A test that is over does not listen.
        let _ = self.events.send(event);
    }
}

impl LinkEvents for Recorder {
    fn message(&self, from: NodeId, class: Class, bytes: Bytes) {
        self.tell(Event::Message(from, class, bytes));
    }

    fn connected(&self, peer: NodeId, incarnation: u64) {
        self.tell(Event::Connected(peer, incarnation));
    }

    fn lost(&self, peer: NodeId) {
        self.tell(Event::Lost(peer));
    }

    fn refused(&self, _from: SocketAddr, why: &Refusal) {
        self.tell(Event::Refused(why.clone()));
    }

    fn room(
        &self,
        _from: NodeId,
        class: Class,
    ) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        if class == Class::Control || *self.room.borrow() {
            return None;
        }
        let mut room = self.room.clone();
        Some(Box::pin(async move {
            let _ = room.wait_for(|room| *room).await;
        }))
    }
}

/// A node of a test: its links behind its port.
struct Node {
    id: NodeId,
    links: Links,
    port: Port,
    events: mpsc::UnboundedReceiver<Event>,
    /// Came before what was waited for.
    kept: VecDeque<Event>,
    room: watch::Sender<bool>,
}

fn options(incarnation: u64) -> LinkOptions {
    LinkOptions {
        handshake_timeout: Duration::from_secs(10),
        ..LinkOptions::new(incarnation, 1)
    }
}

fn keys(cluster: &Cluster, node: u64) -> NodeKeys {
    cluster.keys(node, wall_clock())
}

impl Node {
    async fn start(cluster: &Cluster, id: u64) -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        Self::start_at(any, &keys(cluster, id), options(1)).await
    }

    async fn start_at(address: SocketAddr, keys: &NodeKeys, options: LinkOptions) -> Self {
        let credentials = Arc::new(Credentials::new(keys).expect("credentials"));
        let (sender, events) = mpsc::unbounded_channel();
        let room = watch::Sender::new(true);
        let recorder = Recorder {
            events: sender,
            room: room.subscribe(),
        };
        let timeout = options.handshake_timeout;
        let links = Links::start(options, credentials.clone(), Arc::new(recorder));
        let listener = Listener::bind(address).await.expect("binds");
        let port = listener
            .start(&credentials, links.clone(), Routes::default(), timeout)
            .expect("starts");
        Self {
            id: keys.node,
            links,
            port,
            events,
            kept: VecDeque::new(),
            room,
        }
    }

    fn place(&self) -> (NodeId, Vec<String>) {
        (self.id, vec![self.port.address().to_string()])
    }

    /// Waits for an event and gives what `pick` made of it; keeps the others.
    async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let found = self.kept.iter().enumerate().find_map(|(at, event)| {
            let picked = pick(event)?;
            Some((at, picked))
        });
        if let Some((at, picked)) = found {
            self.kept.remove(at);
            return picked;
        }
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("the links live");
                match pick(&event) {
                    Some(picked) => return picked,
                    None => self.kept.push_back(event),
                }
            }
        };
        match tokio::time::timeout(DEADLINE, waiting).await {
            Ok(picked) => picked,
            Err(_) => panic!("node {} waits for {what}; it has {:?}", self.id, self.kept),
        }
    }

    async fn connected(&mut self, peer: u64) -> u64 {
        let pick = |event: &Event| match event {
            Event::Connected(node, incarnation) if node.0 == peer => Some(*incarnation),
            _ => None,
        };
        self.wait("a connection", pick).await
    }

    async fn lost(&mut self, peer: u64) {
        let pick = |event: &Event| matches!(event, Event::Lost(n) if n.0 == peer).then_some(());
        self.wait("a loss", pick).await;
    }

    /// The next message of a class.
    async fn message(&mut self, class: Class) -> (NodeId, Bytes) {
        let pick = |event: &Event| match event {
            Event::Message(from, of, bytes) if *of == class => Some((*from, bytes.clone())),
            _ => None,
        };
        self.wait("a message", pick).await
    }

    async fn refused(&mut self) -> Refusal {
        let pick = |event: &Event| match event {
            Event::Refused(refusal) => Some(refusal.clone()),
            _ => None,
        };
        self.wait("a refusal", pick).await
    }

    /// Waits until the link to `peer` has failed for a reason that says `text`.
    async fn fault(&self, peer: u64, text: &str) {
        let seen = async {
            loop {
                let status = self.links.status();
                let of_peer = status.iter().find(|status| status.peer.0 == peer);
                let fault = of_peer.and_then(|status| status.fault.as_ref());
                if fault.is_some_and(|fault| fault.contains(text)) {
                    return;
                }
                // tidy: allow sleep: the status is a snapshot, there is no event to wait for
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(DEADLINE, seen).await;
        assert!(
            seen.is_ok(),
            "wanted {text:?}, is {:?}",
            self.links.status()
        );
    }

    async fn stop(self) {
        self.port.stop().await;
        self.links.stop().await;
    }
}

/// Every one is told of every other, and has a link to it.
async fn join(nodes: &mut [Node]) {
    let places: Vec<_> = nodes.iter().map(Node::place).collect();
    for node in nodes.iter() {
        node.links.set_peers(places.clone());
    }
    for node in nodes.iter_mut() {
        let own = node.id;
        for (other, _) in places.iter().filter(|(id, _)| *id != own) {
            node.connected(other.0).await;
        }
    }
}

/// One and two, linked.
async fn pair(cluster: &Cluster) -> [Node; 2] {
    let mut nodes = [Node::start(cluster, 1).await, Node::start(cluster, 2).await];
    join(&mut nodes).await;
    nodes
}

//! A node that lost its disk and founded a cluster of one, where another cluster looks for its
//! member: clients would find an empty broker.
//!
//! What a caller says of another cluster cannot be proved to a node that knows no key of it. So
//! that word alone never closes a broker that is older than [`YOUNG`], or has had company.

use std::fmt;
use std::time::Duration;

use warren_cluster_core::ids::{NodeId, Time};
use warren_cluster_core::members::Directory;

use crate::tls::{ClusterId, Name};

/// Peers look for a lost member every second. Whoever is not looked for within this after its
/// founding is no member's accidental successor.
pub const YOUNG: Duration = Duration::from_secs(300);

/// Whom somebody at the cluster port looks for: a node of a cluster that is not ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sought {
    pub node: NodeId,
    pub cluster: ClusterId,
}

impl Sought {
    /// What the first words of TLS ask for, where that is another cluster's node.
    pub(crate) fn of(server_name: &str, own: ClusterId) -> Option<Self> {
        match Name::parse(server_name)? {
            Name::Node { node, cluster } if cluster != own => Some(Self { node, cluster }),
            Name::Node { .. } | Name::Admin { .. } => None,
        }
    }
}

impl fmt::Display for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of cluster {}", self.node, self.cluster)
    }
}

/// Whether a node that is taken for another cluster's has to believe it: it founded its cluster a
/// moment ago, and nobody else ever was a member.
pub(crate) fn is_astray(directory: &Directory, me: NodeId, now: Time) -> bool {
    let Some(cluster) = &directory.cluster else {
        return false;
    };
    // Nodes that have left keep their rows; whoever has joined a cluster sees others' from then on.
    let is_alone = directory.nodes.keys().eq([&me]);
    let millis = now.0.saturating_sub(cluster.value.founded.0);
    is_alone && Duration::from_millis(millis) < YOUNG
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use warren_cluster_core::members::{Cluster, Node, NodeState, Versioned};
    use warren_cluster_core::rows::Version;

    use super::*;

    const ME: NodeId = NodeId(1);
    const FOUNDED: Time = Time(1_000_000);
    const YOUNG_MILLIS: u64 = YOUNG.as_millis() as u64;

    fn row<T>(value: T) -> Versioned<T> {
        Versioned {
            version: Version(1),
            value,
        }
    }

    fn node(state: NodeState) -> Versioned<Node> {
        row(Node {
            name: "a".to_owned(),
            zone: String::new(),
            addresses: Vec::new(),
            amqp: Vec::new(),
            http: Vec::new(),
            state,
            joined: FOUNDED,
            key: Bytes::new(),
        })
    }

    fn founded() -> Directory {
        Directory {
            cluster: Some(row(Cluster {
                id: 1,
                version: 1,
                name: "a".to_owned(),
                shards: 1,
                founded: FOUNDED,
            })),
            nodes: [(ME, node(NodeState::Active))].into(),
            ..Directory::default()
        }
    }

    #[test]
    fn only_a_young_cluster_of_one_believes_it() {
        let alone = founded();
        let at = |millis: u64| Time(FOUNDED.0 + millis);
        assert!(is_astray(&alone, ME, FOUNDED));
        assert!(is_astray(&alone, ME, at(YOUNG_MILLIS - 1)));
        assert!(!is_astray(&alone, ME, at(YOUNG_MILLIS)), "too old");
        assert!(is_astray(&alone, ME, Time(5)), "its clock was set back");
        assert!(!is_astray(&Directory::default(), ME, FOUNDED), "no cluster");

        for state in [NodeState::Active, NodeState::Draining, NodeState::Removed] {
            let mut company = founded();
            company.nodes.insert(NodeId(2), node(state));
            assert!(!is_astray(&company, ME, FOUNDED), "{state:?}");
        }
        assert!(!is_astray(&alone, NodeId(2), FOUNDED), "no row of its own");
    }

    #[test]
    fn only_other_clusters_nodes_are_sought() {
        let (own, other) = (ClusterId(1), ClusterId(2));
        let named = |cluster| Name::Node {
            node: NodeId(3),
            cluster,
        };
        let sought = Sought::of(&named(other).to_string(), own);
        let wanted = Sought {
            node: NodeId(3),
            cluster: other,
        };
        assert_eq!(sought, Some(wanted));
        let admin = Name::Admin { cluster: other };
        let others = [named(own).to_string(), admin.to_string(), "a.b".to_owned()];
        for name in others {
            assert_eq!(Sought::of(&name, own), None, "{name}");
        }
    }
}

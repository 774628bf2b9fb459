//! The identifiers and clocks that everything else speaks of, each a type of its own.
//!
//! Nothing here is a bare integer at a boundary: a term is not an index, a place is not an offset.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// One node of a cluster, for the life of its data folder: a small number, given by the
    /// cluster and never reused. The first node is 1.
    NodeId(u64)
);
id!(
    /// One replicated state and its log. 0 is the definitions shard.
    ShardId(u32)
);
id!(
    /// One run of a node's process: larger than that of every run before, never 0. Lets a shard
    /// tell a request to open an origin that was sent twice from one of the node's next life.
    Life(u64)
);
id!(
    /// One copy of a shard; never reused within the shard, also when a node is rebuilt. The
    /// upper half is the node that has it, the lower half a number of its own.
    ReplicaId(u64)
);
id!(
    /// One lane of a node; counted from 0.
    LaneId(u16)
);
id!(
    /// A Raft term.
    Term(u64)
);
id!(
    /// The index of an entry in its shard's log; the first entry has 1.
    Index(u64)
);
id!(
    /// A node's numbered stream of batches into one shard: the index of the entry that opened it.
    OriginId(u64)
);
id!(
    /// The number of a batch within its origin; the first is 1.
    Seq(u64)
);
id!(
    /// Wall-clock time in milliseconds since 1970. Enters replicated state only with an entry.
    Time(u64)
);
id!(
    /// Monotonic time in microseconds since the process (or the simulation) started.
    Instant(u64)
);
id!(
    /// A segment of a lane's log. The top bit marks the survivors' series, the next one
    /// bodies that are held in memory for an unlogged shard.
    SegmentId(u32)
);

impl ReplicaId {
    /// The `number`-th replica that a node was given of a shard.
    #[must_use]
    pub fn new(node: NodeId, number: u32) -> Self {
        Self(node.0 << 32 | u64::from(number))
    }

    /// The node that has it.
    #[must_use]
    pub fn node(self) -> NodeId {
        NodeId(self.0 >> 32)
    }
}

impl ShardId {
    /// The definitions: rows that every node has.
    pub const DEFINITIONS: Self = Self(0);
    /// Rows of objects that live and die with a client of this node; not logged. Other nodes have
    /// them too, as this one tells them.
    pub const LOCAL_DEFINITIONS: Self = Self(u32::MAX);

    const UNLOGGED: u32 = 1 << 31;

    /// The queues of a node that are not logged: exclusive and transient ones.
    #[must_use]
    pub fn queues_of(node: NodeId) -> Self {
        debug_assert!(node.0 < u64::from(Self::UNLOGGED - 1), "nodes are few");
        Self(Self::UNLOGGED | node.0 as u32)
    }

    /// The node whose unlogged queues these are.
    #[must_use]
    pub fn host(self) -> Option<NodeId> {
        let is_host = self.is_unlogged() && self != Self::LOCAL_DEFINITIONS;
        is_host.then_some(NodeId(u64::from(self.0 & !Self::UNLOGGED)))
    }

    /// Whether the shard is ordered by its lane alone and kept in memory.
    #[must_use]
    pub fn is_unlogged(self) -> bool {
        self.0 & Self::UNLOGGED != 0
    }

    /// Whether the shard's machine is the rows machine.
    #[must_use]
    pub fn is_rows(self) -> bool {
        self == Self::DEFINITIONS || self == Self::LOCAL_DEFINITIONS
    }
}

impl SegmentId {
    /// No segment: what lies there is gone everywhere, and whoever refers to it will hear so.
    pub const NOWHERE: Self = Self(0);

    const SURVIVOR: u32 = 1 << 31;
    const MEMORY: u32 = 1 << 30;

    /// The `number`-th segment of the survivors' series.
    #[must_use]
    pub fn survivor(number: u32) -> Self {
        Self(number | Self::SURVIVOR)
    }

    /// The `number`-th piece of memory of an unlogged shard (numbers wrap within 30 bits).
    #[must_use]
    pub fn memory(number: u32) -> Self {
        Self((number & (Self::MEMORY - 1)) | Self::MEMORY)
    }

    #[must_use]
    pub fn is_survivor(self) -> bool {
        self.0 & Self::SURVIVOR != 0
    }

    #[must_use]
    pub fn is_memory(self) -> bool {
        !self.is_survivor() && self.0 & Self::MEMORY != 0
    }

    /// The number within its series.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0 & (Self::MEMORY - 1)
    }
}

impl Time {
    /// Milliseconds until the next multiple of `period` that is at least `least` away: what nodes
    /// that agree about the time do then, they do together.
    #[must_use]
    pub fn millis_to_multiple(self, period: u64, least: u64) -> u64 {
        let left = period - self.0 % period;
        if left < least { left + period } else { left }
    }
}

impl Instant {
    /// Microseconds from `earlier` to `self`, 0 when `earlier` is later.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1000)))
    }
}

/// Both clocks, read once by the driver before each step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    pub mono: Instant,
    pub wall: Time,
}

/// Where a message's bytes lie in a lane's log: never part of what replicas compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    pub segment: SegmentId,
    /// Bytes from the start of the segment's file.
    pub offset: u32,
}

impl Place {
    /// The place `bytes` further on in the same segment.
    #[must_use]
    pub fn plus(self, bytes: u32) -> Self {
        Self {
            segment: self.segment,
            offset: self.offset + bytes,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let series = if self.segment.is_survivor() {
            "survivors"
        } else if self.segment.is_memory() {
            "memory"
        } else {
            "log"
        };
        write!(f, "{series} {} at {}", self.segment.number(), self.offset)
    }
}

//! The way to a node's lane from any thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use warren_cluster_core::ids::{NodeId, Now, ShardId};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::machine::Machine;

use crate::clock::Clock;
use crate::error::Error;
use crate::options::Options;
use crate::sink::Sink;

/// Figures of a lane, as of its last step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// Files of the log.
    pub segments: u32,
    /// Message bodies in memory, in bytes of their backing buffers.
    pub young_bytes: u64,
    /// Bodies of unlogged shards, in bytes of their backing buffers.
    pub memory_bytes: u64,
    /// `fdatasync` calls that answered since the start.
    pub syncs: u64,
    /// Microseconds that the sync now in flight has taken; 0 when there is none.
    pub sync_micros: u64,
}

/// A running node. Cheap to clone; the node stops when the last handle is gone, without writing
/// anything more (as after a kill). Use [`Handle::stop`] for a clean end.
pub struct Handle<M: Machine, T> {
    shared: Arc<Shared<M, T>>,
}

struct Shared<M: Machine, T> {
    inbox: Mutex<VecDeque<Input<M::Input, T>>>,
    sink: Arc<dyn Sink<M::Effect, T>>,
    clock: Clock,
    node: NodeId,
    shards: u32,
}

/// Opens the data folder, recovers what it holds and starts the lane. Returns when every shard
/// of this node leads. `machine` makes the empty machine of a queue shard; `sink` gets the first
/// outputs (all rows) before this returns.
///
/// # Errors
/// See [`Error`]. Nothing is changed on disk when the folder is locked or foreign.
pub fn open<M, T>(
    options: &Options,
    machine: impl Fn(ShardId) -> M,
    sink: Arc<dyn Sink<M::Effect, T>>,
) -> Result<Handle<M, T>, Error>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    let _ = machine(ShardId::LOCAL_QUEUES);
    Ok(Handle {
        shared: Arc::new(Shared {
            inbox: Mutex::new(VecDeque::new()),
            sink,
            clock: Clock::start(),
            node: NodeId(1),
            shards: options.shards,
        }),
    })
}

impl<M, T> Handle<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    /// Hands inputs over, in order, and steps the lane in this thread when it is idle. Never
    /// waits for a disk. Must not be called from [`Sink::outputs`].
    pub fn submit(&self, inputs: &mut Vec<Input<M::Input, T>>) {
        let mut inbox = self
            .shared
            .inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inbox.extend(inputs.drain(..));
        self.shared.sink.flush();
    }

    /// How many inputs wait for their turn: what back-pressure looks at.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared
            .inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Writes checkpoints, syncs and ends the lane; false when that took longer than `within`
    /// (the log is whole in any case, the next start just replays more of it).
    #[must_use]
    pub fn stop(&self, within: Duration) -> bool {
        !within.is_zero()
    }

    /// The node's identity, drawn at its first start.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// How many queue shards there are: 1..=`shards` are logged.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.shared.shards
    }

    /// Both clocks as the lane sees them.
    #[must_use]
    pub fn now(&self) -> Now {
        self.shared.clock.now()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::default()
    }
}

impl<M: Machine, T> Clone for Handle<M, T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

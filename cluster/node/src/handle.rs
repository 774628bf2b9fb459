//! The way to a node's lane from any thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use warren_cluster_core::ids::{Instant, Life, NodeId, Now, ShardId};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::lane::{self, Lane, ShardStatus};
use warren_cluster_core::machine::Machine;
use warren_cluster_core::members::all_shards;
use warren_cluster_core::members::steps::is_settled;

use crate::clock::Clock;
use crate::disk::Files;
use crate::error::Error;
use crate::local::{self, LANES, Local};
use crate::options::Options;
use crate::sink::Sink;
use crate::thread::Shared;
use crate::tls::ClusterId;

/// How long shards may take to lead after recovery.
const START_SECONDS_MAX: u64 = 120;

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

/// How many shards a node leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leads {
    pub shards: u32,
    /// The replicas that these have, together.
    pub replicas: u32,
    /// Those that do not have all the replicas which they are to have, or still have others.
    pub unsettled: u32,
}

/// A running node. Cheap to clone; the node stops when the last handle is gone, without writing
/// anything more (as after a kill). Use [`Handle::stop`] for a clean end.
pub struct Handle<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    owner: Arc<Owner<M, T>>,
}

/// Ends the threads when the last handle goes.
struct Owner<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    shared: Arc<Shared<M, T>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// [`start`] of a node that has no peers: returns when every shard of it leads.
///
/// # Errors
/// See [`Error`].
pub fn open<M, T>(
    options: &Options,
    machine: impl Fn(ShardId) -> M,
    sink: Arc<dyn Sink<M, T>>,
) -> Result<Handle<M, T>, Error>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    let handle = start(options, machine, sink)?;
    handle.wait_led(Duration::from_secs(START_SECONDS_MAX))?;
    Ok(handle)
}

/// Opens the data folder, recovers what it holds and starts the lane. A blank folder becomes the
/// first node of a cluster ([`crate::adopt`] makes it another one's before). `machine` makes the
/// empty machine of a queue shard; `sink` gets the first outputs (all rows) before this returns.
///
/// # Errors
/// See [`Error`]. Nothing is changed on disk when the folder is locked or foreign.
pub fn start<M, T>(
    options: &Options,
    machine: impl Fn(ShardId) -> M,
    sink: Arc<dyn Sink<M, T>>,
) -> Result<Handle<M, T>, Error>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    let clock = Clock::start();
    let local = Local::open(&options.folder, options.shards, LANES)?;
    let folder = options.folder.join("lane-0");
    let io = |action| {
        let path = folder.clone();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    };
    let opened = Files::open(&folder);
    let files = Arc::new(opened.map_err(io("open"))?);
    let lane_options = lane_options(options, &local)?;
    let lane = Lane::recover(lane_options, &mut &*files, machine);
    let lane = lane.map_err(|cause| Error::Recovery {
        folder: folder.clone(),
        cause: cause.to_string(),
    })?;
    let shared = Arc::new(Shared::new(lane, sink, clock, files, local));
    shared.start_disk().map_err(io("start disk threads of"))?;
    if let Some(replica) = shared.local.identity.replica {
        let shard = ShardId::DEFINITIONS;
        shared.inbox().push_back(Input::Host { shard, replica });
    }
    // Here, so that the sink has all rows before anybody has the handle.
    shared.step_in_place();
    let served = Arc::clone(&shared);
    let builder = std::thread::Builder::new().name("warren-lane".to_owned());
    let thread = builder.spawn(move || served.serve());
    let thread = thread.map_err(io("start the lane's thread of"))?;
    Ok(Handle {
        owner: Arc::new(Owner {
            shared,
            thread: Mutex::new(Some(thread)),
        }),
    })
}

fn lane_options(options: &Options, local: &Local) -> Result<lane::Options, Error> {
    let identity = local.identity;
    // Not drawn: a leader ignores a life smaller than the newest that it heard of in its term.
    let life = Life(local.incarnation);
    let is_first = identity.replica.is_none();
    Ok(lane::Options {
        founders: is_first.then_some(identity.node).into_iter().collect(),
        log: identity.log,
        seed: local::random()?,
        segment_bytes: options.segment_bytes,
        young_bytes: options.young_bytes,
        transfer_bytes_per_second: options.transfer_bytes_per_second,
        read_cache_bytes: options.read_cache_bytes,
        sync_is_left_to_the_os: options.sync_is_left_to_the_os,
        ..lane::Options::new(identity.node, life, identity.shards)
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
        if inputs.is_empty() {
            return;
        }
        self.shared().inbox().extend(inputs.drain(..));
        self.shared().step_in_place();
    }

    /// How many inputs wait for their turn: what back-pressure looks at.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared().inbox().len()
    }

    /// Writes checkpoints, syncs and ends the lane; false when that took longer than `within`
    /// (the log is whole in any case, the next start just replays more of it).
    #[must_use]
    pub fn stop(&self, within: Duration) -> bool {
        self.submit(&mut vec![Input::Stop]);
        self.shared().wait(|progress| progress.stopped, within)
    }

    /// Waits until every shard that this node has a replica of has a leader, itself or another.
    ///
    /// # Errors
    /// [`Error::Stalled`] when that takes longer than `within`.
    pub fn wait_led(&self, within: Duration) -> Result<(), Error> {
        if self.shared().wait(|progress| progress.led, within) {
            return Ok(());
        }
        let seconds = within.as_secs();
        Err(Error::Stalled { seconds })
    }

    /// What this node knows of a logged shard; waits for the turn in progress, if there is one.
    #[must_use]
    pub fn shard_status(&self, shard: ShardId) -> Option<ShardStatus> {
        self.shared().shards_status([shard]).pop()
    }

    /// What this node leads; waits for the turn in progress, if there is one.
    #[must_use]
    pub fn leads(&self) -> Leads {
        let shared = self.shared();
        let directory = shared.peers.directory.borrow().clone();
        let mut leads = Leads::default();
        for status in shared.shards_status(all_shards(shared.shards)) {
            if status.leader.is_none_or(|(_, node)| node != shared.node) {
                continue;
            }
            leads.shards += 1;
            leads.replicas += status.members.all().count() as u32;
            let row = directory.replicas.get(&status.shard);
            let settled = row.is_none_or(|row| is_settled(&row.value, &status));
            leads.unsettled += u32::from(!settled);
        }
        leads
    }

    /// The cluster that the node is of.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        ClusterId(self.shared().local.identity.cluster)
    }

    /// Whether the node made its cluster.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.shared().local.identity.replica.is_none()
    }

    /// The node's identity, given at its first start.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared().node
    }

    /// Whether there is a way to another node; it may have stopped all the same.
    #[must_use]
    pub fn has_way_to(&self, node: NodeId) -> bool {
        self.shared().peers.reachable.borrow().contains(&node)
    }

    /// Whether there has been no way to a node, or no word of it, for longer than any lease lasts.
    /// Waits for the turn in progress, if there is one.
    #[must_use]
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.shared().is_gone(node)
    }

    /// Whether this node and another one have all of each other's rows, but for what is on its way.
    /// Waits for the turn in progress, if there is one.
    #[must_use]
    pub fn is_in_step_with(&self, node: NodeId) -> bool {
        self.shared().is_in_step_with(node)
    }

    /// Until when messages may be routed by the definitions that the sink was told of (rule 10).
    #[must_use]
    pub fn fresh_until(&self) -> Instant {
        self.shared().fresh_until()
    }

    /// Whether this node does not hear from the leader of the definitions: nothing may be routed.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.shared().is_behind()
    }

    /// By how many milliseconds this node's clock on the wall is ahead of the median of its
    /// cluster's, if that is too many for it to lead (rule 12).
    #[must_use]
    pub fn clock_off_millis(&self) -> Option<i64> {
        self.shared().clock_off_millis()
    }

    /// The life of this process: larger than that of every earlier start.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.shared().local.incarnation
    }

    /// A life later than all before, which the next start's will be later than. Waits for a disk.
    ///
    /// # Errors
    /// When the local store cannot keep it.
    pub fn next_incarnation(&self) -> Result<u64, Error> {
        self.shared().local.next_incarnation()
    }

    /// How many queue shards there are: 1..=`shards` are logged.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.shared().shards
    }

    /// Both clocks as the lane sees them.
    #[must_use]
    pub fn now(&self) -> Now {
        self.shared().clock.now()
    }

    /// The monotonic one alone.
    #[must_use]
    pub fn mono(&self) -> Instant {
        self.shared().clock.mono()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared().status()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<M, T>> {
        &self.owner.shared
    }
}

impl<M, T> Clone for Handle<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    fn clone(&self) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
        }
    }
}

impl<M, T> Drop for Owner<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    fn drop(&mut self) {
        self.shared.quit();
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // When it has panicked, that was reported.
            let _ = thread.join();
        }
        self.shared.end_disk();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    /// A leader ignores a life smaller than the newest that it heard of in its term, so a node
    /// that restarts with one would be deaf until the next term.
    #[test]
    fn every_start_lives_a_larger_life() {
        let folder = Folder::new("life");
        let options = Options::new(folder.path().to_owned(), "one".to_owned());
        let lives = [(); 8].map(|()| {
            let local = Local::open(&options.folder, options.shards, LANES).expect("opens");
            lane_options(&options, &local).expect("options").life
        });
        assert!(lives.is_sorted_by(|a, b| a < b), "{lives:?}");
    }
}

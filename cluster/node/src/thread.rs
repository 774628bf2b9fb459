//! Steps a lane: in the thread that brings work when it is idle, else in a thread of its own.
//!
//! Always holds:
//! - the lane is stepped under its lock alone, and the sink gets outputs in that order;
//! - whoever leaves the lock looks into the inbox again, so that no input waits unseen;
//! - the lane's own thread sleeps until the lane's next deadline, or until it is told that the
//!   inbox is not empty for long: an idle lane wakes nobody.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::Duration;

use warren_cluster_core::ids::{Instant, NodeId, ShardId};
use warren_cluster_core::inbox::{Input, Outputs};
use warren_cluster_core::lane::{Lane, ShardStatus};
use warren_cluster_core::log::disk::{Completion, Op};
use warren_cluster_core::machine::Machine;

use crate::clock::Clock;
use crate::disk::{Disk, Files};
use crate::handle::Status;
use crate::local::Local;
use crate::peers::Peers;
use crate::sink::Sink;

/// Turns that a thread which brings work gives the lane before the lane's own thread takes over.
const TURNS_IN_PLACE: u32 = 4;
/// Free disk space is looked at this often, while there is anything to do.
const FREE_DISK_EVERY_MILLIS: u64 = 1000;
/// Inputs that room is kept for.
const INPUTS_KEPT: usize = 1024;
/// Exit code of a process whose log failed.
const EXIT_FAILED: i32 = 3;

/// Everything that a node's threads share.
pub(crate) struct Shared<M: Machine, T> {
    pub(crate) inbox: Mutex<VecDeque<Input<M::Input, T>>>,
    pub(crate) sink: Arc<dyn Sink<M, T>>,
    pub(crate) clock: Clock,
    pub(crate) node: NodeId,
    pub(crate) shards: u32,
    driver: Mutex<Driver<M, T>>,
    files: Arc<Files>,
    /// The lane's own thread, and until when it sleeps (microseconds of the clock).
    thread: OnceLock<Thread>,
    sleeps_until: AtomicU64,
    quit: AtomicBool,
    /// Of [`Lane::fresh_until`], after the sink has what the lane acts on; in microseconds.
    fresh_until: AtomicU64,
    /// Of [`Lane::clock_off_millis`]; 0 for none.
    clock_off: AtomicI64,
    progress: Mutex<Progress>,
    progressed: Condvar,
    /// The way to other nodes.
    pub(crate) peers: Peers,
    /// Holds the data folder's lock.
    pub(crate) local: Local,
}

/// A lane and what its steps work with.
struct Driver<M: Machine, T> {
    lane: Lane<M, T>,
    inputs: VecDeque<Input<M::Input, T>>,
    outputs: Outputs<M::Effect, T>,
    ops: Vec<Op>,
    disk: Option<Disk>,
    free_disk_at: Instant,
    /// Every shard had a leader once.
    led: bool,
}

/// What a caller may wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// Every shard that is here has had a leader.
    pub(crate) led: bool,
    /// Everything is on disk, nothing will come.
    pub(crate) stopped: bool,
}

impl<M, T> Shared<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    pub(crate) fn new(
        lane: Lane<M, T>,
        sink: Arc<dyn Sink<M, T>>,
        clock: Clock,
        files: Arc<Files>,
        local: Local,
    ) -> Self {
        Self {
            inbox: Mutex::new(VecDeque::new()),
            sink,
            clock,
            node: local.identity.node,
            shards: local.identity.shards,
            driver: Mutex::new(Driver {
                lane,
                inputs: VecDeque::new(),
                outputs: Outputs::default(),
                ops: Vec::new(),
                disk: None,
                free_disk_at: Instant(0),
                led: false,
            }),
            files,
            thread: OnceLock::new(),
            sleeps_until: AtomicU64::new(0),
            quit: AtomicBool::new(false),
            fresh_until: AtomicU64::new(0),
            clock_off: AtomicI64::new(0),
            progress: Mutex::new(Progress::default()),
            progressed: Condvar::new(),
            peers: Peers::new(),
            local,
        }
    }

    /// Starts the disk's threads; their completions step the lane in place.
    pub(crate) fn start_disk(self: &Arc<Self>) -> std::io::Result<()> {
        let weak = Arc::downgrade(self);
        let complete = Arc::new(move |completion: Completion| {
            if let Some(shared) = weak.upgrade() {
                shared.inbox().push_back(Input::Disk(completion));
                shared.step_in_place();
            }
        });
        let disk = Disk::start(&self.files, self.clock, &(complete as _))?;
        self.lock_driver().disk = Some(disk);
        Ok(())
    }

    pub(crate) fn inbox(&self) -> MutexGuard<'_, VecDeque<Input<M::Input, T>>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps the lane in this thread if nobody else does.
    pub(crate) fn step_in_place(&self) {
        loop {
            let mut driver = match self.driver.try_lock() {
                Ok(driver) => driver,
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(_)) => fail("the lane's thread has panicked"),
            };
            let mut turns = 0;
            let more = loop {
                let more = self.turn(&mut driver);
                turns += 1;
                if !more || turns == TURNS_IN_PLACE {
                    break more;
                }
            };
            let deadline = driver.lane.deadline();
            drop(driver);
            self.hand_out();
            if more {
                self.wake();
                return;
            }
            self.wake_before(deadline);
            if self.inbox().is_empty() {
                return;
            }
        }
    }

    /// The life of the lane's own thread.
    pub(crate) fn serve(&self) {
        let _ = self.thread.set(std::thread::current());
        while !self.quit.load(Ordering::Acquire) {
            let mut driver = self.lock_driver();
            let more = self.turn(&mut driver);
            let until = driver
                .lane
                .deadline()
                .map_or(u64::MAX, |deadline| deadline.0);
            if !more {
                // Under the lock: whoever steps the lane next sees for how long this thread
                // means to sleep.
                self.sleeps_until.store(until, Ordering::SeqCst);
            }
            drop(driver);
            self.hand_out();
            // Whoever put something in meanwhile may have met this thread's lock.
            if !more && self.inbox().is_empty() {
                self.sleep(until);
            }
            self.sleeps_until.store(0, Ordering::SeqCst);
        }
    }

    /// The lane's lock is free: tells others what the last turns had for them.
    fn hand_out(&self) {
        self.peers.send();
        self.sink.flush();
    }

    fn sleep(&self, until: u64) {
        if until == u64::MAX {
            std::thread::park();
        } else {
            let now = self.clock.mono().0;
            std::thread::park_timeout(Duration::from_micros(until.saturating_sub(now)));
        }
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Wakes the lane's thread when it sleeps beyond `deadline`.
    fn wake_before(&self, deadline: Option<Instant>) {
        if deadline.is_some_and(|it| it.0 < self.sleeps_until.load(Ordering::SeqCst)) {
            self.wake();
        }
    }

    /// Ends the lane's thread, whatever waits.
    pub(crate) fn quit(&self) {
        self.quit.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends the disk's threads after what they have begun: nobody else steps the lane then.
    pub(crate) fn end_disk(&self) {
        let disk = self.lock_driver().disk.take();
        drop(disk);
    }

    fn lock_driver(&self) -> MutexGuard<'_, Driver<M, T>> {
        let Ok(driver) = self.driver.lock() else {
            fail("the lane's thread has panicked");
        };
        driver
    }

    pub(crate) fn fresh_until(&self) -> Instant {
        Instant(self.fresh_until.load(Ordering::Acquire))
    }

    pub(crate) fn is_behind(&self) -> bool {
        // The clock is read last: else the moment may be over by then, and look as if it were not.
        let until = self.fresh_until();
        until <= self.clock.mono()
    }

    pub(crate) fn clock_off_millis(&self) -> Option<i64> {
        let off = self.clock_off.load(Ordering::Relaxed);
        (off != 0).then_some(off)
    }

    pub(crate) fn is_gone(&self, node: NodeId) -> bool {
        let now = self.clock.mono();
        self.lock_driver().lane.is_gone(node, now)
    }

    pub(crate) fn is_in_step_with(&self, node: NodeId) -> bool {
        self.lock_driver().lane.is_in_step_with(node)
    }

    /// One bounded turn; true when there is more to do at once.
    fn turn(&self, driver: &mut Driver<M, T>) -> bool {
        let now = self.clock.now();
        if driver.inputs.is_empty() {
            if driver.inputs.capacity() > INPUTS_KEPT {
                driver.inputs = VecDeque::new();
            }
            let mut inbox = self.inbox();
            std::mem::swap(&mut driver.inputs, &mut *inbox);
            self.peers.intake.taken();
        }
        if now.mono >= driver.free_disk_at {
            driver.free_disk_at = now.mono.plus_millis(FREE_DISK_EVERY_MILLIS);
            if let Ok(bytes) = self.files.free_bytes() {
                driver.inputs.push_back(Input::FreeDisk { bytes });
            }
        }
        let Driver {
            lane,
            inputs,
            outputs,
            ops,
            ..
        } = driver;
        let more = match lane.step(now, inputs, outputs, ops) {
            Ok(more) => more,
            Err(error) => fail(&error.to_string()),
        };
        if let Some(disk) = &driver.disk {
            disk.submit(&mut driver.ops);
        }
        if !driver.outputs.is_empty() {
            let mut mail = std::mem::take(&mut driver.outputs.mail);
            let hosted = self.peers.take(self.node, &mut driver.outputs);
            let mut follow_ups = VecDeque::from(hosted);
            self.sink.outputs(&mut driver.outputs, &mut follow_ups);
            // Before what was left over: when the lane takes what others say of rows, all that
            // follows from those has been asked.
            while let Some(input) = follow_ups.pop_back() {
                driver.inputs.push_front(input);
            }
            // It may say that this node acts on what the sink has just taken.
            self.peers.post(&mut mail);
            driver.outputs.mail = mail;
        }
        let fresh_until = driver.lane.fresh_until().0;
        self.fresh_until.store(fresh_until, Ordering::Release);
        let off = driver.lane.clock_off_millis().unwrap_or(0);
        self.clock_off.store(off, Ordering::Relaxed);
        self.note(driver);
        driver.outputs.clear();
        more || !driver.inputs.is_empty()
    }

    /// Tells those who wait for the lane as a whole.
    fn note(&self, driver: &mut Driver<M, T>) {
        let led = !driver.led && driver.lane.all_led();
        if !led && !driver.outputs.stopped {
            return;
        }
        driver.led |= led;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.led |= led;
        progress.stopped |= driver.outputs.stopped;
        self.progressed.notify_all();
    }

    /// Waits until the lane has come as far as `enough` wants; false when that took too long.
    pub(crate) fn wait(&self, enough: impl Fn(Progress) -> bool, within: Duration) -> bool {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .progressed
            .wait_timeout_while(progress, within, |progress| !enough(*progress));
        let (progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        enough(*progress)
    }

    /// Logged shards as this node knows them, those that `wanted` names; waits for the turn in
    /// progress, if there is one.
    pub(crate) fn shards_status(
        &self,
        wanted: impl IntoIterator<Item = ShardId>,
    ) -> Vec<ShardStatus> {
        let driver = self.lock_driver();
        let wanted = wanted.into_iter();
        wanted
            .filter_map(|shard| driver.lane.status(shard))
            .collect()
    }

    /// Figures of the lane; waits for the turn in progress, if there is one.
    pub(crate) fn status(&self) -> Status {
        let driver = self.lock_driver();
        let figures = driver.lane.figures();
        let gauges = driver.disk.as_ref().map(|disk| &disk.gauges);
        let syncs = gauges.map_or(0, |gauges| gauges.syncs.load(Ordering::Relaxed));
        let since = gauges.map_or(0, |gauges| gauges.sync_since.load(Ordering::Relaxed));
        let now = self.clock.mono().0;
        Status {
            log_bytes: figures.log_bytes,
            segments: figures.segments,
            young_bytes: figures.young_bytes,
            memory_bytes: figures.memory_bytes,
            syncs,
            sync_micros: if since == 0 {
                0
            } else {
                now.saturating_sub(since)
            },
        }
    }
}

/// The log cannot be trusted any more: what is in memory must not be acted upon.
fn fail(cause: &str) -> ! {
    tracing::error!("the node stops: {cause}");
    std::process::exit(EXIT_FAILED);
}

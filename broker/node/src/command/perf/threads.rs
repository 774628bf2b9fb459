//! The threads that carry the load: each with a runtime of its own, so that a task never moves and
//! a wake-up crosses no thread.

use std::future::Future;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task;

/// Running threads; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    running: Vec<Thread>,
    next: usize,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// Dropping it ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    /// # Errors
    /// When the system has no more threads or descriptors.
    pub(super) fn start(count: usize) -> Result<Self> {
        let mut running = Vec::with_capacity(count);
        for _ in 0..count.max(1) {
            let runtime = runtime()?;
            let handle = runtime.handle().clone();
            let (end, ended) = oneshot::channel();
            let thread = std::thread::Builder::new()
                .name("warren-perf".to_owned())
                .spawn(move || {
                    // An error is the sender's end, which is what it waits for.
                    let _ = runtime.block_on(ended);
                })
                .context("cannot start a thread")?;
            running.push(Thread {
                runtime: handle,
                end: Some(end),
                thread: Some(thread),
            });
        }
        Ok(Self { running, next: 0 })
    }

    /// Starts a task on the next thread, in turn.
    pub(super) fn spawn<T: Send + 'static>(
        &mut self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> task::JoinHandle<T> {
        let thread = &self.running[self.next % self.running.len()];
        self.next += 1;
        thread.runtime.spawn(future)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in &mut self.running {
            thread.end = None;
        }
        for thread in &mut self.running {
            if let Some(thread) = thread.thread.take() {
                // A panic in a task was already told by its handle.
                let _ = thread.join();
            }
        }
    }
}

/// A runtime of one thread.
///
/// # Errors
/// When the process may open no more descriptors.
pub(super) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

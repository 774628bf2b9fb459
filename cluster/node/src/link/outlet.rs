//! Where one connection's messages go out: its task writes them, and so does whoever brings some
//! from a thread outside of the runtime, if nobody else is at it: to wake the runtime's thread,
//! which sleeps while nodes wait for disks, costs more than the write and comes later.
//!
//! Always holds:
//! - one thread writes at a time, in the queue's order, and nobody waits for the one that does:
//!   who finds another at it wakes the task, and the task leaves the rest to the other;
//! - who has written in the task's place looks into the queue again after it has let go, and wakes
//!   the task if there is more: no message waits unseen;
//! - what could not be written at once is the task's: nobody else goes on with it, as the
//!   connection wakes who tried last.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::queue::{Queue, weight};

/// Bytes that are written before the queue is looked at again.
const WRITE_BYTES_LIMIT: usize = 1 << 20;
/// Slices of one write; the system takes no more than 1024.
const SLICES_LIMIT: usize = 64;
/// More than so many bytes are the task's: a thread that brings them has something better to do
/// than to encrypt them.
const AT_ONCE_BYTES_LIMIT: usize = 16 << 10;

/// A connection's way out.
type Out = Box<dyn AsyncWrite + Send + Unpin>;

/// One connection's outgoing messages, and who writes them.
pub(super) struct Outlet {
    pub(super) queue: Queue,
    /// None while there is no connection.
    writer: Mutex<Option<Writer>>,
    /// Wakes the task.
    wake: Notify,
}

struct Writer {
    out: Out,
    /// What was taken from the queue and not yet written.
    slices: VecDeque<Bytes>,
    /// What `slices` counted for when it was taken.
    weight: usize,
    is_flushed: bool,
    /// What somebody else than the task met.
    fault: Option<io::Error>,
}

impl Outlet {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            queue,
            writer: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// There is something to write. `is_asleep` says whether all threads of the runtime sleep: one
    /// that does not comes to the task without being woken, and writes what has come until then
    /// with it.
    pub(super) fn wake(&self, is_asleep: bool) {
        if !is_asleep || self.queue.bytes() > AT_ONCE_BYTES_LIMIT || !self.write_now() {
            self.wake.notify_one();
        }
    }

    /// The connection is gone, and what waited with it.
    pub(super) fn shut(&self) {
        self.queue.shut();
        self.wake.notify_one();
    }

    /// Nothing more comes in; the task ends once all is written.
    pub(super) fn drain(&self) {
        self.queue.drain();
        self.wake.notify_one();
    }

    /// Writes what waits, in this thread; false when the task has to.
    fn write_now(&self) -> bool {
        let Some(mut held) = self.try_writer() else {
            return false;
        };
        let Some(writer) = held.as_mut().filter(|writer| !writer.is_midway()) else {
            return false;
        };
        let written = writer.poll(&mut Context::from_waker(Waker::noop()), &self.queue);
        let is_done = match written {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                writer.fault = Some(error);
                false
            }
            Poll::Pending => false,
        };
        drop(held);
        // The task may have been woken meanwhile, and found this thread at it.
        is_done && self.queue.is_idle()
    }

    /// Writes to `out` what comes, until nothing more will come; then ends it.
    ///
    /// # Errors
    /// Those of `out`, whoever met them.
    pub(super) async fn serve(&self, out: Out) -> io::Result<()> {
        let serving = Serving::begin(self, out);
        loop {
            // Made before the look, so that what comes in between wakes it.
            let woken = self.wake.notified();
            let is_over = std::future::poll_fn(|context| self.poll(context)).await?;
            if is_over {
                break;
            }
            woken.await;
        }
        serving.end().shutdown().await
    }

    /// For the task: writes what waits; gives whether nothing more will come.
    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Some(mut held) = self.try_writer() else {
            // Who holds it wakes the task if anything is left.
            return Poll::Ready(Ok(false));
        };
        let Some(writer) = held.as_mut() else {
            return Poll::Ready(Ok(true));
        };
        // Before the queue is emptied: what comes after this look wakes the task.
        let is_over = self.queue.is_closed();
        ready!(writer.poll(context, &self.queue))?;
        drop(held);
        Poll::Ready(Ok(is_over))
    }

    /// None when somebody else has it.
    fn try_writer(&self) -> Option<MutexGuard<'_, Option<Writer>>> {
        match self.writer.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        }
    }
}

impl Writer {
    /// Whether something was begun that only the task goes on with.
    fn is_midway(&self) -> bool {
        !self.slices.is_empty() || !self.is_flushed || self.fault.is_some()
    }

    /// Writes what was taken and all that waits.
    fn poll(&mut self, context: &mut Context<'_>, queue: &Queue) -> Poll<io::Result<()>> {
        if let Some(fault) = self.fault.take() {
            return Poll::Ready(Err(fault));
        }
        loop {
            if self.slices.is_empty() {
                queue.take(self.weight, &mut self.slices, WRITE_BYTES_LIMIT);
                self.weight = weight(&self.slices);
            }
            if self.slices.is_empty() {
                break;
            }
            self.is_flushed = false;
            ready!(self.poll_slices(context))?;
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.out).poll_flush(context))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_slices(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.slices.is_empty() {
            let mut vector = [IoSlice::new(&[]); SLICES_LIMIT];
            let count = self.slices.len().min(SLICES_LIMIT);
            for (place, slice) in vector.iter_mut().zip(self.slices.iter()) {
                *place = IoSlice::new(slice);
            }
            let out = Pin::new(&mut self.out);
            let mut written = ready!(out.poll_write_vectored(context, &vector[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(first) = self.slices.front_mut() {
                if written < first.len() {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                self.slices.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The time in which a connection is there: wherever the task ends, nobody writes to it any more.
struct Serving<'a>(&'a Outlet);

impl<'a> Serving<'a> {
    fn begin(outlet: &'a Outlet, out: Out) -> Self {
        *lock(&outlet.writer) = Some(Writer {
            out,
            slices: VecDeque::new(),
            weight: 0,
            is_flushed: true,
            fault: None,
        });
        Self(outlet)
    }

    /// Gives the way out back.
    fn end(self) -> Out {
        let writer = lock(&self.0.writer).take();
        writer.expect("taken at the end alone").out
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        *lock(&self.0.writer) = None;
    }
}

fn lock(writer: &Mutex<Option<Writer>>) -> MutexGuard<'_, Option<Writer>> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::super::frame::{self, HEAD_BYTES};
    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    /// An outlet that is served, with the other end of its connection, which holds so many bytes.
    async fn served(room: usize) -> (Arc<Outlet>, DuplexStream, JoinHandle<io::Result<()>>) {
        let outlet = Arc::new(Outlet::new(Queue::new(1 << 20, 1 << 20)));
        outlet.queue.open();
        let (near, far) = duplex(room);
        let serving = Arc::clone(&outlet);
        let task = tokio::spawn(async move { serving.serve(Box::new(near)).await });
        while lock(&outlet.writer).is_none() {
            tokio::task::yield_now().await;
        }
        (outlet, far, task)
    }

    fn push(outlet: &Outlet, message: &[u8]) {
        assert!(outlet.queue.push([Bytes::copy_from_slice(message)]));
    }

    /// What can be read without anybody else having a turn.
    fn there(far: &mut DuplexStream) -> usize {
        let mut bytes = [0; 1024];
        let mut buffer = tokio::io::ReadBuf::new(&mut bytes);
        let mut context = Context::from_waker(Waker::noop());
        let read = tokio::io::AsyncRead::poll_read(Pin::new(far), &mut context, &mut buffer);
        if let Poll::Ready(read) = read {
            read.expect("reads");
        }
        buffer.filled().len()
    }

    async fn read(far: &mut DuplexStream) -> Vec<u8> {
        let read = timeout(WITHIN, frame::read(far, 1 << 20)).await;
        read.expect("in time").expect("a message").1.to_vec()
    }

    #[tokio::test]
    async fn while_the_runtime_sleeps_who_brings_a_message_writes_it() {
        let (outlet, mut far, _task) = served(1 << 10).await;
        push(&outlet, b"one");
        outlet.wake(false);
        assert_eq!(there(&mut far), 0, "left to the task");
        outlet.wake(true);
        assert_eq!(there(&mut far), HEAD_BYTES + 3);
        assert_eq!(outlet.queue.bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_much_is_left_to_the_task() {
        let (outlet, mut far, _task) = served(1 << 20).await;
        let message = vec![7; AT_ONCE_BYTES_LIMIT + 1];
        push(&outlet, &message);
        outlet.wake(true);
        assert_eq!(there(&mut far), 0);
        assert_eq!(read(&mut far).await, message);
    }

    #[tokio::test]
    async fn what_does_not_go_out_at_once_is_the_tasks() {
        let (outlet, mut far, task) = served(8).await;
        push(&outlet, b"longer than there is room for");
        outlet.wake(true);
        push(&outlet, b"another");
        outlet.wake(true);
        outlet.drain();
        assert_eq!(read(&mut far).await, b"longer than there is room for");
        assert_eq!(read(&mut far).await, b"another");
        let ended = timeout(WITHIN, task).await.expect("in time");
        ended.expect("no panic").expect("ends");
        assert_eq!(far.read(&mut [0]).await.expect("reads"), 0, "shut down");
        assert!(lock(&outlet.writer).is_none());
    }

    #[tokio::test]
    async fn the_task_hears_of_what_others_met() {
        let (outlet, far, task) = served(1 << 10).await;
        drop(far);
        push(&outlet, b"to nobody");
        outlet.wake(true);
        let ended = timeout(WITHIN, task).await.expect("in time");
        let error = ended.expect("no panic").expect_err("a fault");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_lost_or_overtaken_whoever_writes() {
        const THREADS: u8 = 3;
        const MESSAGES: u32 = 2000;
        let (outlet, mut far, task) = served(256).await;
        let threads = (0..THREADS).map(|thread| {
            let outlet = Arc::clone(&outlet);
            std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    let mut message = vec![thread];
                    message.extend(number.to_le_bytes());
                    while !outlet.queue.push([Bytes::copy_from_slice(&message)]) {
                        std::thread::yield_now();
                    }
                    outlet.wake(number % 3 != 0);
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        let mut next = [0; THREADS as usize];
        for _ in 0..u32::from(THREADS) * MESSAGES {
            let message = read(&mut far).await;
            let number = u32::from_le_bytes(message[1..].try_into().expect("four bytes"));
            let next = &mut next[usize::from(message[0])];
            assert_eq!(number, *next);
            *next += 1;
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
        outlet.drain();
        let ended = timeout(WITHIN, task).await.expect("in time");
        ended.expect("no panic").expect("ends");
        assert_eq!(outlet.queue.bytes(), 0);
    }
}

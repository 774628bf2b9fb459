//! The loop of one client connection: read, step the session, hand over its work, write.
//!
//! - The read buffer belongs to the thread, not to the connection: an idle connection holds
//!   none. What a frame cut in two leaves over is kept in a small buffer of its own.
//! - Nothing is read while the session does not want to (back-pressure is not reading).
//! - A turn is bounded; a busy connection goes to the end of the runtime's queue after it.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use warren_broker_core::dispatch::work::Work;
use warren_broker_core::session::event::Event;
use warren_broker_core::session::{Env, Session};
use warren_cluster_core::ids::Instant;

use crate::attention::Attention;
use crate::broker::Broker;
use crate::sessions::Mailbox;

/// Bytes read at once; a thread has one such buffer.
const READ_BYTES: usize = 256 * 1024;
/// Slices of one vectored write.
const SLICES: usize = 64;
/// Rounds of read, step and write before others get their turn.
const ROUNDS: usize = 8;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// One client's connection, from accept to close.
pub(crate) struct Connection {
    broker: Arc<Broker>,
    /// `None` once the connection has ended.
    stream: Option<TcpStream>,
    session: Session,
    mailbox: Arc<Mailbox>,
    /// Bytes that are not a whole frame yet, or that the session did not want to take yet.
    leftover: Vec<u8>,
    /// The session left bytes in `leftover` that it may take without new ones.
    stalled: bool,
    events: Vec<Event>,
    work: Work,
    timer: Option<Pin<Box<Sleep>>>,
    timer_at: Option<Instant>,
    attention: Attention,
    end: Option<End>,
}

/// Why a connection's task ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The session said so and all was written.
    Finished,
    /// The client closed its end or the socket failed.
    Lost,
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

impl Connection {
    pub(crate) fn new(
        broker: Arc<Broker>,
        stream: TcpStream,
        session: Session,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        Self {
            broker,
            stream: Some(stream),
            session,
            mailbox,
            leftover: Vec::new(),
            stalled: false,
            events: Vec::new(),
            work: Work::default(),
            timer: None,
            timer_at: None,
            attention: Attention::default(),
            end: None,
        }
    }

    fn with_env<R>(
        &mut self,
        step: impl FnOnce(&mut Session, Instant, &Env<'_>, &mut Work) -> R,
    ) -> R {
        let now = self.broker.now();
        let fresh_until = self.broker.lane().fresh_until();
        let topology = self.broker.topology();
        let env = self.broker.env(&topology, fresh_until);
        step(&mut self.session, now, &env, &mut self.work)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Progress {
        if self.stalled && self.session.wants_read() {
            self.stalled = false;
            let bytes = std::mem::take(&mut self.leftover);
            self.feed(&bytes);
            return Progress::Some;
        }
        if !self.session.wants_read() || self.stalled {
            return Progress::None;
        }
        self.read_some(cx)
    }

    /// Reads once and feeds the session.
    ///
    /// A read that does not fill the buffer has emptied the socket: what `poll_read` concludes from
    /// that saves the call that would find nothing.
    fn read_some(&mut self, cx: &mut Context<'_>) -> Progress {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let kept = self.leftover.len();
            if buffer.len() < kept + READ_BYTES / 2 {
                buffer.resize(kept + READ_BYTES, 0);
            }
            buffer[..kept].copy_from_slice(&self.leftover);
            let Some(stream) = &mut self.stream else {
                return Progress::None;
            };
            let mut input = ReadBuf::new(&mut buffer[kept..]);
            let count = match Pin::new(stream).poll_read(cx, &mut input) {
                Poll::Pending => return Progress::None,
                Poll::Ready(Ok(())) => input.filled().len(),
                Poll::Ready(Err(_)) => 0,
            };
            if count == 0 {
                self.end = Some(End::Lost);
                return Progress::None;
            }
            self.feed(&buffer[..kept + count]);
            self.broker.came_in(count);
            Progress::Some
        })
    }

    fn feed(&mut self, bytes: &[u8]) {
        let used =
            self.with_env(|session, now, env, work| session.handle_bytes(now, env, bytes, work));
        self.leftover.clear();
        self.leftover.extend_from_slice(&bytes[used..]);
        if self.leftover.is_empty() && self.leftover.capacity() > 1024 {
            self.leftover = Vec::new();
        }
        self.stalled = !self.leftover.is_empty() && !self.session.wants_read();
        self.hand_over();
    }

    fn hand_over(&mut self) {
        // Before the work, as a request may be answered before this returns.
        if let Some(consumers) = self.session.take_reply_consumers() {
            self.mailbox.set_replies(consumers);
        }
        if !self.work.items.is_empty() {
            self.broker.submit(self.session.id(), &mut self.work);
        }
    }

    fn take_events(&mut self) -> Progress {
        self.mailbox.take(&mut self.events);
        if self.events.is_empty() {
            return Progress::None;
        }
        let mut events = std::mem::take(&mut self.events);
        self.with_env(|session, now, env, work| {
            for event in events.drain(..) {
                session.handle_event(now, env, event, work);
            }
        });
        if events.capacity() <= 64 {
            self.events = events;
        }
        self.hand_over();
        Progress::Some
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Progress {
        let mut progress = Progress::None;
        loop {
            self.with_env(Session::pump);
            if self.session.outbox().is_empty() {
                break;
            }
            let Some(stream) = &self.stream else {
                break;
            };
            match stream.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => {
                    self.end = Some(End::Lost);
                    break;
                }
                Poll::Ready(Ok(())) => {}
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.session.outbox().fill(&mut slices);
            match stream.try_write_vectored(&slices[..filled]) {
                Ok(count) => {
                    self.session.outbox().advance(count);
                    progress = Progress::Some;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => {
                    self.end = Some(End::Lost);
                    break;
                }
            }
        }
        self.hand_over();
        progress
    }

    fn check_timer(&mut self, cx: &mut Context<'_>) -> Progress {
        let wanted = self.session.timeout();
        if wanted != self.timer_at {
            self.timer_at = wanted;
            match wanted {
                None => self.timer = None,
                Some(at) => {
                    let deadline = self.broker.tokio_instant(at);
                    match &mut self.timer {
                        Some(timer) => timer.as_mut().reset(deadline),
                        None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
                    }
                }
            }
        }
        let Some(timer) = &mut self.timer else {
            return Progress::None;
        };
        if timer.as_mut().poll(cx).is_pending() {
            return Progress::None;
        }
        self.timer_at = None;
        self.timer = None;
        self.with_env(Session::handle_timeout);
        self.hand_over();
        Progress::Some
    }

    /// The socket's end: it closes now, and what the session held goes back.
    fn release(&mut self) {
        self.log_end();
        self.stream = None;
        self.timer = None;
        self.leftover = Vec::new();
        self.with_env(Session::handle_disconnect);
        self.hand_over();
    }

    fn log_end(&self) {
        let info = self.session.info();
        let (address, port) = (info.peer.address, info.peer.port);
        if let Some(error) = self.session.login_error() {
            tracing::warn!(%address, port, %error, "login refused");
        } else {
            let lost = self.end == Some(End::Lost);
            tracing::debug!(%address, port, user = %info.user, lost, "connection ended");
        }
    }

    /// One round of everything; false when nothing moved.
    fn round(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = self.read(cx) == Progress::Some;
        progress |= self.take_events() == Progress::Some;
        progress |= self.check_timer(cx) == Progress::Some;
        progress |= self.write(cx) == Progress::Some;
        if self.session.is_finished() && self.session.outbox().is_empty() {
            self.end = Some(End::Finished);
        }
        progress
    }

    /// Waits, without a socket, for what the session has begun and must bring to its end.
    fn poll_over(&mut self, cx: &Context<'_>) -> Poll<()> {
        loop {
            self.take_events();
            if self.session.is_over() {
                self.broker.session_closed(self.session.id());
                return Poll::Ready(());
            }
            if self.mailbox.sleep(cx.waker()) {
                return Poll::Pending;
            }
        }
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.mailbox.awake();
        if this.end.is_some() {
            return this.poll_over(cx);
        }
        for _ in 0..ROUNDS {
            let progress = this.round(cx);
            if this.end.is_some() {
                this.release();
                return this.poll_over(cx);
            }
            if progress {
                this.attention.moved(this.broker.now());
            } else if this.attention.stays(this.broker.now()) {
                // Comes back after the runtime has asked the system for new events.
                let yielded = std::pin::pin!(tokio::task::yield_now());
                return yielded.poll(cx);
            } else if this.mailbox.sleep(cx.waker()) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

//! One peer as all tasks see it: where it is, what waits for it, whether it is to go.

use std::sync::Mutex;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use warren_cluster_core::ids::NodeId;

use super::outlet::Outlet;
use super::queue::Queue;
use super::{CLASSES, Class, LinkOptions, LinkStatus};

/// What a peer's dialing task is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub(super) addresses: Vec<String>,
    pub(super) course: Course,
}

/// Where a peer is headed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Course {
    Linked,
    /// Write what waits, and link no more.
    Draining,
    /// At once.
    Ended,
}

/// How a peer's link is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// An earlier life of the peer has not ended yet.
    Waiting,
    Unlinked {
        fault: Option<String>,
    },
    Linked {
        incarnation: u64,
    },
    /// The dialing task is over.
    Over,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    outlets: [Outlet; CLASSES],
    wanted: watch::Sender<Wanted>,
    state: watch::Sender<State>,
    /// What reads its messages, by class. An async lock: it is held while an older one ends.
    pub(super) readers: [tokio::sync::Mutex<Option<JoinHandle<()>>>; CLASSES],
    /// The newest incarnation that it said on any connection.
    newest: Mutex<u64>,
}

impl Peer {
    pub(super) fn new(node: NodeId, addresses: Vec<String>, options: &LinkOptions) -> Self {
        let outlet = |class| {
            Outlet::new(Queue::new(
                options.queue_bytes_limit(class),
                options.message_bytes_limit(class),
            ))
        };
        let course = Course::Linked;
        Self {
            node,
            outlets: Class::ALL.map(outlet),
            wanted: watch::Sender::new(Wanted { addresses, course }),
            state: watch::Sender::new(State::Waiting),
            readers: Default::default(),
            newest: Mutex::new(0),
        }
    }

    pub(super) fn outlet(&self, class: Class) -> &Outlet {
        &self.outlets[class as usize]
    }

    pub(super) fn move_to(&self, addresses: Vec<String>) {
        self.wanted.send_if_modified(|wanted| {
            let moved = wanted.addresses != addresses;
            wanted.addresses = addresses;
            moved
        });
    }

    pub(super) fn drain(&self) {
        self.steer(Course::Draining);
        self.outlets.iter().for_each(Outlet::drain);
    }

    pub(super) fn end(&self) {
        self.steer(Course::Ended);
    }

    /// Courses go one way.
    fn steer(&self, course: Course) {
        self.wanted.send_if_modified(|wanted| {
            let changes = wanted.course < course;
            wanted.course = wanted.course.max(course);
            changes
        });
    }

    pub(super) fn watch(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// Waits until it is to be ended.
    pub(super) async fn is_to_end(&self) {
        let mut wanted = self.watch();
        // The sender is in `self`.
        let _ = wanted
            .wait_for(|wanted| wanted.course == Course::Ended)
            .await;
    }

    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Waits until its turn has come.
    pub(super) async fn begun(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state != State::Waiting).await;
    }

    pub(super) fn is_over(&self) -> bool {
        *self.state.borrow() == State::Over
    }

    /// Waits until its link is down.
    pub(super) async fn unlinked(&self) {
        let mut state = self.state.subscribe();
        let _ = state
            .wait_for(|state| !matches!(state, State::Linked { .. }))
            .await;
    }

    /// Waits until nothing runs for it any more.
    pub(super) async fn ended(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state == State::Over).await;
        for reader in &self.readers {
            // Held, so that others who wait for the end wait for this one too.
            let mut reader = reader.lock().await;
            if let Some(reader) = reader.take() {
                // It ends by itself, or has panicked, which the runtime has said.
                let _ = reader.await;
            }
        }
    }

    /// Notes an incarnation that it said; none when a newer one is known, which is given.
    pub(super) fn met(&self, incarnation: u64) -> Result<(), u64> {
        let mut newest = self.newest.lock().expect("nothing panics under this lock");
        if incarnation < *newest {
            return Err(*newest);
        }
        *newest = incarnation;
        Ok(())
    }

    pub(super) fn status(&self) -> LinkStatus {
        let (connected, fault) = match &*self.state.borrow() {
            State::Linked { incarnation } => (Some(*incarnation), None),
            State::Unlinked { fault } => (None, fault.clone()),
            State::Waiting | State::Over => (None, None),
        };
        LinkStatus {
            peer: self.node,
            connected,
            waiting_bytes: Class::ALL.map(|class| self.outlet(class).queue.bytes()),
            dropped: Class::ALL.map(|class| self.outlet(class).queue.dropped()),
            fault,
        }
    }
}

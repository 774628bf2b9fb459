//! Operations as steps: access, validate, commit rows, tell the shard, answer.
//!
//! Channels, the HTTP API and imports all come through here. A step reads a topology and writes
//! work; nothing waits. A transaction's preconditions are what its step saw, so a lost race is a
//! conflict, and the operation is tried again on the newer topology.
//!
//! Queues are made and dropped in their shards by [`super::reconcile`], from the rows.

mod bindings;
mod exchanges;
pub mod lives;
mod queues;
mod removal;

#[cfg(test)]
mod tests;

use warren_cluster_core::rows::{Committed, Precondition};
use warren_protocol::ReplyCode;

use super::operation::{Actor, Answer, Operation, Response};
use super::work::Work;
use crate::auth::access::{self, Access, Resource};
pub use crate::definitions::Home;
use crate::definitions::{LifeRow, Store};
use crate::exception::Exception;
use crate::ids::{QueueId, SessionId, Token};
use crate::shard::effect::Reply;
use crate::topology::{Topology, Vhost};

/// Races that an operation may lose before it gives up.
const TRIES_MAX: u32 = 16;

/// What a step is shown.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub topology: &'a Topology,
    /// Drawn anew for each step.
    pub random: u64,
    /// Queue shards of the cluster: 1..=`shards`.
    pub shards: u32,
    pub home: Home,
}

/// How far an operation has come.
#[derive(Debug)]
pub enum Progress {
    /// It waits for a response with its token.
    Waiting(Control),
    Done(Result<Answer, Exception>),
}

/// An operation that waits.
#[derive(Debug)]
pub struct Control {
    operation: Operation,
    actor: Actor,
    token: Token,
    tries: u32,
    /// The queue that its leader has closed for this operation.
    closed: Option<QueueId>,
    stage: Stage,
}

/// What it waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// The rows of something new; a conflict begins anew.
    Writing(Answer),
    /// The queue's counts, for the answer to a declare.
    Counting {
        queue: QueueId,
        name: Vec<u8>,
    },
    /// The queue's leader decides whether it may be deleted.
    Closing {
        queue: QueueId,
    },
    /// The rows of a closed queue go; a conflict means that they are gone already.
    Removing(Answer),
    /// The rows of a closed queue go ahead of a declare of its name, passive or not, which begins
    /// anew.
    MakingWay,
    Purging,
}

/// What a step of one kind of operation comes to.
enum Next {
    Wait(Stage),
    Done(Answer),
}

/// What every kind of operation has at hand.
struct Step<'a, 's> {
    scene: &'a Scene<'s>,
    actor: &'a Actor,
    token: Token,
    work: &'a mut Work,
}

impl Control {
    /// Begins an operation. Its responses carry `token`.
    #[must_use]
    pub fn start(
        operation: Operation,
        actor: &Actor,
        scene: &Scene<'_>,
        token: Token,
        work: &mut Work,
    ) -> Progress {
        let control = Self {
            operation,
            actor: actor.clone(),
            token,
            tries: 0,
            closed: None,
            stage: Stage::Purging,
        };
        control.begin(scene, work)
    }

    /// Goes on with what the operation waited for.
    #[must_use]
    pub fn resume(self, response: Response, scene: &Scene<'_>, work: &mut Work) -> Progress {
        match (&self.stage, response) {
            (_, Response::NotCommitted) => Progress::Done(Err(unavailable())),
            (
                Stage::Writing(answer) | Stage::Removing(answer),
                Response::Committed(Committed::Yes { .. }),
            ) => Progress::Done(Ok(answer.clone())),
            (Stage::Writing(_), Response::Committed(Committed::Conflict { .. }))
            | (Stage::MakingWay, Response::Committed(_)) => self.begin(scene, work),
            (Stage::Removing(_), Response::Committed(Committed::Conflict { .. })) => {
                self.remove_again(scene, work)
            }
            (
                Stage::Counting { .. } | Stage::Closing { .. } | Stage::Purging,
                Response::Reply(reply),
            ) => self.replied(reply, scene, work),
            // A response to something else: it still waits for its own.
            (_, Response::Committed(_) | Response::Reply(_)) => Progress::Waiting(self),
        }
    }

    fn begin(mut self, scene: &Scene<'_>, work: &mut Work) -> Progress {
        self.tries += 1;
        if self.tries > TRIES_MAX {
            return Progress::Done(Err(unavailable()));
        }
        let mut step = Step {
            scene,
            actor: &self.actor,
            token: self.token,
            work,
        };
        let next = match &self.operation {
            Operation::DeclareQueue(declare) => step.declare_queue(declare),
            Operation::DeleteQueue {
                name,
                if_unused,
                if_empty,
            } => step.delete_queue(name, *if_unused, *if_empty),
            Operation::PurgeQueue { name } => step.purge_queue(name),
            Operation::DeclareExchange(declare) => step.declare_exchange(declare),
            Operation::DeleteExchange { name, if_unused } => step.delete_exchange(name, *if_unused),
            Operation::Bind(bind) => step.bind(bind),
            Operation::Unbind(bind) => step.unbind(bind),
        };
        self.settle(next)
    }

    /// What was to go has changed or is gone already: what is left of it goes now.
    fn remove_again(mut self, scene: &Scene<'_>, work: &mut Work) -> Progress {
        let (Stage::Removing(Answer::QueueDeleted { messages }), Some(queue)) =
            (&self.stage, self.closed)
        else {
            return self.begin(scene, work);
        };
        let messages = *messages;
        self.tries += 1;
        if self.tries > TRIES_MAX {
            return Progress::Done(Err(unavailable()));
        }
        let mut step = Step {
            scene,
            actor: &self.actor,
            token: self.token,
            work,
        };
        let next = step.remove_queue(queue, messages);
        self.settle(Ok(next))
    }

    fn replied(mut self, reply: Reply, scene: &Scene<'_>, work: &mut Work) -> Progress {
        let mut step = Step {
            scene,
            actor: &self.actor,
            token: self.token,
            work,
        };
        let next = match &self.stage {
            // The close came to nothing.
            Stage::Counting { .. } if reply == Reply::NotEmpty => return self.begin(scene, work),
            // Also where it is only looked for: what is said not to be there routes nothing.
            Stage::Counting { queue, .. } if is_closed(reply) => {
                let Some(stage) = step.make_way(*queue) else {
                    return self.begin(scene, work);
                };
                Ok(Next::Wait(stage))
            }
            Stage::Counting { name, .. } => step.counted(name, reply),
            Stage::Closing { queue } => {
                self.closed = Some(*queue);
                step.closed(*queue, &self.operation, reply)
            }
            Stage::Purging => step.purged(&self.operation, reply),
            Stage::Writing(_) | Stage::Removing(_) | Stage::MakingWay => {
                return Progress::Waiting(self);
            }
        };
        self.settle(next)
    }

    fn settle(mut self, next: Result<Next, Exception>) -> Progress {
        match next {
            Ok(Next::Wait(stage)) => {
                self.stage = stage;
                Progress::Waiting(self)
            }
            Ok(Next::Done(answer)) => Progress::Done(Ok(answer)),
            Err(exception) => Progress::Done(Err(exception)),
        }
    }
}

fn is_closed(reply: Reply) -> bool {
    matches!(reply, Reply::Closed { .. })
}

impl Step<'_, '_> {
    /// The vhost that the actor is in. It can go while a connection to it is open.
    fn vhost(&self) -> Result<&Vhost, Exception> {
        self.scene
            .topology
            .vhost(&self.actor.vhost)
            .map(AsRef::as_ref)
            .ok_or_else(|| {
                Exception::new(
                    ReplyCode::NotAllowed,
                    format!("vhost {} not found", self.actor.vhost),
                )
            })
    }

    /// The actor may do this with the resource.
    fn require(&self, access: Access, resource: Resource<'_>) -> Result<(), Exception> {
        let Actor { user, vhost, .. } = self.actor;
        access::check(self.scene.topology, user, vhost, access, resource)
    }

    /// The actor may do anything at all with the resource; the refusal names the first.
    fn require_any(&self, resource: Resource<'_>) -> Result<(), Exception> {
        let refused = self.require(Access::Configure, resource);
        if refused.is_err()
            && [Access::Write, Access::Read]
                .into_iter()
                .any(|access| self.require(access, resource).is_ok())
        {
            return Ok(());
        }
        refused
    }

    /// What must hold for something that lives with this node: its life is not over. `None` while
    /// no life of it was ever begun.
    fn alive(&self) -> Result<Option<Precondition>, Exception> {
        let Home { node, .. } = self.scene.home;
        if self.scene.topology.is_over(self.scene.home) {
            return Err(unavailable());
        }
        let life = self.scene.topology.life(node);
        Ok(life.map(|(version, _)| Precondition::Unchanged(LifeRow::key(node), version)))
    }

    fn asker(&self) -> SessionId {
        self.actor.session.unwrap_or(SessionId(0))
    }
}

/// Deletes the rows of queues that a session owned, when it ends. `token` is told when those that
/// all nodes share are gone.
///
/// A transaction a queue: one that is being deleted already must not keep the others.
pub fn end_session(topology: &Topology, session: SessionId, token: Token, work: &mut Work) {
    for queue in topology.queues_owned_by(session) {
        let mut removal = removal::Removal::new(topology);
        removal.queue(queue);
        let shared = queue.store == Store::Replicated;
        removal.submit(shared.then_some((Store::Replicated, token)), work);
    }
}

/// Deletes the rows of a queue that its leader has closed by itself (auto-delete).
pub fn remove_closed(topology: &Topology, queue: QueueId, work: &mut Work) {
    if let Some(queue) = topology.queue(queue) {
        let mut removal = removal::Removal::new(topology);
        removal.queue(queue);
        removal.submit(None, work);
    }
}

/// Deletes bindings one of whose ends is gone.
pub fn remove_dangling(topology: &Topology, work: &mut Work) {
    let mut removal = removal::Removal::new(topology);
    removal.dangling();
    removal.submit(None, work);
}

fn unavailable() -> Exception {
    Exception::new(
        ReplyCode::InternalError,
        "the definitions cannot be changed at the moment",
    )
}

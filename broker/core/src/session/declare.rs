//! Declarations, bindings, deletions and purges: handed to [`Control`], answered when it is done.
//!
//! Invariant: an operation that has begun goes to its end, whatever becomes of its channel.

use warren_protocol::methods::{
    ExchangeBindOk, ExchangeDeclareOk, ExchangeDeleteOk, ExchangeUnbindOk, QueueBindOk,
    QueueDeclareOk, QueueDeleteOk, QueuePurgeOk, QueueUnbindOk,
};
use warren_protocol::{Method, Table};

use super::channel::{Channel, Wait};
use super::common::{Common, Turn, short};
use super::direct_reply;
use super::fault::Fault;
use super::lookup;
use crate::dispatch::control::{Control, Progress, Scene};
use crate::dispatch::operation::{
    Answer, Bind, DeclareExchange, DeclareQueue, DestinationKind, Operation, Response,
};
use crate::ids::Token;

/// How an operation is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReplyTo {
    nowait: bool,
    /// Class and method id of the request.
    ids: (u16, u16),
}

impl Channel {
    /// Begins the operation that the method asks for.
    pub(super) fn operation(
        &mut self,
        method: &Method<'_>,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        if let Method::QueueDeclare(declare) = method
            && declare
                .queue
                .as_bytes()
                .starts_with(direct_reply::NAME.as_bytes())
        {
            let name = declare.queue.as_bytes();
            return self.declare_reply_queue(name, declare.nowait, common, turn);
        }
        let (operation, nowait) = self.translate(method)?;
        let Some(login) = &common.login else {
            return Err(lookup::unexpected(method));
        };
        let actor = login.actor.clone();
        let token = common.token(self.number);
        let reply = ReplyTo {
            nowait,
            ids: method.ids(),
        };
        common.settles.flush(turn.work);
        let scene = scene(common, turn);
        let progress = Control::start(operation, &actor, &scene, token, turn.work);
        self.progress(progress, token, reply, common)
    }

    /// The operation goes on with what it waited for; `true` when the channel waits no more.
    pub(super) fn resume(
        &mut self,
        token: Token,
        response: Response,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<bool, Fault> {
        let wait = match self.wait.take() {
            Some(wait) => *wait,
            None => return Ok(false),
        };
        match wait {
            Wait::Operation {
                token: asked,
                control,
                reply,
            } if asked == token => {
                let scene = scene(common, turn);
                let progress = control.resume(response, &scene, turn.work);
                self.progress(progress, token, reply, common)?;
                Ok(self.wait.is_none())
            }
            other => {
                self.wait = Some(Box::new(other));
                Ok(false)
            }
        }
    }

    fn progress(
        &mut self,
        progress: Progress,
        token: Token,
        reply: ReplyTo,
        common: &mut Common,
    ) -> Result<(), Fault> {
        match progress {
            Progress::Waiting(control) => {
                self.wait = Some(Box::new(Wait::Operation {
                    token,
                    control: Box::new(control),
                    reply,
                }));
                Ok(())
            }
            Progress::Done(Ok(answer)) => {
                self.answer(&answer, reply, common);
                Ok(())
            }
            Progress::Done(Err(exception)) => Err(Fault::from(exception).of(reply.ids)),
        }
    }

    fn answer(&mut self, answer: &Answer, reply: ReplyTo, common: &mut Common) {
        if let Answer::QueueDeclared { name, .. } = answer {
            self.last_queue = short(name);
        }
        if reply.nowait {
            return;
        }
        let channel = self.number;
        let count = |messages: u64| u32::try_from(messages).unwrap_or(u32::MAX);
        let out = common.out();
        match answer {
            Answer::QueueDeclared {
                ready, consumers, ..
            } => {
                let declared = QueueDeclareOk {
                    queue: self.last_queue.as_short_str(),
                    message_count: count(*ready),
                    consumer_count: *consumers,
                };
                declared.encode_frame(channel, out);
            }
            Answer::QueueDeleted { messages } => {
                let message_count = count(*messages);
                QueueDeleteOk { message_count }.encode_frame(channel, out);
            }
            Answer::QueuePurged { messages } => {
                let message_count = count(*messages);
                QueuePurgeOk { message_count }.encode_frame(channel, out);
            }
            Answer::Done => match reply.ids {
                (40, 10) => ExchangeDeclareOk.encode_frame(channel, out),
                (40, 20) => ExchangeDeleteOk.encode_frame(channel, out),
                (40, 30) => ExchangeBindOk.encode_frame(channel, out),
                (40, 40) => ExchangeUnbindOk.encode_frame(channel, out),
                (50, 20) => QueueBindOk.encode_frame(channel, out),
                (50, 50) => QueueUnbindOk.encode_frame(channel, out),
                _ => {}
            },
        }
    }

    /// Puts the request into the words of [`Operation`], and says whether no answer is wanted.
    fn translate(&self, method: &Method<'_>) -> Result<(Operation, bool), Fault> {
        Ok(match method {
            Method::QueueDeclare(declare) => {
                let operation = Operation::DeclareQueue(DeclareQueue {
                    name: declare.queue.as_bytes().to_vec(),
                    passive: declare.passive,
                    durable: declare.durable,
                    exclusive: declare.exclusive,
                    auto_delete: declare.auto_delete,
                    arguments: declare.arguments.to_field_table()?,
                });
                (operation, declare.nowait)
            }
            Method::QueueDelete(delete) => {
                let operation = Operation::DeleteQueue {
                    name: self.queue_name(delete.queue.as_bytes())?.to_vec(),
                    if_unused: delete.if_unused,
                    if_empty: delete.if_empty,
                };
                (operation, delete.nowait)
            }
            Method::QueuePurge(purge) => {
                let name = self.queue_name(purge.queue.as_bytes())?.to_vec();
                (Operation::PurgeQueue { name }, purge.nowait)
            }
            Method::ExchangeDeclare(declare) => {
                let operation = Operation::DeclareExchange(DeclareExchange {
                    name: declare.exchange.as_bytes().to_vec(),
                    kind: declare.kind.as_bytes().to_vec(),
                    passive: declare.passive,
                    durable: declare.durable,
                    auto_delete: declare.auto_delete,
                    internal: declare.internal,
                    arguments: declare.arguments.to_field_table()?,
                });
                (operation, declare.nowait)
            }
            Method::ExchangeDelete(delete) => {
                let operation = Operation::DeleteExchange {
                    name: delete.exchange.as_bytes().to_vec(),
                    if_unused: delete.if_unused,
                };
                (operation, delete.nowait)
            }
            other => return self.translate_binding(other),
        })
    }

    fn translate_binding(&self, method: &Method<'_>) -> Result<(Operation, bool), Fault> {
        Ok(match method {
            Method::QueueBind(bind) => {
                let ends = (bind.exchange.as_bytes(), bind.queue.as_bytes());
                let bound =
                    self.queue_binding(ends, bind.routing_key.as_bytes(), bind.arguments)?;
                (Operation::Bind(bound), bind.nowait)
            }
            Method::QueueUnbind(bind) => {
                let ends = (bind.exchange.as_bytes(), bind.queue.as_bytes());
                let bound =
                    self.queue_binding(ends, bind.routing_key.as_bytes(), bind.arguments)?;
                (Operation::Unbind(bound), false)
            }
            Method::ExchangeBind(bind) => {
                let ends = (bind.source.as_bytes(), bind.destination.as_bytes());
                let bound = exchange_binding(ends, bind.routing_key.as_bytes(), bind.arguments)?;
                (Operation::Bind(bound), bind.nowait)
            }
            Method::ExchangeUnbind(bind) => {
                let ends = (bind.source.as_bytes(), bind.destination.as_bytes());
                let bound = exchange_binding(ends, bind.routing_key.as_bytes(), bind.arguments)?;
                (Operation::Unbind(bound), bind.nowait)
            }
            other => return Err(lookup::unexpected(other)),
        })
    }

    fn queue_binding(
        &self,
        (exchange, queue): (&[u8], &[u8]),
        routing_key: &[u8],
        arguments: Table<'_>,
    ) -> Result<Bind, Fault> {
        let name = self.queue_name(queue)?;
        // AMQP 0-9-1, queue.bind: without a queue and a key, the key is the queue's name.
        let routing_key = if queue.is_empty() && routing_key.is_empty() {
            name
        } else {
            routing_key
        };
        Ok(Bind {
            source: exchange.to_vec(),
            destination: name.to_vec(),
            destination_kind: DestinationKind::Queue,
            routing_key: routing_key.to_vec(),
            arguments: arguments.to_field_table()?,
        })
    }

    /// `queue.declare` on a direct reply-to name tells whether the requester still lives.
    fn declare_reply_queue(
        &mut self,
        name: &[u8],
        nowait: bool,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let alive = name == direct_reply::NAME.as_bytes()
            || direct_reply::parse_address(name)
                .is_some_and(|address| turn.env.replies.alive(address));
        if !alive {
            return Err(lookup::no_queue(common, name));
        }
        let answer = Answer::QueueDeclared {
            name: name.to_vec(),
            ready: 0,
            consumers: 1,
        };
        let ids = (50, 10);
        self.answer(&answer, ReplyTo { nowait, ids }, common);
        Ok(())
    }
}

fn exchange_binding(
    (source, destination): (&[u8], &[u8]),
    routing_key: &[u8],
    arguments: Table<'_>,
) -> Result<Bind, Fault> {
    Ok(Bind {
        source: source.to_vec(),
        destination: destination.to_vec(),
        destination_kind: DestinationKind::Exchange,
        routing_key: routing_key.to_vec(),
        arguments: arguments.to_field_table()?,
    })
}

/// What a step of an operation is shown.
fn scene<'a>(common: &mut Common, turn: &Turn<'a, '_>) -> Scene<'a> {
    Scene {
        topology: turn.env.topology,
        random: common.random.draw(),
        shards: turn.env.shards,
        home: turn.env.home,
    }
}

impl Common {
    /// An operation without a channel goes on; its answer is nobody's.
    pub(super) fn resume_orphan(
        &mut self,
        token: Token,
        response: Response,
        turn: &mut Turn<'_, '_>,
    ) {
        let Some(at) = self.orphans.iter().position(|(asked, _)| *asked == token) else {
            return;
        };
        let (_, control) = self.orphans.swap_remove(at);
        let scene = scene(self, turn);
        match control.resume(response, &scene, turn.work) {
            Progress::Waiting(control) => self.orphans.push((token, Box::new(control))),
            Progress::Done(_) => {}
        }
    }
}

//! Inputs and effects between nodes: how a node's sessions and the leader of a shard elsewhere
//! speak. Version and order are the business of the streams that carry them.
//!
//! A kind u8, then the fields in their order, little endian; lists with their count u32 in front,
//! options with a u8. What configures queues never travels: each leader reads its own rows.

#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes};
use warren_cluster_core::ids::NodeId;
use warren_cluster_core::machine::Malformed;
use warren_cluster_core::parts::{Parts, detached};

use crate::ids::{Holder, MessageId, QueueId, SessionId, Token};

use super::effect::{Delivered, Effect, Refusal, Reply};
use super::input::{Attach, Claim, ClaimedSeat, Input, Settle, Verdict, Window};
use super::reader::Reader;

const DELIVER: u8 = 1;
const GOT: u8 = 2;
const ATTACHED: u8 = 3;
const REFUSED: u8 = 4;
const DETACHED: u8 = 5;
const CANCELLED: u8 = 6;
const SETTLED: u8 = 7;
const REPLY: u8 = 8;

const CLOSE: u8 = 1;
const ATTACH: u8 = 2;
const DETACH: u8 = 3;
const GONE: u8 = 4;
const CREDIT: u8 = 5;
const SETTLE: u8 = 6;
const SETTLE_BARRIER: u8 = 7;
const GET: u8 = 8;
const PURGE: u8 = 9;
const COUNT: u8 = 10;
const SESSION_GONE: u8 = 11;
const CLAIM: u8 = 12;

/// Appends an input for a leader elsewhere.
///
/// # Panics
/// For what configures queues: it is no leader's business elsewhere.
pub fn encode_input(input: &Input, out: &mut Parts) {
    let out = out.open();
    match input {
        Input::Create { .. } | Input::Drop { .. } => {
            unreachable!("a leader makes and drops its queues by its own rows")
        }
        Input::Attach(attach) => {
            out.put_u8(ATTACH);
            put_attach(attach, out);
        }
        Input::Settle(settle) => put_settle(settle, out),
        Input::Claim(claim) => {
            out.put_u8(CLAIM);
            put_claim(claim, out);
        }
        Input::SettleBarrier { session, token } => {
            out.put_u8(SETTLE_BARRIER);
            put_asker(*session, *token, out);
        }
        Input::SessionGone { session } => {
            out.put_u8(SESSION_GONE);
            out.put_u64_le(session.0);
        }
        Input::Detach { .. } | Input::Gone { .. } | Input::Credit { .. } | Input::Get { .. } => {
            put_of_holder(input, out);
        }
        Input::Close { .. } | Input::Purge { .. } | Input::Count { .. } => put_question(input, out),
    }
}

/// Inputs about a holder of a queue.
fn put_of_holder(input: &Input, out: &mut impl BufMut) {
    match input {
        Input::Detach {
            queue,
            holder,
            token,
        } => {
            out.put_u8(DETACH);
            put_holder(*queue, *holder, out);
            out.put_u64_le(token.0);
        }
        Input::Gone { queue, holder } => {
            out.put_u8(GONE);
            put_holder(*queue, *holder, out);
        }
        Input::Credit {
            queue,
            holder,
            messages,
            bytes,
        } => {
            out.put_u8(CREDIT);
            put_holder(*queue, *holder, out);
            out.put_u32_le(*messages);
            out.put_u64_le(*bytes);
        }
        Input::Get {
            queue,
            holder,
            auto_ack,
            token,
        } => {
            out.put_u8(GET);
            put_holder(*queue, *holder, out);
            out.put_u8(u8::from(*auto_ack));
            out.put_u64_le(token.0);
        }
        _ => {}
    }
}

/// Questions about a queue as a whole.
fn put_question(input: &Input, out: &mut impl BufMut) {
    match input {
        Input::Close {
            queue,
            if_unused,
            if_empty,
            asker,
            token,
        } => {
            out.put_u8(CLOSE);
            out.put_u64_le(queue.0);
            out.put_u8(u8::from(*if_unused));
            out.put_u8(u8::from(*if_empty));
            put_asker(*asker, *token, out);
        }
        Input::Purge {
            queue,
            asker,
            token,
        } => {
            out.put_u8(PURGE);
            out.put_u64_le(queue.0);
            put_asker(*asker, *token, out);
        }
        Input::Count {
            queue,
            asker,
            token,
        } => {
            out.put_u8(COUNT);
            out.put_u64_le(queue.0);
            put_asker(*asker, *token, out);
        }
        _ => {}
    }
}

fn put_settle(settle: &Settle, out: &mut impl BufMut) {
    out.put_u8(SETTLE);
    put_holder(settle.queue, settle.holder, out);
    out.put_u64_le(settle.first.0);
    out.put_u64_le(settle.last.0);
    out.put_u8(match settle.verdict {
        Verdict::Ack => 0,
        Verdict::Reject => 1,
        Verdict::Requeue { failed: false } => 2,
        Verdict::Requeue { failed: true } => 3,
    });
}

fn put_asker(asker: SessionId, token: Token, out: &mut impl BufMut) {
    out.put_u64_le(asker.0);
    out.put_u64_le(token.0);
}

fn put_holder(queue: QueueId, holder: Holder, out: &mut impl BufMut) {
    out.put_u64_le(queue.0);
    out.put_u64_le(holder.session.0);
    out.put_u32_le(holder.number);
}

fn put_attach(attach: &Attach, out: &mut impl BufMut) {
    put_holder(attach.queue, attach.holder, out);
    out.put_u8(u8::from(attach.auto_ack));
    out.put_u8(u8::from(attach.exclusive));
    out.put_i32_le(attach.priority);
    out.put_u32_le(attach.prefetch);
    out.put_u32_le(attach.window.messages);
    out.put_u64_le(attach.window.bytes);
    out.put_u64_le(attach.token.0);
}

fn put_claim(claim: &Claim, out: &mut impl BufMut) {
    out.put_u64_le(claim.node.0);
    put_count(claim.seats.len(), out);
    for seat in &claim.seats {
        put_holder(seat.queue, seat.holder, out);
        out.put_u8(u8::from(seat.consumer.is_some()));
        if let Some(attach) = &seat.consumer {
            put_attach(attach, out);
        }
        put_count(seat.held.len(), out);
        for (first, last) in &seat.held {
            out.put_u64_le(*first);
            out.put_u64_le(*last);
        }
    }
}

fn put_count(count: usize, out: &mut impl BufMut) {
    out.put_u32_le(u32::try_from(count).expect("fewer than memory has room for"));
}

/// Reads an input of another node's sessions.
///
/// # Errors
/// Bytes that no node of this version sends.
pub fn decode_input(bytes: &Bytes) -> Result<Input, Malformed> {
    let mut reader = Reader::new("input of another node", bytes);
    let input = read_input(&mut reader)?;
    if reader.is_empty() {
        Ok(input)
    } else {
        Err(reader.malformed("something follows its end"))
    }
}

fn read_input(reader: &mut Reader<'_>) -> Result<Input, Malformed> {
    let kind = reader.u8()?;
    Ok(match kind {
        CLOSE | PURGE | COUNT => question(kind, reader)?,
        DETACH | GONE | CREDIT | GET => of_holder(kind, reader)?,
        ATTACH => Input::Attach(attach(reader)?),
        SETTLE => Input::Settle(settle(reader)?),
        SETTLE_BARRIER => {
            let (session, token) = asker(reader)?;
            Input::SettleBarrier { session, token }
        }
        SESSION_GONE => Input::SessionGone {
            session: SessionId(reader.u64()?),
        },
        CLAIM => Input::Claim(claim(reader)?),
        _ => return Err(reader.malformed("unknown kind")),
    })
}

fn question(kind: u8, reader: &mut Reader<'_>) -> Result<Input, Malformed> {
    let queue = QueueId(reader.u64()?);
    let flags = if kind == CLOSE {
        (flag(reader)?, flag(reader)?)
    } else {
        (false, false)
    };
    let (asker, token) = asker(reader)?;
    Ok(match kind {
        CLOSE => Input::Close {
            queue,
            if_unused: flags.0,
            if_empty: flags.1,
            asker,
            token,
        },
        PURGE => Input::Purge {
            queue,
            asker,
            token,
        },
        _ => Input::Count {
            queue,
            asker,
            token,
        },
    })
}

fn of_holder(kind: u8, reader: &mut Reader<'_>) -> Result<Input, Malformed> {
    let (queue, holder) = holder(reader)?;
    Ok(match kind {
        DETACH => Input::Detach {
            queue,
            holder,
            token: Token(reader.u64()?),
        },
        GONE => Input::Gone { queue, holder },
        CREDIT => Input::Credit {
            queue,
            holder,
            messages: reader.u32()?,
            bytes: reader.u64()?,
        },
        _ => Input::Get {
            queue,
            holder,
            auto_ack: flag(reader)?,
            token: Token(reader.u64()?),
        },
    })
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.malformed("neither true nor false")),
    }
}

fn asker(reader: &mut Reader<'_>) -> Result<(SessionId, Token), Malformed> {
    Ok((SessionId(reader.u64()?), Token(reader.u64()?)))
}

fn holder(reader: &mut Reader<'_>) -> Result<(QueueId, Holder), Malformed> {
    let queue = QueueId(reader.u64()?);
    let session = SessionId(reader.u64()?);
    let number = reader.u32()?;
    Ok((queue, Holder { session, number }))
}

fn attach(reader: &mut Reader<'_>) -> Result<Attach, Malformed> {
    let (queue, holder) = holder(reader)?;
    Ok(Attach {
        queue,
        holder,
        auto_ack: flag(reader)?,
        exclusive: flag(reader)?,
        priority: reader.u32()?.cast_signed(),
        prefetch: reader.u32()?,
        window: Window {
            messages: reader.u32()?,
            bytes: reader.u64()?,
        },
        token: Token(reader.u64()?),
    })
}

fn settle(reader: &mut Reader<'_>) -> Result<Settle, Malformed> {
    let (queue, holder) = holder(reader)?;
    Ok(Settle {
        queue,
        holder,
        first: MessageId(reader.u64()?),
        last: MessageId(reader.u64()?),
        verdict: match reader.u8()? {
            0 => Verdict::Ack,
            1 => Verdict::Reject,
            2 => Verdict::Requeue { failed: false },
            3 => Verdict::Requeue { failed: true },
            _ => return Err(reader.malformed("unknown verdict")),
        },
    })
}

fn claim(reader: &mut Reader<'_>) -> Result<Claim, Malformed> {
    let node = NodeId(reader.u64()?);
    let mut seats = Vec::new();
    for _ in 0..reader.u32()? {
        let (queue, holder) = holder(reader)?;
        let consumer = if flag(reader)? {
            Some(attach(reader)?)
        } else {
            None
        };
        let mut held: Vec<(u64, u64)> = Vec::new();
        for _ in 0..reader.u32()? {
            let run = (reader.u64()?, reader.u64()?);
            let follows = held.last().is_none_or(|last| last.1 < run.0);
            if run.0 > run.1 || !follows {
                return Err(reader.malformed("runs out of order"));
            }
            held.push(run);
        }
        seats.push(ClaimedSeat {
            queue,
            holder,
            consumer,
            held,
        });
    }
    Ok(Claim { node, seats })
}

/// Appends an effect for sessions of another node; bodies by reference.
///
/// # Panics
/// For what concerns no session.
pub fn encode_effect(effect: &Effect, out: &mut Parts) {
    let head = out.open();
    match effect {
        Effect::Deliver {
            session,
            number,
            queue,
            messages,
        } => {
            head.put_u8(DELIVER);
            put_holder(*queue, holder_of(*session, *number), head);
            put_count(messages.len(), head);
            let lengths = messages.iter().map(|it| it.message.len());
            out.reserve(lengths, DELIVERED_HEAD_BYTES);
            messages
                .iter()
                .for_each(|message| put_delivered(message, out));
        }
        Effect::Got {
            session,
            token,
            message,
            ready,
        } => {
            head.put_u8(GOT);
            put_asker(*session, *token, head);
            head.put_u64_le(*ready);
            head.put_u8(u8::from(message.is_some()));
            if let Some(message) = message {
                put_delivered(message, out);
            }
        }
        Effect::Attached { session, token } => put_answer(ATTACHED, *session, *token, head),
        Effect::Detached { session, token } => put_answer(DETACHED, *session, *token, head),
        Effect::Settled { session, token } => put_answer(SETTLED, *session, *token, head),
        Effect::Refused {
            session,
            token,
            refusal,
        } => {
            put_answer(REFUSED, *session, *token, head);
            head.put_u8(match refusal {
                Refusal::NoQueue => 0,
                Refusal::ExclusiveUse => 1,
            });
        }
        Effect::Cancelled {
            session,
            number,
            queue,
        } => {
            head.put_u8(CANCELLED);
            put_holder(*queue, holder_of(*session, *number), head);
        }
        Effect::Reply {
            asker,
            token,
            reply,
        } => {
            put_answer(REPLY, *asker, *token, head);
            put_reply(*reply, head);
        }
        Effect::Closed { .. } | Effect::Dropped { .. } => {
            unreachable!("the leader's own node sees to rows")
        }
    }
}

fn put_answer(kind: u8, session: SessionId, token: Token, out: &mut impl BufMut) {
    out.put_u8(kind);
    put_asker(session, token, out);
}

fn holder_of(session: SessionId, number: u32) -> Holder {
    Holder { session, number }
}

/// Bytes before a delivered message's own.
const DELIVERED_HEAD_BYTES: usize = 17;

fn put_delivered(message: &Delivered, out: &mut Parts) {
    let head = out.open();
    head.put_u64_le(message.id.0);
    head.put_u8(u8::from(message.redelivered));
    head.put_u32_le(message.delivery_count);
    put_count(message.message.len(), head);
    out.attach(&message.message);
}

fn put_reply(reply: Reply, out: &mut impl BufMut) {
    match reply {
        Reply::NoQueue => out.put_u8(0),
        Reply::Counts {
            ready,
            unacked,
            consumers,
        } => {
            out.put_u8(1);
            out.put_u64_le(ready);
            out.put_u64_le(unacked);
            out.put_u32_le(consumers);
        }
        Reply::Purged { messages } => {
            out.put_u8(2);
            out.put_u64_le(messages);
        }
        Reply::Closed { messages } => {
            out.put_u8(3);
            out.put_u64_le(messages);
        }
        Reply::InUse => out.put_u8(4),
        Reply::NotEmpty => out.put_u8(5),
    }
}

/// Reads an effect for sessions of this node. Bodies are slices where they are a good part of the
/// bytes.
///
/// # Errors
/// Bytes that no node of this version sends.
pub fn decode_effect(bytes: &Bytes) -> Result<Effect, Malformed> {
    let mut reader = Reader::new("effect of another node", bytes);
    let effect = read_effect(&mut reader, bytes)?;
    if reader.is_empty() {
        Ok(effect)
    } else {
        Err(reader.malformed("something follows its end"))
    }
}

fn read_effect(reader: &mut Reader<'_>, whole: &Bytes) -> Result<Effect, Malformed> {
    let kind = reader.u8()?;
    Ok(match kind {
        DELIVER | CANCELLED => {
            let (queue, holder) = holder(reader)?;
            let Holder { session, number } = holder;
            if kind == CANCELLED {
                return Ok(Effect::Cancelled {
                    session,
                    number,
                    queue,
                });
            }
            let mut messages = Vec::new();
            for _ in 0..reader.u32()? {
                messages.push(delivered(reader, whole)?);
            }
            Effect::Deliver {
                session,
                number,
                queue,
                messages,
            }
        }
        GOT..=REPLY => {
            let (session, token) = asker(reader)?;
            answer(kind, session, token, reader, whole)?
        }
        _ => return Err(reader.malformed("unknown kind")),
    })
}

fn answer(
    kind: u8,
    session: SessionId,
    token: Token,
    reader: &mut Reader<'_>,
    whole: &Bytes,
) -> Result<Effect, Malformed> {
    Ok(match kind {
        GOT => {
            let ready = reader.u64()?;
            let has_one = flag(reader)?;
            let message = has_one.then(|| delivered(reader, whole)).transpose()?;
            Effect::Got {
                session,
                token,
                message,
                ready,
            }
        }
        ATTACHED => Effect::Attached { session, token },
        REFUSED => {
            let refusal = match reader.u8()? {
                0 => Refusal::NoQueue,
                1 => Refusal::ExclusiveUse,
                _ => return Err(reader.malformed("unknown refusal")),
            };
            Effect::Refused {
                session,
                token,
                refusal,
            }
        }
        DETACHED => Effect::Detached { session, token },
        SETTLED => Effect::Settled { session, token },
        _ => Effect::Reply {
            asker: session,
            token,
            reply: reply(reader)?,
        },
    })
}

fn delivered(reader: &mut Reader<'_>, whole: &Bytes) -> Result<Delivered, Malformed> {
    let id = MessageId(reader.u64()?);
    let redelivered = flag(reader)?;
    let delivery_count = reader.u32()?;
    let len = reader.u32()? as usize;
    let message = reader.take(len)?;
    Ok(Delivered {
        id,
        redelivered,
        delivery_count,
        message: detached(whole.slice_ref(message), whole.len()),
    })
}

fn reply(reader: &mut Reader<'_>) -> Result<Reply, Malformed> {
    Ok(match reader.u8()? {
        0 => Reply::NoQueue,
        1 => Reply::Counts {
            ready: reader.u64()?,
            unacked: reader.u64()?,
            consumers: reader.u32()?,
        },
        2 => Reply::Purged {
            messages: reader.u64()?,
        },
        3 => Reply::Closed {
            messages: reader.u64()?,
        },
        4 => Reply::InUse,
        5 => Reply::NotEmpty,
        _ => return Err(reader.malformed("unknown reply")),
    })
}

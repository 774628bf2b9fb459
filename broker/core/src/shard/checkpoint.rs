//! A checkpoint of exactly one index, written in slices while commands go on (rule 3).
//!
//! Each checkpoint has a number, its epoch. A queue's header and each of its blocks remember the
//! epoch that they are written in, or came too late for. While a checkpoint is in the making,
//! what is about to change and has not been written is written first, so that the checkpoint
//! holds the state of its first moment. When none is, that costs one compare.
//!
//! A chunk is a version byte and records; each names what it belongs to, so that chunks may come
//! back in any order. Numbers are little endian.

use std::ops::RangeInclusive;

use warren_cluster_core::machine::{CheckpointWriter, Context, Malformed};

use crate::ids::QueueId;
use crate::queue::blocks::{BLOCK_IDS, Block};
use crate::queue::reference::{ENCODED_BYTES, MessageRef};
use crate::queue::{Queue, keep_options};

use super::Shard;
use super::effect::Effect;
use super::gone::Gone;
use super::reader::Reader;
use super::slots::Slots;

const VERSION: u8 = 1;

/// How many queues there are.
const SHARD: u8 = 1;
/// A queue without its messages.
const QUEUE: u8 = 2;
/// A block of a queue's messages.
const BLOCK: u8 = 3;
/// The queues that were dropped last, oldest first; none in checkpoints of earlier builds.
const GONE: u8 = 4;

const AUTO_DELETE: u8 = 1;
const CLOSED: u8 = 2;

/// A chunk ends once it is this long; a block more makes it less than 64 KiB.
const CHUNK_BYTES: usize = 32 * 1024;

const _: () = assert!(CHUNK_BYTES + BLOCK_IDS as usize * ENCODED_BYTES < 64 * 1024);

/// The checkpoint in the making, or the one that is being read.
#[derive(Debug, Default)]
pub(super) struct Saving {
    epoch: u32,
    active: bool,
    /// The next slot and block number to write.
    slot: u32,
    number: u64,
    restoring: Option<Box<Restoring>>,
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Restoring {
    queues: Option<u64>,
    /// The queues whose header is there, and how many messages each must have.
    headers: Vec<(QueueId, u64)>,
}

impl Saving {
    /// What a block or queue that begins now is marked with.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn begin(&mut self, queues: u64, gone: &Gone, out: &mut dyn CheckpointWriter) {
        self.epoch += 1;
        self.active = true;
        (self.slot, self.number) = (0, 0);
        let mut chunk = vec![VERSION, SHARD];
        chunk.extend_from_slice(&queues.to_le_bytes());
        write_gone(gone, &mut chunk);
        out.chunk(&chunk);
    }

    pub(super) fn abort(&mut self) {
        self.active = false;
    }

    /// Writes what the checkpoint still needs of a queue whose messages in `ids` will change.
    #[inline]
    pub(super) fn before(
        &self,
        queue: &mut Queue,
        ids: RangeInclusive<u64>,
        context: &mut Context<'_, Effect>,
    ) {
        if self.active {
            self.save(queue, Some(ids), context);
        }
    }

    /// The same for a queue of which only the header will change.
    #[inline]
    pub(super) fn before_header(&self, queue: &mut Queue, context: &mut Context<'_, Effect>) {
        if self.active {
            self.save(queue, None, context);
        }
    }

    #[cold]
    fn save(
        &self,
        queue: &mut Queue,
        ids: Option<RangeInclusive<u64>>,
        context: &mut Context<'_, Effect>,
    ) {
        if cfg!(warren_break = "fuzzy_checkpoint") {
            return;
        }
        let out = context
            .checkpoint
            .as_mut()
            .expect("a checkpoint in the making has a writer");
        if queue.epoch != self.epoch {
            queue.epoch = self.epoch;
            let mut chunk = vec![VERSION];
            write_queue(queue, &mut chunk);
            out.chunk(&chunk);
        }
        let Some(ids) = ids else {
            return;
        };
        let id = queue.id;
        let last = ids.end() / BLOCK_IDS;
        let blocks = queue.messages.blocks_from(ids.start() / BLOCK_IDS);
        for block in blocks.take_while(|block| block.number() <= last) {
            if block.epoch != self.epoch {
                block.epoch = self.epoch;
                let mut chunk = vec![VERSION];
                write_block(id, block, &mut chunk);
                out.chunk(&chunk);
            }
        }
    }

    /// Writes on from where the last step ended; true when all is written.
    pub(super) fn step(
        &mut self,
        slots: &mut Slots,
        budget: usize,
        out: &mut dyn CheckpointWriter,
    ) -> bool {
        let end = out.written() + budget as u64;
        let mut chunk = vec![VERSION];
        while self.active {
            if self.slot >= slots.end() {
                self.active = false;
                break;
            }
            self.step_queue(slots, &mut chunk);
            if chunk.len() >= CHUNK_BYTES {
                out.chunk(&chunk);
                chunk.truncate(1);
            }
            if out.written() + chunk.len() as u64 >= end {
                break;
            }
        }
        if chunk.len() > 1 {
            out.chunk(&chunk);
        }
        !self.active
    }

    /// Writes the next piece of the queue in turn, or goes on to the next queue.
    fn step_queue(&mut self, slots: &mut Slots, chunk: &mut Vec<u8>) {
        let Some(slot) = slots.at_mut(self.slot) else {
            // Perhaps dropped with only some of its blocks written.
            self.slot += 1;
            self.number = 0;
            return;
        };
        let queue = &mut slot.queue;
        if queue.epoch != self.epoch {
            queue.epoch = self.epoch;
            write_queue(queue, chunk);
        }
        let id = queue.id;
        let mut blocks = queue.messages.blocks_from(self.number);
        if let Some(block) = blocks.find(|block| block.epoch != self.epoch) {
            block.epoch = self.epoch;
            self.number = block.number() + 1;
            write_block(id, block, chunk);
        } else {
            self.slot += 1;
            self.number = 0;
        }
    }

    /// Takes a chunk of a checkpoint.
    pub(super) fn restore(
        &mut self,
        slots: &mut Slots,
        gone: &mut Gone,
        chunk: &[u8],
    ) -> Result<(), Malformed> {
        let state = self.restoring.get_or_insert_default();
        let mut reader = Reader::new("checkpoint chunk of a queue shard", chunk);
        if reader.u8()? != VERSION {
            return Err(reader.malformed("unknown version"));
        }
        while !reader.is_empty() {
            match reader.u8()? {
                SHARD => {
                    let queues = reader.u64()?;
                    if state.queues.replace(queues).is_some() {
                        return Err(reader.malformed("second head"));
                    }
                }
                QUEUE => state.headers.push(read_queue(slots, &mut reader)?),
                BLOCK => read_block(slots, &mut reader)?,
                GONE => {
                    for _ in 0..reader.u16()? {
                        gone.push(QueueId(reader.u64()?));
                    }
                }
                _ => return Err(reader.malformed("unknown record")),
            }
        }
        Ok(())
    }

    /// Checks that what was read is whole.
    pub(super) fn restored(&mut self, slots: &Slots) -> Result<(), Malformed> {
        let mut state = *self.restoring.take().unwrap_or_default();
        let broken = |cause| Malformed {
            what: "checkpoint of a queue shard",
            at: 0,
            cause,
        };
        state.headers.sort_unstable();
        if state.headers.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(broken("a queue came twice"));
        }
        let headers = state.headers.len();
        if slots.len() != headers {
            return Err(broken("messages without their queue"));
        }
        if cfg!(warren_break = "fuzzy_checkpoint") {
            return Ok(());
        }
        if state.queues.is_none_or(|queues| queues != headers as u64) {
            return Err(broken("queues are missing"));
        }
        for (id, messages) in state.headers {
            let Some(slot) = slots.get(id) else {
                return Err(broken("a queue is missing"));
            };
            if slot.queue.messages.len() != messages {
                return Err(broken("messages are missing"));
            }
            if slot.queue.messages.first_from(slot.queue.next).is_some() {
                return Err(broken("a message from the future"));
            }
        }
        Ok(())
    }
}

fn write_gone(gone: &Gone, out: &mut Vec<u8>) {
    if gone.len() == 0 {
        return;
    }
    out.push(GONE);
    out.extend_from_slice(&(gone.len() as u16).to_le_bytes());
    gone.iter()
        .for_each(|id| out.extend_from_slice(&id.0.to_le_bytes()));
}

fn write_queue(queue: &Queue, chunk: &mut Vec<u8>) {
    let options = queue.options.as_deref().unwrap_or_default();
    let flags =
        if queue.auto_delete { AUTO_DELETE } else { 0 } | if queue.closed { CLOSED } else { 0 };
    chunk.push(QUEUE);
    chunk.extend_from_slice(&queue.id.0.to_le_bytes());
    chunk.extend_from_slice(&queue.next.to_le_bytes());
    chunk.extend_from_slice(&queue.reserved.to_le_bytes());
    chunk.extend_from_slice(&queue.messages.len().to_le_bytes());
    chunk.push(flags);
    chunk.extend_from_slice(&(options.len() as u16).to_le_bytes());
    chunk.extend_from_slice(options);
}

fn read_queue(slots: &mut Slots, reader: &mut Reader<'_>) -> Result<(QueueId, u64), Malformed> {
    let id = QueueId(reader.u64()?);
    let next = reader.u64()?;
    let reserved = reader.u64()?;
    let messages = reader.u64()?;
    let flags = reader.u8()?;
    let len = usize::from(reader.u16()?);
    let options = reader.take(len)?;
    if flags & !(AUTO_DELETE | CLOSED) != 0 {
        return Err(reader.malformed("unknown flags"));
    }
    let queue = present(slots, id);
    queue.next = next;
    queue.reserved = reserved;
    queue.auto_delete = flags & AUTO_DELETE != 0;
    queue.closed = flags & CLOSED != 0;
    queue.options = keep_options(options);
    Ok((id, messages))
}

fn write_block(queue: QueueId, block: &Block<MessageRef>, chunk: &mut Vec<u8>) {
    chunk.push(BLOCK);
    chunk.extend_from_slice(&queue.0.to_le_bytes());
    chunk.extend_from_slice(&block.number().to_le_bytes());
    chunk.extend_from_slice(&block.live().to_le_bytes());
    for (_, message) in block.iter() {
        message.encode(chunk);
    }
}

fn read_block(slots: &mut Slots, reader: &mut Reader<'_>) -> Result<(), Malformed> {
    let id = QueueId(reader.u64()?);
    let number = reader.u64()?;
    let live = reader.u16()?;
    let bytes = reader.take(usize::from(live) * ENCODED_BYTES)?;
    let mut messages: Vec<MessageRef> = Vec::with_capacity(usize::from(live));
    for bytes in bytes.as_chunks::<ENCODED_BYTES>().0 {
        let Some(message) = MessageRef::decode(bytes) else {
            return Err(reader.malformed("message out of range"));
        };
        if messages
            .last()
            .is_some_and(|last| !last.is_before(&message))
        {
            return Err(reader.malformed("messages out of order"));
        }
        messages.push(message);
    }
    if number > u64::MAX / BLOCK_IDS - 1 {
        return Err(reader.malformed("block beyond the last id"));
    }
    let queue = present(slots, id);
    if queue.messages.insert_block(number, messages) {
        Ok(())
    } else {
        Err(reader.malformed("block came twice"))
    }
}

/// The queue that a record belongs to; its header may come later.
fn present(slots: &mut Slots, id: QueueId) -> &mut Queue {
    let slot = match slots.find(id) {
        Some(slot) => slots.at_mut(slot),
        None => return &mut slots.insert(Queue::new(id, 0)).queue,
    };
    &mut slot.expect("the index names slots with queues").queue
}

impl Shard {
    /// The replicated state in one canonical form, without the places of bodies: equal on
    /// replicas at the same index.
    pub fn dump(&self, out: &mut Vec<u8>) {
        write_gone(&self.gone, out);
        for id in self.slots.ids() {
            let Some(slot) = self.slots.get(id) else {
                continue;
            };
            write_queue(&slot.queue, out);
            for (id, message) in slot.queue.messages.range(0..=u64::MAX) {
                out.extend_from_slice(&id.to_le_bytes());
                message.encode(out);
                out.truncate(out.len() - MessageRef::PLACE_BYTES);
            }
        }
    }
}

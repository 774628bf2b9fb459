// Declaring, deleting, purging and binding queues, with the exact texts of refusals.
'use strict';

const { randomBytes } = require('node:crypto');
const { Inbox, depth, drain, ensure, equal, publish } = require('./harness');

const noQueue = (name) => `NOT_FOUND - no queue '${name}' in vhost '/'`;

async function queue_declare(c) {
  const ch = await c.channel();
  const name = c.name();
  c.queues.push(name);
  for (const round of [0, 1]) {
    const ok = await ch.assertQueue(name);
    equal({ ...ok }, { queue: name, messageCount: round, consumerCount: 0 }, 'declare-ok');
    await publish(ch, '', name);
  }
}

async function queue_declare_passive(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  equal(await depth(ch, queue), [0, 0], 'an empty queue');
  await publish(ch, '', queue);
  await publish(ch, '', queue);
  equal(await depth(ch, queue), [2, 0], 'with two messages');
  const consumer = await c.channel();
  await consumer.prefetch(1);
  await (await Inbox.open(consumer, queue)).take(1);
  equal(await depth(ch, queue), [1, 1], 'ready messages and consumers');
}

async function queue_passive_missing(c) {
  const ch = await c.channel();
  const name = c.name();
  await c.refused(404, noQueue(name), ch, () => ch.checkQueue(name));
}

async function reply_text_truncated(c) {
  const ch = await c.channel();
  const name = 'n'.repeat(255);
  const text = `${noQueue(name).slice(0, 252)}...`;
  await c.refused(404, text, ch, () => ch.checkQueue(name));
}

async function queue_inequivalent(c) {
  const queue = await c.queue(await c.channel());
  for (const [key, options, received, current] of [
    ['durable', { durable: false }, 'false', 'true'],
    ['auto_delete', { autoDelete: true }, 'true', 'false'],
  ]) {
    const ch = await c.channel();
    const text =
      `PRECONDITION_FAILED - inequivalent arg '${key}' for queue '${queue}' in vhost '/': ` +
      `received '${received}' but current is '${current}'`;
    await c.refused(406, text, ch, () => ch.assertQueue(queue, options));
  }
}

async function queue_type_classic(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch, { arguments: { 'x-queue-type': 'classic' } });
  await ch.assertQueue(queue, { arguments: { 'x-queue-type': 'classic' } });
  await ch.assertQueue(queue, { arguments: { 'x-no-such-argument': [1, { a: 'b' }] } });
}

async function queue_server_named(c) {
  const ch = await c.channel();
  const first = (await ch.assertQueue('', { exclusive: true })).queue;
  const second = (await ch.assertQueue('', { exclusive: true })).queue;
  ensure(first.startsWith('amq.gen-') && first.length > 16, first);
  ensure(first !== second, 'the same name twice');
  await ch.checkQueue(first);
}

async function queue_reserved_name(c) {
  const ch = await c.channel();
  const text = "ACCESS_REFUSED - queue name 'amq.conformance' contains reserved prefix 'amq.*'";
  await c.refused(403, text, ch, () => ch.assertQueue('amq.conformance'));
}

async function queue_exclusive_locked(c) {
  const ch = await c.channel();
  const queue = randomBytes(16).toString('hex'); // short: a longer text would be cut off
  await ch.assertQueue(queue, { exclusive: true });
  const text =
    `RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '${queue}' in vhost '/'. ` +
    'It could be originally declared on another connection or the exclusive property value ' +
    'does not match that of the original declaration.';
  const connection = await c.connect();
  for (const action of [
    (other) => other.assertQueue(queue, { exclusive: true }),
    (other) => other.get(queue),
    (other) => other.consume(queue, () => {}),
    (other) => other.deleteQueue(queue),
  ]) {
    const other = await c.channel({ connection });
    await c.refused(405, text, other, () => action(other));
  }
  equal(await depth(ch, queue), [0, 0], 'for its own connection');
}

async function queue_exclusive_gone(c) {
  const owner = await c.connect();
  const queue = c.name();
  await (await c.channel({ connection: owner })).assertQueue(queue, { exclusive: true });
  await owner.close();
  const ch = await c.channel();
  await c.refused(404, noQueue(queue), ch, () => ch.checkQueue(queue));
}

async function queue_auto_delete(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch, { autoDelete: true });
  await publish(ch, '', queue);
  equal(await depth(ch, queue), [1, 0], 'before it ever had a consumer');
  const first = await Inbox.open(ch, queue, { noAck: true });
  const second = await Inbox.open(ch, queue, { noAck: true });
  await ch.cancel(first.tag);
  equal(await depth(ch, queue), [0, 1], 'with one consumer left');
  await ch.cancel(second.tag);
  await c.refused(404, noQueue(queue), ch, () => ch.checkQueue(queue));
}

async function queue_purge_delete_counts(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  for (let number = 0; number < 3; number += 1) await publish(ch, '', queue);
  await ch.get(queue);
  equal((await ch.purgeQueue(queue)).messageCount, 2, 'purged (one is out)');
  await publish(ch, '', queue);
  equal((await ch.deleteQueue(queue)).messageCount, 1, 'messages in delete-ok');
  equal((await ch.deleteQueue(queue)).messageCount, 0, 'delete of a missing queue');
}

async function queue_delete_if_unused(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const inbox = await Inbox.open(ch, queue);
  const other = await c.channel();
  const text = `PRECONDITION_FAILED - queue '${queue}' in vhost '/' in use`;
  await c.refused(406, text, other, () => other.deleteQueue(queue, { ifUnused: true }));
  await ch.cancel(inbox.tag);
  await ch.deleteQueue(queue, { ifUnused: true });
}

async function queue_delete_if_empty(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  await publish(ch, '', queue);
  const other = await c.channel();
  const text = `PRECONDITION_FAILED - queue '${queue}' in vhost '/' not empty`;
  await c.refused(406, text, other, () => other.deleteQueue(queue, { ifEmpty: true }));
  await drain(ch, queue);
  await ch.deleteQueue(queue, { ifEmpty: true });
}

async function queue_bind_unbind(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const arrives = async (body, expected, what) => {
    await publish(ch, 'amq.direct', queue, body);
    equal(await drain(ch, queue), expected, what);
  };
  await ch.bindQueue(queue, 'amq.direct', queue);
  await ch.bindQueue(queue, 'amq.direct', queue);
  await arrives('once', ['once'], 'a duplicate binding');
  await ch.bindQueue(queue, 'amq.direct', queue, { k: 1 });
  await arrives('once', ['once'], 'two bindings of one queue');
  await ch.unbindQueue(queue, 'amq.direct', queue);
  await arrives('by the other', ['by the other'], 'the binding with arguments stays');
  await ch.unbindQueue(queue, 'amq.direct', queue, { k: 1 });
  await arrives('none', [], 'after unbind');
  await ch.unbindQueue(queue, 'amq.direct', queue);
}

async function queue_bind_missing(c) {
  const [first, second] = [await c.channel(), await c.channel()];
  const queue = await c.queue(first);
  const missing = c.name();
  const noExchange = `NOT_FOUND - no exchange '${missing}' in vhost '/'`;
  await c.refused(404, noExchange, first, () => first.bindQueue(queue, missing, ''));
  const noSuchQueue = noQueue(missing);
  await c.refused(404, noSuchQueue, second, () => second.bindQueue(missing, 'amq.direct', ''));
}

module.exports = {
  queue_declare, queue_declare_passive, queue_passive_missing, reply_text_truncated,
  queue_inequivalent, queue_type_classic, queue_server_named, queue_reserved_name,
  queue_exclusive_locked, queue_exclusive_gone, queue_auto_delete, queue_purge_delete_counts,
  queue_delete_if_unused, queue_delete_if_empty, queue_bind_unbind, queue_bind_missing,
};

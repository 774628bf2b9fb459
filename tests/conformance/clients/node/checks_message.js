// Publishing, consuming, acknowledging, limits on delivery.
'use strict';

const {
  Inbox, Skipped, USER, WAIT_MS, depth, drain, ensure, equal, publish, takeAll, text, within,
} = require('./harness');

const PERSISTENT = { persistent: true };
const tagged = (deliveryTag) => ({ fields: { deliveryTag } });
const seen = (message) => [text(message), message.fields.redelivered];

/** A queue with the messages 1, 2 and 3. */
async function three(c, ch) {
  const queue = await c.queue(ch);
  for (const body of ['1', '2', '3']) await publish(ch, '', queue, body, PERSISTENT);
  return queue;
}

/** Closes the channel that holds messages and gives what is then in the queue, in order. */
async function left(c, ch, queue) {
  await ch.close();
  return takeAll(await c.channel(), queue);
}

async function publish_confirm(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const bodies = Array.from({ length: 100 }, (_, number) => String(number));
  await Promise.all(bodies.map((body) => publish(ch, '', queue, body, PERSISTENT)));
  equal((await depth(ch, queue))[0], 100, 'messages once all are confirmed');
  equal(await drain(ch, queue), bodies, 'order');
}

async function publish_missing_exchange(c) {
  const ch = await c.channel();
  const missing = c.name('x');
  const reason = `NOT_FOUND - no exchange '${missing}' in vhost '/'`;
  await c.refused(404, reason, ch, () => publish(ch, missing, 'key'));
}

async function mandatory_return(c) {
  const ch = await c.channel();
  const events = [];
  ch.on('return', (message) => events.push(message));
  const missing = c.name();
  await publish(ch, '', missing, 'back', { mandatory: true, type: 't' });
  equal(events.length, 1, 'returns before the confirm');
  const { replyCode, replyText, exchange, routingKey } = events[0].fields;
  const found = [replyCode, replyText, exchange, routingKey];
  equal(found, [312, 'NO_ROUTE', '', missing], 'basic.return');
  equal([text(events[0]), events[0].properties.type], ['back', 't'], 'its content');
  await publish(ch, '', missing, 'gone');
  await publish(ch, '', await c.queue(ch), 'here', { mandatory: true });
  equal(events.length, 1, 'returns');
}

async function consume(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  await ch.bindQueue(queue, 'amq.topic', queue);
  const inbox = await Inbox.open(ch, queue, { consumerTag: 'my-tag' });
  equal(inbox.tag, 'my-tag', 'consume-ok');
  for (const body of ['0', '1', '2']) await publish(ch, 'amq.topic', queue, body);
  (await inbox.take(3)).forEach((message, number) => {
    const { consumerTag, deliveryTag, redelivered, exchange, routingKey } = message.fields;
    const found = [consumerTag, deliveryTag, redelivered, exchange, routingKey];
    equal(found, ['my-tag', number + 1, false, 'amq.topic', queue], 'delivery');
    equal(text(message), String(number), 'body');
  });
}

async function consume_missing_queue(c) {
  const ch = await c.channel();
  const missing = c.name();
  const reason = `NOT_FOUND - no queue '${missing}' in vhost '/'`;
  await c.refused(404, reason, ch, () => ch.consume(missing, () => {}));
}

async function consumer_tag_generated(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const [first, second] = [await Inbox.open(ch, queue), await Inbox.open(ch, queue)];
  ensure(first.tag.startsWith('amq.ctag-') && first.tag !== second.tag, first.tag);
}

async function consumer_tag_reuse(c) {
  const connection = await c.connect();
  const ch = await c.channel({ connection });
  const queue = await c.queue(ch);
  await Inbox.open(ch, queue, { consumerTag: 'twice' });
  await c.refusedAs(
    connection.failure,
    () => ch.consume(queue, () => {}, { consumerTag: 'twice' }),
    (found) => equal(found, [530, "NOT_ALLOWED - attempt to reuse consumer tag 'twice'"], 'close'),
  );
}

async function ack(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  const taken = await (await Inbox.open(ch, queue)).take(3);
  ch.ack(taken[1]);
  equal(await left(c, ch, queue), [['1', true], ['3', true]], 'left after an ack of 2');
}

async function ack_multiple(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  const taken = await (await Inbox.open(ch, queue)).take(3);
  ch.ack(taken[1], true);
  equal(await left(c, ch, queue), [['3', true]], 'left after an ack up to 2');
}

async function ack_all(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  await (await Inbox.open(ch, queue)).take(3);
  ch.ackAll();
  equal(await left(c, ch, queue), [], 'left after an ack of all (tag 0)');
}

async function nack_requeue(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  const taken = [await ch.get(queue), await ch.get(queue)];
  ch.nack(taken[0], false, true);
  equal(seen(await ch.get(queue)), ['1', true], 'back in its place');
  ch.nack(taken[1], false, false);
  equal(await left(c, ch, queue), [['1', true], ['3', false]], 'left');
}

async function nack_multiple(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  const taken = [await ch.get(queue), await ch.get(queue), await ch.get(queue)];
  ch.nack(taken[1], true, true);
  equal(await drain(ch, queue), ['1', '2'], 'returned, in order');
  ch.nackAll(false);
  equal(await left(c, ch, queue), [], 'left after a nack of all without requeue');
}

async function reject(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  const taken = [await ch.get(queue), await ch.get(queue)];
  ch.reject(taken[0], false);
  ch.reject(taken[1], true);
  equal(await left(c, ch, queue), [['2', true], ['3', false]], 'left');
}

async function redelivered(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  const taken = await (await Inbox.open(ch, queue)).take(3);
  equal(taken.map((message) => message.fields.redelivered), [false, false, false], 'at first');
  const connection = await c.connect();
  const inbox = await Inbox.open(await c.channel({ connection }), queue);
  await ch.close();
  const again = [['1', true], ['2', true], ['3', true]];
  equal((await inbox.take(3)).map(seen), again, 'after the channel closed');
  await connection.close();
  equal(await takeAll(await c.channel(), queue), again, 'after the connection closed');
}

async function recover(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  const inbox = await Inbox.open(ch, queue);
  await inbox.take(3);
  await ch.recover();
  const expected = [['1', true], ['2', true], ['3', true]];
  equal((await inbox.take(3)).map(seen), expected, 'delivered again');
}

async function unknown_delivery_tag(c) {
  const reason = (tag) => `PRECONDITION_FAILED - unknown delivery tag ${tag}`;
  const [first, second, third] = [await c.channel(), await c.channel(), await c.channel()];
  const message = await first.get(await three(c, first));
  first.ack(message);
  const tag = message.fields.deliveryTag;
  await c.refused(406, reason(tag), first, () => first.ack(message));
  await c.refused(406, reason(82), second, () => second.nack(tagged(82)));
  await c.refused(406, reason(83), third, () => third.reject(tagged(83)));
}

async function get(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  for (const number of [1, 2, 3]) {
    const message = await ch.get(queue);
    const { deliveryTag, exchange, routingKey, messageCount, redelivered: again } = message.fields;
    const found = [deliveryTag, exchange, routingKey, messageCount, again, text(message)];
    equal(found, [number, '', queue, 3 - number, false, String(number)], 'get-ok');
  }
}

async function get_empty(c) {
  const ch = await c.channel();
  equal(await ch.get(await c.queue(ch)), false, 'get of an empty queue');
  const missing = c.name();
  const reason = `NOT_FOUND - no queue '${missing}' in vhost '/'`;
  await c.refused(404, reason, ch, () => ch.get(missing));
}

async function cancel(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const inbox = await Inbox.open(ch, queue, { noAck: true });
  await publish(ch, '', queue, '1');
  await inbox.take(1);
  await ch.cancel(inbox.tag);
  await publish(await c.channel(), '', queue, '2');
  equal(await inbox.settled(), [], 'deliveries after cancel-ok');
  equal(await depth(ch, queue), [1, 0], 'the queue');
}

async function consumer_cancel_notify(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const inbox = await Inbox.open(ch, queue);
  await (await c.channel()).deleteQueue(queue);
  await inbox.until('basic.cancel', () => inbox.cancelled === 1);
  await ch.assertQueue('', { exclusive: true });
}

async function consumer_exclusive(c) {
  const owner = await c.channel();
  const queue = await c.queue(owner);
  const inbox = await Inbox.open(owner, queue, { exclusive: true });
  const reason = `ACCESS_REFUSED - queue '${queue}' in vhost '/' in exclusive use`;
  const second = await c.channel();
  await c.refused(403, reason, second, () => second.consume(queue, () => {}));
  await owner.cancel(inbox.tag);
  await Inbox.open(owner, queue);
  const third = await c.channel();
  await c.refused(403, reason, third, () => third.consume(queue, () => {}, { exclusive: true }));
}

async function consumer_priority(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const consumers = await c.channel();
  await consumers.prefetch(2);
  const low = await Inbox.open(consumers, queue);
  const high = await Inbox.open(consumers, queue, { priority: 10 });
  for (const body of ['1', '2', '3', '4']) await publish(ch, '', queue, body);
  equal(await high.bodies(2), ['1', '2'], 'the higher priority has credit');
  equal(await low.bodies(2), ['3', '4'], 'the lower one gets the rest');
}

async function qos_per_consumer(c) {
  const ch = await c.channel();
  const queue = await three(c, ch);
  for (const body of ['4', '5']) await publish(ch, '', queue, body);
  const consumers = await c.channel();
  await consumers.prefetch(2);
  const first = await Inbox.open(consumers, queue);
  const taken = await first.take(2);
  equal(await first.settled(), [], 'more than the prefetch count');
  await consumers.prefetch(1);
  const second = await Inbox.open(consumers, queue);
  equal(await second.bodies(1), ['3'], "the second consumer's own limit");
  equal(await second.settled(), [], 'more than the second prefetch count');
  consumers.ack(taken[0]);
  equal(await first.bodies(1), ['4'], 'credit that came back');
  equal((await depth(ch, queue))[0], 1, 'ready');
}

async function qos_global(c) {
  const [major, minor] = await c.version();
  const { platform } = await c.serverProperties();
  if (!String(platform).includes('Warren') && (major > 4 || (major === 4 && minor >= 3))) {
    throw new Skipped('since 4.3 RabbitMQ takes a global limit as one for each consumer');
  }
  const ch = await c.channel();
  const queue = await three(c, ch);
  for (const body of ['4', '5']) await publish(ch, '', queue, body);
  const consumers = await c.channel();
  await consumers.prefetch(3, true);
  const inboxes = [await Inbox.open(consumers, queue), await Inbox.open(consumers, queue)];
  const arrived = () => inboxes.flatMap((inbox) => inbox.messages);
  const expect = async (count) => {
    const reached = () => arrived().length >= count;
    await Promise.race(inboxes.map((inbox) => inbox.until(`${count} deliveries in all`, reached)));
    await inboxes[0].settled();
    equal(arrived().length, count, 'deliveries to both consumers');
  };
  await expect(3);
  consumers.ack(arrived()[0]);
  await expect(4);
}

async function roundTrip(c, body) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  await publish(ch, '', queue, body, PERSISTENT);
  const found = await within(ch.get(queue, { noAck: true }), 'get-ok');
  ensure(found.content.equals(body), `${found.content.length} bytes back differ from ${body.length}`);
  const inbox = await Inbox.open(ch, queue, { noAck: true });
  await publish(ch, '', queue, body);
  ensure((await inbox.take(1))[0].content.equals(body), 'the delivered body differs');
}

async function body_large(c) {
  const everyByte = Buffer.from(Uint8Array.from({ length: 256 }, (_, byte) => byte));
  await roundTrip(c, Buffer.alloc(10 * 1024 * 1024, everyByte));
}

async function body_empty(c) {
  await roundTrip(c, Buffer.alloc(0));
}

async function body_frame_boundaries(c) {
  const frame = (await c.main()).connection.frameMax - 8;
  for (const size of [frame - 1, frame, frame + 1, 2 * frame, 2 * frame + 1]) {
    await roundTrip(c, Buffer.alloc(size, 'x'));
  }
}

async function properties_all(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const sent = {
    contentType: 'text/plain', contentEncoding: 'utf-8', headers: { h: 'v' }, deliveryMode: 2,
    priority: 7, correlationId: 'correlation', replyTo: 'reply',
    messageId: 'id', timestamp: 1_700_000_000, type: 'type', userId: USER, appId: 'app',
    clusterId: undefined, expiration: '60000',
  };
  await publish(ch, '', queue, 'x', sent);
  const { properties } = await ch.get(queue);
  equal({ ...properties, headers: { ...properties.headers } }, sent, 'properties');
  await publish(ch, '', queue, 'x');
  const bare = (await ch.get(queue)).properties;
  // amqplib always sends a headers table, and the delivery mode only when it was asked for one.
  const present = Object.entries(bare).filter(([, value]) => value !== undefined);
  equal(present.map(([key]) => key), ['headers'], 'no properties');
}

async function expiration_expires(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  await publish(ch, '', queue, 'short', { expiration: '50' });
  await publish(ch, '', queue, 'long', { expiration: '60000' });
  const deadline = Date.now() + WAIT_MS;
  while ((await depth(ch, queue))[0] > 1) {
    ensure(Date.now() < deadline, 'the first message has not expired');
  }
  equal(await drain(ch, queue), ['long'], 'what lives longer');
}

async function header_types(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const typed = {
    int8: -128, int16: -32768, int32: -(2 ** 31), int64: 2 ** 52, uint8: 255, uint16: 65535,
    uint32: 2 ** 32 - 1, float: 0.5, double: 123.456,
  };
  const headers = {
    string: 'longstr \u00e4\u20ac', empty: '', bytes: Buffer.from([0, 255, 254]), true: true,
    false: false, void: null,
    decimal: { '!': 'decimal', value: { digits: 12345, places: 2 } },
    time: { '!': 'timestamp', value: 1_700_000_000 },
    nested: { list: [1, 'two', [3, { four: 4 }], null, true], table: { deep: { er: 'x' } } },
  };
  const asTyped = Object.entries(typed).map(([key, value]) => [key, { '!': key, value }]);
  const sent = { ...headers, ...Object.fromEntries(asTyped) };
  await publish(ch, '', queue, 'x', { headers: sent });
  const found = (await ch.get(queue)).properties.headers;
  equal({ ...found }, { ...headers, ...typed }, 'headers');
}

async function user_id_mismatch(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const reason =
    "PRECONDITION_FAILED - user_id property set to 'somebody' " +
    `but authenticated user was '${USER}'`;
  await c.refused(406, reason, ch, () => publish(ch, '', queue, '', { userId: 'somebody' }));
}

async function direct_reply_to(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const replies = await Inbox.open(ch, 'amq.rabbitmq.reply-to', { noAck: true });
  const ask = { replyTo: 'amq.rabbitmq.reply-to', correlationId: '7' };
  await publish(ch, '', queue, 'question', ask);
  const server = await c.channel({ connection: await c.connect() });
  const { replyTo } = (await server.get(queue, { noAck: true })).properties;
  ensure(replyTo.startsWith('amq.rabbitmq.reply-to.'), replyTo);
  await publish(server, '', replyTo, 'answer', { correlationId: '7' });
  const [reply] = await replies.take(1);
  const found = [text(reply), reply.properties.correlationId, reply.fields.exchange];
  equal(found, ['answer', '7', ''], 'reply');
}

async function direct_reply_to_refusals(c) {
  const [first, second] = [await c.channel(), await c.channel()];
  const cannotAck = 'PRECONDITION_FAILED - reply consumer cannot acknowledge';
  await c.refused(406, cannotAck, first, () => first.consume('amq.rabbitmq.reply-to', () => {}));
  const queue = await c.queue(second);
  const options = { replyTo: 'amq.rabbitmq.reply-to' };
  const none = 'PRECONDITION_FAILED - fast reply consumer does not exist';
  await c.refused(406, none, second, () => publish(second, '', queue, '', options));
}

module.exports = {
  publish_confirm, publish_missing_exchange, mandatory_return, consume, consume_missing_queue,
  consumer_tag_generated, consumer_tag_reuse, ack, ack_multiple, ack_all, nack_requeue,
  nack_multiple, reject, redelivered, recover, unknown_delivery_tag, get, get_empty, cancel,
  consumer_cancel_notify, consumer_exclusive, consumer_priority, qos_per_consumer, qos_global,
  body_large, body_empty, body_frame_boundaries, properties_all, expiration_expires, header_types,
  user_id_mismatch, direct_reply_to, direct_reply_to_refusals,
};

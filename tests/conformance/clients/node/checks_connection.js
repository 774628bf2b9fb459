// Handshake, limits, heartbeats, closing.
'use strict';

const { Inbox, USER, closeReason, drain, ensure, equal, publish, within } = require('./harness');

const CAPABILITIES = [
  'publisher_confirms', 'exchange_exchange_bindings', 'basic.nack', 'consumer_cancel_notify',
  'connection.blocked', 'consumer_priorities', 'authentication_failure_close', 'per_consumer_qos',
  'direct_reply_to',
];

async function connect_properties(c) {
  const properties = await c.serverProperties();
  equal(properties.product, 'RabbitMQ', 'product');
  ensure(/^\d+\.\d+\.\d+([-+].*)?$/.test(properties.version), `version ${properties.version}`);
  const missing = CAPABILITIES.filter((name) => properties.capabilities[name] !== true);
  equal(missing, [], 'missing capabilities');
}

async function connectRefused(c, changes) {
  try {
    await c.connect(changes);
  } catch (error) {
    return closeReason(error);
  }
  throw new Error('the connection was opened');
}

async function wrong_password(c) {
  const found = await connectRefused(c, { username: USER, password: 'not the password' });
  const text =
    'ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. ' +
    'For details see the broker logfile.';
  equal(found[1], text, 'close');
}

async function unknown_vhost(c) {
  const found = await connectRefused(c, { vhost: 'no-such-vhost' });
  // amqplib keeps the broker's text to itself here.
  equal(found[1], 'Expected ConnectionOpenOk; got <ConnectionClose channel:0>', 'close');
}

async function close_clean(c) {
  const connection = await c.connect();
  const channel = await c.channel({ connection });
  await channel.close();
  await connection.close();
  const again = await c.connect();
  await c.channel({ connection: again });
  await again.close();
}

async function heartbeat_idle(c) {
  const connection = await c.connect({ heartbeat: 1 });
  const channel = await c.channel({ connection });
  const ended = new Promise((resolve) => connection.on('close', () => resolve('closed')));
  const idle = new Promise((resolve) => setTimeout(() => resolve('idle'), 5000));
  equal(await Promise.race([ended, connection.failure, idle]), 'idle', 'the idle connection');
  await channel.assertQueue('', { exclusive: true });
}

async function tune_limits(c) {
  const connection = await c.connect({ frameMax: 8192, channelMax: 10 });
  const { frameMax, channelMax } = connection.connection;
  equal([frameMax, channelMax], [8192, 10], 'frame_max and channel_max');
  let channel;
  for (let number = 0; number < 10; number += 1) channel = await c.channel({ connection });
  const queue = await c.queue(channel);
  const body = 'b'.repeat(50_000);
  await publish(channel, '', queue, body);
  ensure((await drain(channel, queue))[0] === body, 'the body in frames of 8192 differs');
}

async function many_channels(c) {
  const connection = await c.connect();
  const open = Array.from({ length: 500 }, () => c.channel({ connection, confirm: false }));
  const channels = await Promise.all(open);
  const queue = await c.queue(channels[0]);
  const inbox = await Inbox.open(channels[0], queue, { noAck: true });
  channels.forEach((channel, number) => channel.sendToQueue(queue, Buffer.from(String(number))));
  const bodies = await inbox.bodies(500);
  equal(new Set(bodies).size, 500, 'messages, one from each channel');
  await Promise.all(channels.slice(1).map((channel) => channel.close()));
  await channels[0].checkQueue(queue);
}

async function blocked_capability(c) {
  const connection = await c.connect();
  const blocked = [];
  connection.on('blocked', (reason) => blocked.push(reason));
  await (await c.channel({ connection })).assertQueue('', { exclusive: true });
  equal(blocked, [], 'connection.blocked without an alarm');
}

async function channel_error_isolated(c) {
  const [good, bad] = [await c.channel(), await c.channel()];
  const queue = await c.queue(good);
  const missing = c.name();
  const text = `NOT_FOUND - no queue '${missing}' in vhost '/'`;
  await c.refused(404, text, bad, () => bad.checkQueue(missing));
  await publish(good, '', queue, 'still here');
  equal(await drain(good, queue), ['still here'], 'on the other channel');
  const another = await c.channel();
  await within(another.checkQueue(queue), 'an answer on a new channel');
}

module.exports = {
  connect_properties, wrong_password, unknown_vhost, close_clean, heartbeat_idle, tune_limits,
  many_channels, blocked_capability, channel_error_isolated,
};

// What every check of the amqplib suite uses: connections, unique names, waits with a name, clean-up.
//
// Every call on a channel is remembered, so that a check that gets no answer says what it asked.
'use strict';

const { randomBytes } = require('node:crypto');
const { isDeepStrictEqual, inspect } = require('node:util');
const amqp = require('amqplib');

const CHECK_MS = 20_000;
const WAIT_MS = 8_000;
const AMQP_URL = new URL(process.env.AMQP_URL || 'amqp://guest:guest@127.0.0.1:5672/%2f');
const USER = decodeURIComponent(AMQP_URL.username) || 'guest';

class Skipped extends Error {}

function equal(found, expected, what) {
  if (!isDeepStrictEqual(found, expected)) {
    throw new Error(`${what}: found ${inspect(found)}, expected ${inspect(expected)}`);
  }
}

function ensure(condition, what) {
  if (!condition) throw new Error(what);
}

function connectionOptions(changes) {
  return {
    protocol: 'amqp',
    hostname: AMQP_URL.hostname,
    port: Number(AMQP_URL.port) || 5672,
    username: USER,
    password: decodeURIComponent(AMQP_URL.password) || 'guest',
    vhost: decodeURIComponent(AMQP_URL.pathname.slice(1)) || '/',
    ...changes,
  };
}

/** The promise, or a failure that says what did not happen in time. */
async function within(promise, what, ms = WAIT_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms / 1000} s for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The code and the text that the broker gave, out of amqplib's message. */
function closeReason(error) {
  const found = /with message "(.*)"$/s.exec(error.message);
  return [error.code, found ? found[1] : error.message];
}

class Context {
  constructor(checkName) {
    this.checkName = checkName;
    this.connections = [];
    this.queues = [];
    this.exchanges = [];
    this.lastCall = 'connect';
  }

  async connect(changes = {}, socketOptions = {}) {
    this.lastCall = 'connect';
    const connection = await amqp.connect(connectionOptions(changes), socketOptions);
    connection.failure = new Promise((resolve) => connection.on('error', resolve));
    this.connections.push(connection);
    return connection;
  }

  async main() {
    this.mainConnection ??= this.connect();
    return this.mainConnection;
  }

  async channel({ confirm = true, connection } = {}) {
    connection ??= await this.main();
    const raw = confirm ? await connection.createConfirmChannel() : await connection.createChannel();
    raw.failure = new Promise((resolve) => raw.on('error', resolve));
    raw.isClosed = false;
    raw.on('close', () => (raw.isClosed = true));
    raw.failure.then(() => (raw.isClosed = true));
    return new Proxy(raw, {
      get: (target, property) => {
        const value = target[property];
        if (typeof value !== 'function') return value;
        return (...args) => {
          this.lastCall = `${String(property)}(${inspect(args[0])})`;
          return value.apply(target, args);
        };
      },
    });
  }

  name(suffix = 'q') {
    return `conf.amqplib.${this.checkName}.${suffix}.${randomBytes(5).toString('hex')}`;
  }

  async queue(channel, options = {}) {
    const name = this.name();
    this.queues.push(name);
    await channel.assertQueue(name, options);
    return name;
  }

  async exchange(channel, kind, options = { durable: false }) {
    const name = this.name('x');
    this.exchanges.push(name);
    await channel.assertExchange(name, kind, options);
    return name;
  }

  async serverProperties() {
    return (await this.main()).connection.serverProperties;
  }

  async version() {
    const [major, minor] = (await this.serverProperties()).version.split('.').map(Number);
    return [major, minor];
  }

  async since(major, minor, reason) {
    const found = await this.version();
    if (found[0] < major || (found[0] === major && found[1] < minor)) {
      throw new Skipped(`since ${major}.${minor} ${reason}`);
    }
  }

  /** The action must be answered by a close of the channel with this code and text. */
  async refused(code, text, channel, action) {
    const expected = [code, text];
    await this.refusedAs(channel.failure, action, (found) => equal(found, expected, 'close'));
  }

  async refusedAs(failure, action, judge) {
    Promise.resolve()
      .then(action)
      .catch(() => {});
    judge(closeReason(await within(failure, `the refusal of ${this.checkName}`)));
  }

  async cleanUp() {
    for (const connection of this.connections) {
      await connection.close().catch(() => {});
    }
    if (this.queues.length === 0 && this.exchanges.length === 0) return;
    const connection = await amqp.connect(connectionOptions());
    const channel = await connection.createChannel();
    for (const name of this.queues) await channel.deleteQueue(name);
    for (const name of this.exchanges) await channel.deleteExchange(name);
    await connection.close();
  }
}

/** A consumer that keeps what it was sent. */
class Inbox {
  static async open(channel, queue, options = {}) {
    const inbox = new Inbox();
    Object.assign(inbox, { channel, queue, messages: [], cancelled: 0, wake: [] });
    const ok = await channel.consume(
      queue,
      (message) => {
        if (message === null) inbox.cancelled += 1;
        else inbox.messages.push(message);
        for (const wake of inbox.wake.splice(0)) wake();
      },
      options,
    );
    inbox.tag = ok.consumerTag;
    return inbox;
  }

  async until(what, condition) {
    const wait = async () => {
      while (!condition()) await new Promise((resolve) => this.wake.push(resolve));
    };
    await within(wait(), `${what} from ${this.queue} (have ${this.messages.length})`);
  }

  async take(count) {
    await this.until(`${count} deliveries`, () => this.messages.length >= count);
    return this.messages.splice(0, count);
  }

  async bodies(count) {
    return (await this.take(count)).map(text);
  }

  /** What has arrived once the queue has answered a question asked after everything else. */
  async settled() {
    await this.channel.checkQueue(this.queue);
    return this.messages;
  }
}

const text = (message) => message.content.toString();

/** Publishes on a confirm channel and waits for the confirm. */
function publish(channel, exchange, key, body = '', options = {}) {
  return within(
    new Promise((resolve, reject) => {
      const done = (error) => (error ? reject(error) : resolve());
      channel.publish(exchange, key, Buffer.from(body), options, done);
    }),
    `the confirm of a message to '${exchange}' '${key}'`,
  );
}

/** [ready messages, consumers] of a queue. */
async function depth(channel, queue) {
  const ok = await channel.checkQueue(queue);
  return [ok.messageCount, ok.consumerCount];
}

/** Bodies and redelivered flags of all ready messages, taken with automatic acknowledgement. */
async function takeAll(channel, queue) {
  const found = [];
  for (;;) {
    const message = await channel.get(queue, { noAck: true });
    if (message === false) return found;
    found.push([text(message), message.fields.redelivered]);
  }
}

async function drain(channel, queue) {
  return (await takeAll(channel, queue)).map(([body]) => body);
}

/** Publishes one message and gives the labels of the queues that got it. */
async function routed(channel, exchange, key, queues, options) {
  await publish(channel, exchange, key, 'probe', options);
  const found = [];
  for (const [label, queue] of Object.entries(queues)) {
    for (const _ of await drain(channel, queue)) found.push(label);
  }
  return found.sort();
}

/** Runs one check and gives its line. */
async function run(name, check) {
  if (!check) return `fail ${name} the suite has no such check`;
  const context = new Context(name);
  const oneLine = (error) => String(error.message).replace(/\s+/g, ' ');
  let line = `ok ${name}`;
  try {
    await within(check(context), 'the check', CHECK_MS).catch((error) => {
      if (/for the check$/.test(error.message)) error.message += `; last call ${context.lastCall}`;
      throw error;
    });
  } catch (error) {
    const verdict = error instanceof Skipped ? 'skip' : 'fail';
    line = `${verdict} ${name} ${oneLine(error)}`;
    const place = /checks_\w+\.js:\d+/.exec(error.stack || '');
    if (verdict === 'fail' && place) line += ` (${place[0]})`;
  }
  try {
    await within(context.cleanUp(), 'the clean-up', CHECK_MS);
  } catch (error) {
    if (line.startsWith('ok')) line = `fail ${name} clean-up: ${oneLine(error)}`;
  }
  return line;
}

module.exports = {
  Context, Inbox, Skipped, USER, WAIT_MS, closeReason, depth, drain, ensure, equal, publish,
  routed, run, takeAll, text, within,
};

// Exchanges: kinds, what they route, and what may not be done to them.
'use strict';

const { depth, drain, ensure, equal, publish, routed } = require('./harness');

const TRANSIENT = { durable: false };

/** A queue for each binding: label -> [routing key, arguments]. */
async function queuesBound(c, ch, exchange, bindings) {
  const queues = {};
  for (const [label, [key, args]] of Object.entries(bindings)) {
    queues[label] = await c.queue(ch);
    await ch.bindQueue(queues[label], exchange, key, args);
  }
  return queues;
}

async function exchange_default(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  await publish(ch, '', queue, 'by name');
  equal(await drain(ch, queue), ['by name'], 'through the default exchange');
}

async function exchange_direct(c) {
  const ch = await c.channel();
  const exchange = await c.exchange(ch, 'direct');
  const bindings = { a: ['a'], 'a too': ['a'], b: ['b'] };
  const queues = await queuesBound(c, ch, exchange, bindings);
  equal(await routed(ch, exchange, 'a', queues), ['a', 'a too'], 'key a');
  equal(await routed(ch, exchange, 'b', queues), ['b'], 'key b');
  equal(await routed(ch, exchange, 'c', queues), [], 'key c');
}

async function exchange_fanout(c) {
  const ch = await c.channel();
  const exchange = await c.exchange(ch, 'fanout', { durable: true });
  const queues = await queuesBound(c, ch, exchange, { a: ['x'], b: [''], c: ['y'] });
  equal(await routed(ch, exchange, 'whatever', queues), ['a', 'b', 'c'], 'fanout');
}

async function exchange_topic(c) {
  const ch = await c.channel();
  const exchange = await c.exchange(ch, 'topic');
  const patterns = ['#', '*', 'a.*', 'a.#', '*.b', '#.c', 'a.*.c', 'a.#.c', 'a.b.c', '*.*', ''];
  const bindings = Object.fromEntries(patterns.map((pattern) => [pattern, [pattern]]));
  const queues = await queuesBound(c, ch, exchange, bindings);
  for (const [key, expected] of Object.entries({
    '': ['', '#'],
    a: ['#', '*', 'a.#'],
    'a.b': ['#', '*.*', '*.b', 'a.#', 'a.*'],
    'a.b.c': ['#', '#.c', 'a.#', 'a.#.c', 'a.*.c', 'a.b.c'],
    'a.c': ['#', '#.c', '*.*', 'a.#', 'a.#.c', 'a.*'],
    'a.b.d.c': ['#', '#.c', 'a.#', 'a.#.c'],
    'a..c': ['#', '#.c', 'a.#', 'a.#.c', 'a.*.c'],
    c: ['#', '#.c', '*'],
    'x.y': ['#', '*.*'],
  })) {
    equal(await routed(ch, exchange, key, queues), expected.sort(), `key '${key}'`);
  }
}

async function headersRoutes(c, bindings, cases) {
  const ch = await c.channel();
  const exchange = await c.exchange(ch, 'headers');
  const bound = Object.entries(bindings).map(([label, args]) => [label, ['', args]]);
  const queues = await queuesBound(c, ch, exchange, Object.fromEntries(bound));
  for (const [headers, expected] of cases) {
    const found = await routed(ch, exchange, '', queues, { headers });
    equal(found, expected.sort(), JSON.stringify(headers));
  }
}

async function exchange_headers(c) {
  const bindings = {
    default: { a: 1, b: 'two' },
    all: { 'x-match': 'all', a: 1, b: 'two' },
    any: { 'x-match': 'any', a: 1, b: 'two' },
    present: { 'x-match': 'all', a: null },
    'all skips x-': { 'x-match': 'all', a: 1, 'x-k': 'no' },
  };
  await headersRoutes(c, bindings, [
    [{ a: 1, b: 'two' }, ['default', 'all', 'any', 'present', 'all skips x-']],
    [{ a: 1 }, ['any', 'present', 'all skips x-']],
    [{ a: '1' }, ['present']],
    [{ b: 'two', z: true }, ['any']],
    [{ a: 1, b: 'three', 'x-k': 'no' }, ['any', 'present', 'all skips x-']],
    [{}, []],
    [undefined, []],
  ]);
}

async function exchange_headers_with_x(c) {
  await c.since(3, 10, 'x-match forms all-with-x and any-with-x');
  const bindings = {
    all: { 'x-match': 'all-with-x', a: 1, 'x-k': 'yes' },
    any: { 'x-match': 'any-with-x', a: 1, 'x-k': 'yes' },
    'plain any': { 'x-match': 'any', a: 1, 'x-k': 'yes' },
  };
  await headersRoutes(c, bindings, [
    [{ a: 1, 'x-k': 'yes' }, ['all', 'any', 'plain any']],
    [{ 'x-k': 'yes' }, ['any']],
    [{ a: 1 }, ['any', 'plain any']],
    [{ a: 2, 'x-k': 'no' }, []],
  ]);
}

async function exchange_headers_bad_match(c) {
  const ch = await c.channel();
  const queue = await c.queue(ch);
  const text =
    'PRECONDITION_FAILED - Invalid x-match field value <<"some">>; ' +
    'expected all, any, all-with-x, or any-with-x';
  await c.refused(406, text, ch, () => ch.bindQueue(queue, 'amq.headers', '', { 'x-match': 'some' }));
}

async function exchange_to_exchange(c) {
  const ch = await c.channel();
  const source = await c.exchange(ch, 'topic');
  const target = await c.exchange(ch, 'fanout');
  const queues = await queuesBound(c, ch, target, { q: [''] });
  await ch.bindQueue(queues.q, source, 'a.#');
  await ch.bindExchange(target, source, 'a.*');
  equal(await routed(ch, source, 'a.b', queues), ['q'], 'two ways to one queue');
  await ch.unbindQueue(queues.q, source, 'a.#');
  equal(await routed(ch, source, 'a.b', queues), ['q'], 'through the second exchange');
  await ch.bindExchange(source, target, 'a.b');
  equal(await routed(ch, source, 'a.b', queues), ['q'], 'round in a circle');
  await ch.unbindExchange(target, source, 'a.*');
  equal(await routed(ch, source, 'a.b', queues), [], 'after unbind');
}

async function alternate_exchange(c) {
  const ch = await c.channel();
  const spare = await c.exchange(ch, 'fanout');
  const main = await c.exchange(ch, 'direct', { durable: false, alternateExchange: spare });
  const queues = {
    ...(await queuesBound(c, ch, spare, { spare: [''] })),
    ...(await queuesBound(c, ch, main, { main: ['key'] })),
  };
  equal(await routed(ch, main, 'key', queues), ['main'], 'routed');
  equal(await routed(ch, main, 'other', queues), ['spare'], 'not routed');
  const returned = [];
  ch.on('return', (message) => returned.push(message));
  await publish(ch, main, 'other', '', { mandatory: true });
  equal(returned.length, 0, 'mandatory is satisfied by the alternate');
}

async function cc_bcc(c) {
  const ch = await c.channel();
  const queues = { to: await c.queue(ch), cc: await c.queue(ch), bcc: await c.queue(ch) };
  const options = { CC: [queues.cc, queues.to], BCC: [queues.bcc], headers: { k: 'v' } };
  equal(await routed(ch, '', queues.to, queues, options), ['bcc', 'cc', 'to'], 'once each');
  await publish(ch, '', queues.to, '', options);
  for (const [label, queue] of Object.entries(queues)) {
    const { headers } = (await ch.get(queue, { noAck: true })).properties;
    equal({ ...headers }, { CC: options.CC, k: 'v' }, `headers at ${label}`);
  }
}

async function cc_not_an_array(c) {
  const ch = await c.channel();
  await c.refusedAs(
    ch.failure,
    () => publish(ch, '', 'x', '', { headers: { CC: 'queue' } }),
    ([code, text]) => {
      equal(code, 406, 'code');
      const start = 'PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,';
      ensure(text.startsWith(start), text);
    },
  );
}

async function exchange_internal(c) {
  const ch = await c.channel();
  const internal = await c.exchange(ch, 'fanout', { durable: false, internal: true });
  const source = await c.exchange(ch, 'fanout');
  await ch.bindExchange(internal, source, '');
  const queues = await queuesBound(c, ch, internal, { q: [''] });
  equal(await routed(ch, source, '', queues), ['q'], 'through another exchange');
  const text = `ACCESS_REFUSED - cannot publish to internal exchange '${internal}' in vhost '/'`;
  await c.refused(403, text, ch, () => publish(ch, internal, ''));
}

async function exchange_auto_delete(c) {
  const ch = await c.channel();
  const exchange = await c.exchange(ch, 'direct', { durable: false, autoDelete: true });
  const queue = await c.queue(ch);
  await ch.checkExchange(exchange);
  await ch.bindQueue(queue, exchange, 'a');
  await ch.bindQueue(queue, exchange, 'b');
  await ch.unbindQueue(queue, exchange, 'a');
  await ch.checkExchange(exchange);
  await ch.unbindQueue(queue, exchange, 'b');
  const text = `NOT_FOUND - no exchange '${exchange}' in vhost '/'`;
  await c.refused(404, text, ch, () => ch.checkExchange(exchange));
}

async function exchange_inequivalent(c) {
  const exchange = await c.exchange(await c.channel(), 'direct', { durable: true });
  await (await c.channel()).assertExchange(exchange, 'direct', { durable: true });
  for (const [key, received, current, kind, options] of [
    ['type', "'fanout'", "'direct'", 'fanout', {}],
    ['durable', "'false'", "'true'", 'direct', TRANSIENT],
    ['auto_delete', "'true'", "'false'", 'direct', { autoDelete: true }],
    ['internal', "'true'", "'false'", 'direct', { internal: true }],
    [
      'alternate-exchange', "the value 'spare' of type 'longstr'", 'none', 'direct',
      { alternateExchange: 'spare' },
    ],
  ]) {
    const ch = await c.channel();
    const text =
      `PRECONDITION_FAILED - inequivalent arg '${key}' for exchange '${exchange}' ` +
      `in vhost '/': received ${received} but current is ${current}`;
    await c.refused(406, text, ch, () => ch.assertExchange(exchange, kind, options));
  }
}

async function exchange_passive(c) {
  const ch = await c.channel();
  await ch.checkExchange('amq.topic');
  const missing = c.name('x');
  const text = `NOT_FOUND - no exchange '${missing}' in vhost '/'`;
  await c.refused(404, text, ch, () => ch.checkExchange(missing));
}

async function exchange_predeclared(c) {
  const ch = await c.channel();
  for (const kind of ['direct', 'fanout', 'topic', 'headers']) {
    await ch.assertExchange(`amq.${kind}`, kind);
  }
  await ch.assertExchange('amq.match', 'headers');
}

async function exchange_reserved_name(c) {
  const ch = await c.channel();
  const text = "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'";
  await c.refused(403, text, ch, () => ch.assertExchange('amq.conformance', 'direct'));
}

async function exchange_default_forbidden(c) {
  const queue = await c.queue(await c.channel());
  for (const action of [
    (ch) => ch.bindQueue(queue, '', 'k'),
    (ch) => ch.unbindQueue(queue, '', queue),
    (ch) => ch.deleteExchange(''),
    (ch) => ch.assertExchange('', 'direct'),
  ]) {
    const ch = await c.channel();
    const text = 'ACCESS_REFUSED - operation not permitted on the default exchange';
    await c.refused(403, text, ch, () => action(ch));
  }
}

async function exchange_delete(c) {
  const [ch, other, third] = [await c.channel(), await c.channel(), await c.channel()];
  const exchange = await c.exchange(ch, 'direct');
  const queue = await c.queue(ch);
  await ch.bindQueue(queue, exchange, 'k');
  const inUse = `PRECONDITION_FAILED - exchange '${exchange}' in vhost '/' in use`;
  await c.refused(406, inUse, other, () => other.deleteExchange(exchange, { ifUnused: true }));
  await ch.unbindQueue(queue, exchange, 'k');
  await ch.deleteExchange(exchange, { ifUnused: true });
  await ch.deleteExchange(exchange);
  equal(await depth(ch, queue), [0, 0], 'the queue stays');
  const system = "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed";
  await c.refused(403, system, third, () => third.deleteExchange('amq.direct'));
}

module.exports = {
  exchange_default, exchange_direct, exchange_fanout, exchange_topic, exchange_headers,
  exchange_headers_with_x, exchange_headers_bad_match, exchange_to_exchange, alternate_exchange,
  cc_bcc, cc_not_an_array, exchange_internal, exchange_auto_delete, exchange_inequivalent,
  exchange_passive, exchange_predeclared, exchange_reserved_name, exchange_default_forbidden,
  exchange_delete,
};

// Conformance checks through amqplib: `AMQP_URL=.. node suite.js CHECK..` (none named: all).
//
// Prints a line for each check: `ok NAME`, `fail NAME reason` or `skip NAME since X.Y reason`.
'use strict';

const { run } = require('./harness');

const CHECKS = {
  ...require('./checks_connection'),
  ...require('./checks_queue'),
  ...require('./checks_message'),
  ...require('./checks_exchange'),
};

async function main() {
  const named = process.argv.slice(2);
  for (const name of named.length > 0 ? named : Object.keys(CHECKS)) {
    console.log(await run(name, CHECKS[name]));
  }
}

main().then(() => process.exit(0));

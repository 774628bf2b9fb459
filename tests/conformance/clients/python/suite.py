"""Conformance checks through pika: `AMQP_URL=.. python suite.py CHECK..` (none named: all).

Prints a line for each check: `ok NAME`, `fail NAME reason` or `skip NAME since X.Y reason`.
"""

import logging
import sys

import checks_connection  # noqa: F401  (registers its checks)
import checks_exchange  # noqa: F401
import checks_message  # noqa: F401
import checks_queue  # noqa: F401
import harness


def main():
    logging.disable(logging.CRITICAL)
    for name in sys.argv[1:] or list(harness.CHECKS):
        print(harness.run(name), flush=True)


main()

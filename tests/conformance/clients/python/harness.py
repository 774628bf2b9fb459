"""What every check of the pika suite uses: connections, unique names, waits with a name, clean-up.

Nothing here waits without a limit: a wait that fails says what it waited for, and an alarm ends a
check that hangs inside pika itself and names the line.
"""

import os
import signal
import time
import traceback
import uuid

import pika
from pika import exceptions

CHECK_SECONDS = 20
WAIT_SECONDS = 8
AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
CHECKS = {}


class Skipped(Exception):
    """The broker is older than the behaviour that the check expects."""


class TimedOut(BaseException):
    """Raised by the alarm; no `except Exception` of a library may swallow it."""


def check(function):
    """Registers a function as the check of the same name."""
    CHECKS[function.__name__] = function
    return function


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def parameters(**changes):
    result = pika.URLParameters(AMQP_URL)
    for key, value in changes.items():
        setattr(result, key, value)
    return result


def version_of(properties):
    text = properties["version"]
    if isinstance(text, bytes):
        text = text.decode()
    return tuple(int(part) for part in text.split("-")[0].split("+")[0].split(".")[:2])


class Context:
    """One check's connections and what it declared."""

    def __init__(self, name):
        self.check_name = name
        self.connections = []
        self.queues = []
        self.exchanges = []

    def connect(self, **changes):
        connection = pika.BlockingConnection(parameters(**changes))
        self.connections.append(connection)
        return connection

    @property
    def connection(self):
        """The check's main connection, opened at first use and again after it was closed."""
        if not self.connections or not self.connections[0].is_open:
            self.connections.insert(0, pika.BlockingConnection(parameters()))
        return self.connections[0]

    def channel(self, confirm=True):
        channel = self.connection.channel()
        if confirm:
            channel.confirm_delivery()
        return channel

    def name(self, suffix="q"):
        return f"conf.pika.{self.check_name}.{suffix}.{uuid.uuid4().hex[:10]}"

    def queue(self, channel, **options):
        name = self.name()
        self.queues.append(name)
        options.setdefault("durable", True)
        channel.queue_declare(name, **options)
        return name

    def exchange(self, channel, kind, **options):
        name = self.name("x")
        self.exchanges.append(name)
        channel.exchange_declare(name, kind, **options)
        return name

    def server_properties(self):
        return self.connection._impl.server_properties

    def since(self, major, minor, reason):
        if version_of(self.server_properties()) < (major, minor):
            raise Skipped(f"since {major}.{minor} {reason}")

    def wait(self, what, condition, connection=None, seconds=WAIT_SECONDS):
        """Serves the connection until `condition()` holds; gives its value."""
        connection = connection or self.connection
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s for {what}")
            connection.process_data_events(time_limit=0.05)

    def refused(self, code, text, action, scope="channel"):
        """`action` must be answered by a close of the channel (or connection) with code and text."""
        kind = (
            exceptions.ChannelClosedByBroker
            if scope == "channel"
            else exceptions.ConnectionClosedByBroker
        )
        try:
            action()
        except kind as error:
            equal((error.reply_code, error.reply_text), (code, text), f"close of the {scope}")
            return
        raise AssertionError(f"not refused; expected {code} {text}")

    def inbox(self, channel, queue, **options):
        return Inbox(self, channel, queue, **options)

    def clean_up(self):
        for connection in self.connections:
            try:
                if connection.is_open:
                    connection.close()
            except exceptions.AMQPError:
                pass
        if not self.queues and not self.exchanges:
            return
        connection = pika.BlockingConnection(parameters())
        channel = connection.channel()
        for name in self.queues:
            channel.queue_delete(name)
        for name in self.exchanges:
            channel.exchange_delete(name)
        connection.close()


class Inbox:
    """A consumer that keeps what it was sent: (method, properties, body)."""

    def __init__(self, context, channel, queue, **options):
        self.context = context
        self.channel = channel
        self.queue = queue
        self.messages = []
        self.tag = channel.basic_consume(queue, self._on_message, **options)

    def _on_message(self, _channel, method, properties, body):
        self.messages.append((method, properties, body))

    def take(self, count):
        self.context.wait(
            f"{count} deliveries from {self.queue} (have {len(self.messages)})",
            lambda: len(self.messages) >= count,
            self.channel.connection,
        )
        taken, self.messages = self.messages[:count], self.messages[count:]
        return taken

    def bodies(self, count):
        return [body for _, _, body in self.take(count)]

    def settled(self):
        """What has arrived once the queue has answered a question asked after everything else."""
        self.channel.queue_declare(self.queue, passive=True)
        self.channel.connection.process_data_events(time_limit=0)
        return self.messages


def publish(channel, exchange, key, body=b"", properties=None, mandatory=False):
    channel.basic_publish(exchange, key, body, properties, mandatory)


def depth(channel, queue):
    """(ready messages, consumers) of a queue."""
    ok = channel.queue_declare(queue, passive=True).method
    return ok.message_count, ok.consumer_count


def drain(channel, queue):
    """Bodies of all ready messages, taken with automatic acknowledgement."""
    bodies = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return bodies
        bodies.append(body)


def routed(channel, exchange, key, queues, properties=None):
    """Publishes one message and gives the labels of the queues that got it (each at most once)."""
    publish(channel, exchange, key, b"probe", properties)
    found = []
    for label, queue in queues.items():
        found += [label] * len(drain(channel, queue))
    return sorted(found)


def _on_alarm(_signal, frame):
    place = "?"
    for entry in traceback.extract_stack(frame):
        if os.path.dirname(entry.filename) == os.path.dirname(os.path.abspath(__file__)):
            place = f"{os.path.basename(entry.filename)}:{entry.lineno} `{entry.line}`"
    raise TimedOut(f"no answer within {CHECK_SECONDS} s at {place}")


def one_line(text):
    return " ".join(str(text).split())


def run(name):
    """Runs one check and gives its line."""
    function = CHECKS.get(name)
    if function is None:
        return f"fail {name} the suite has no such check"
    context = Context(name)
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.alarm(CHECK_SECONDS)
    line = f"ok {name}"
    try:
        function(context)
    except Skipped as reason:
        line = f"skip {name} {reason}"
    except (Exception, TimedOut) as error:
        at = [e for e in traceback.extract_tb(error.__traceback__) if "checks_" in e.filename]
        place = f" (line {at[-1].lineno})" if at else ""
        line = f"fail {name} {type(error).__name__}: {one_line(error)}{place}"
    signal.alarm(CHECK_SECONDS)
    try:
        context.clean_up()
    except (Exception, TimedOut) as error:
        if line.startswith("ok"):
            line = f"fail {name} clean-up: {type(error).__name__}: {one_line(error)}"
    signal.alarm(0)
    return line

"""Handshake, limits, heartbeats, closing."""

import re
import time

import pika
from pika import exceptions

from harness import Context, check, equal, parameters

CAPABILITIES = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
]


@check
def connect_properties(c: Context):
    properties = c.server_properties()
    equal(properties["product"], "RabbitMQ", "product")
    assert re.fullmatch(r"\d+\.\d+\.\d+([-+].*)?", properties["version"]), properties["version"]
    missing = [name for name in CAPABILITIES if properties["capabilities"].get(name) is not True]
    equal(missing, [], "missing capabilities")


@check
def wrong_password(c: Context):
    url = parameters()
    user = url.credentials.username
    try:
        c.connect(credentials=pika.PlainCredentials(user, "not the password"))
    except exceptions.ProbableAuthenticationError as error:
        assert "403" in str(error) and (
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
            "For details see the broker logfile." in str(error)
        ), error
        return
    raise AssertionError("logged in with a wrong password")


@check
def unknown_vhost(c: Context):
    try:
        c.connect(virtual_host="no-such-vhost")
    except exceptions.ProbableAccessDeniedError as error:
        assert "(530) 'NOT_ALLOWED - vhost no-such-vhost not found'" in str(error), error
        return
    raise AssertionError("opened a vhost that does not exist")


@check
def close_clean(c: Context):
    connection = c.connect()
    channel = connection.channel()
    channel.close()
    connection.close()
    assert connection.is_closed and channel.is_closed
    again = c.connect()
    again.channel()
    again.close()


@check
def heartbeat_idle(c: Context):
    connection = c.connect(heartbeat=1)
    channel = connection.channel()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        connection.process_data_events(time_limit=until - time.monotonic())
    assert channel.is_open, "the idle connection was closed"
    channel.queue_declare("", exclusive=True)


@check
def tune_limits(c: Context):
    connection = c.connect(frame_max=8192, channel_max=10)
    tuned = connection._impl.params
    equal((tuned.frame_max, tuned.channel_max), (8192, 10), "frame_max and channel_max")
    for _ in range(10):
        channel = connection.channel()
    queue = c.queue(channel)
    body = b"b" * 50_000
    channel.confirm_delivery()
    channel.basic_publish("", queue, body)
    equal(channel.basic_get(queue, auto_ack=True)[2], body, "body in frames of 8192")


@check
def many_channels(c: Context):
    connection = c.connect()
    channels = [connection.channel() for _ in range(500)]
    queue = c.queue(channels[0])
    for number, channel in enumerate(channels):
        channel.basic_publish("", queue, str(number).encode())
    c.wait(
        "500 messages, one from each channel",
        lambda: channels[0].queue_declare(queue, passive=True).method.message_count == 500,
        connection,
    )
    for channel in channels[1:]:
        channel.close()
    assert channels[0].is_open


@check
def blocked_capability(c: Context):
    connection = c.connect(blocked_connection_timeout=5)
    blocked = []
    connection.add_on_connection_blocked_callback(lambda *event: blocked.append(event))
    connection.channel().queue_declare("", exclusive=True)
    equal(blocked, [], "connection.blocked without an alarm")


@check
def channel_error_isolated(c: Context):
    good, bad = c.channel(), c.channel()
    queue = c.queue(good)
    missing = c.name()
    c.refused(
        404,
        f"NOT_FOUND - no queue '{missing}' in vhost '/'",
        lambda: bad.queue_declare(missing, passive=True),
    )
    assert good.is_open and bad.is_closed
    good.basic_publish("", queue, b"still here")
    equal(good.basic_get(queue, auto_ack=True)[2], b"still here", "body on the other channel")
    c.channel().queue_declare(queue, passive=True)

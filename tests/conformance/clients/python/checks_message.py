"""Publishing, consuming, acknowledging, transactions, limits on delivery."""

import datetime
import decimal

import pika
from pika import exceptions

from harness import Context, Skipped, check, depth, drain, equal, publish, version_of

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def three(c: Context, ch):
    """A queue with the messages 1, 2 and 3."""
    queue = c.queue(ch)
    for body in (b"1", b"2", b"3"):
        publish(ch, "", queue, body, PERSISTENT)
    return queue


def left(c: Context, ch, queue):
    """Closes the channel that holds messages and gives what is then in the queue, in order."""
    ch.close()
    return [(body, again) for body, again in take_all(c.channel(), queue)]


def take_all(ch, queue):
    while True:
        method, _, body = ch.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield body, method.redelivered


@check
def publish_confirm(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    for number in range(100):
        publish(ch, "", queue, b"%d" % number, PERSISTENT)
    equal(depth(ch, queue)[0], 100, "messages once all are confirmed")
    equal(drain(ch, queue), [b"%d" % number for number in range(100)], "order")


@check
def publish_missing_exchange(c: Context):
    missing = c.name("x")
    c.refused(
        404,
        f"NOT_FOUND - no exchange '{missing}' in vhost '/'",
        lambda: publish(c.channel(), missing, "key"),
    )


@check
def mandatory_return(c: Context):
    ch = c.channel()
    missing = c.name()
    try:
        publish(ch, "", missing, b"back", pika.BasicProperties(type="t"), mandatory=True)
    except exceptions.UnroutableError as error:  # raised only if the return came before the ack
        (returned,) = error.messages
        method = returned.method
        found = (method.reply_code, method.reply_text, method.exchange, method.routing_key)
        equal(found, (312, "NO_ROUTE", "", missing), "basic.return")
        equal((returned.body, returned.properties.type), (b"back", "t"), "its content")
    else:
        raise AssertionError("confirmed, but not returned before")
    publish(ch, "", missing, b"gone")
    queue = c.queue(ch)
    publish(ch, "", queue, b"here", mandatory=True)


@check
def consume(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    ch.queue_bind(queue, "amq.topic", queue)
    inbox = c.inbox(ch, queue, consumer_tag="my-tag")
    for number in range(3):
        publish(ch, "amq.topic", queue, b"%d" % number)
    for number, (method, _, body) in enumerate(inbox.take(3)):
        found = (method.consumer_tag, method.delivery_tag, method.redelivered)
        equal(found, ("my-tag", number + 1, False), "delivery")
        equal((method.exchange, method.routing_key), ("amq.topic", queue), "where it came from")
        equal(body, b"%d" % number, "body")


@check
def consume_missing_queue(c: Context):
    missing = c.name()
    c.refused(
        404,
        f"NOT_FOUND - no queue '{missing}' in vhost '/'",
        lambda: c.channel().basic_consume(missing, print),
    )


@check
def ack(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    inbox = c.inbox(ch, queue)
    taken = inbox.take(3)
    ch.basic_ack(taken[1][0].delivery_tag)
    equal(left(c, ch, queue), [(b"1", True), (b"3", True)], "left after an ack of 2")


@check
def ack_multiple(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    taken = c.inbox(ch, queue).take(3)
    ch.basic_ack(taken[1][0].delivery_tag, multiple=True)
    equal(left(c, ch, queue), [(b"3", True)], "left after an ack up to 2")


@check
def ack_all(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    c.inbox(ch, queue).take(3)
    ch.basic_ack(0, multiple=True)
    equal(left(c, ch, queue), [], "left after an ack of all (tag 0)")


@check
def nack_requeue(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    tags = [ch.basic_get(queue)[0].delivery_tag for _ in range(2)]
    ch.basic_nack(tags[0], requeue=True)
    found = ch.basic_get(queue)
    equal((found[2], found[0].redelivered), (b"1", True), "back in its place")
    ch.basic_nack(tags[1], requeue=False)
    equal(left(c, ch, queue), [(b"1", True), (b"3", False)], "left")


@check
def nack_multiple(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    tags = [ch.basic_get(queue)[0].delivery_tag for _ in range(3)]
    ch.basic_nack(tags[1], multiple=True, requeue=True)
    equal([body for body, _ in take_all(ch, queue)], [b"1", b"2"], "returned, in order")
    ch.basic_nack(0, multiple=True, requeue=False)
    equal(left(c, ch, queue), [], "left after a nack of all without requeue")


@check
def reject(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    tags = [ch.basic_get(queue)[0].delivery_tag for _ in range(2)]
    ch.basic_reject(tags[0], requeue=False)
    ch.basic_reject(tags[1], requeue=True)
    equal(left(c, ch, queue), [(b"2", True), (b"3", False)], "left")


@check
def redelivered(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    taken = c.inbox(ch, queue).take(3)
    equal([method.redelivered for method, _, _ in taken], [False] * 3, "the first time")
    other = c.connect()
    first = c.inbox(other.channel(), queue)
    ch.close()
    second = first.take(3)
    found = [(body, method.redelivered) for method, _, body in second]
    equal(found, [(b"1", True), (b"2", True), (b"3", True)], "after the channel closed")
    other.close()
    equal([again for _, again in take_all(c.channel(), queue)], [True] * 3, "after the connection")


@check
def recover(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    inbox = c.inbox(ch, queue)
    inbox.take(3)
    ch.basic_recover(requeue=True)
    found = [(body, method.redelivered) for method, _, body in inbox.take(3)]
    equal(found, [(b"1", True), (b"2", True), (b"3", True)], "delivered again")


@check
def unknown_delivery_tag(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    tag = ch.basic_get(queue)[0].delivery_tag
    ch.basic_ack(tag)

    def refused(tag, action):
        text = f"PRECONDITION_FAILED - unknown delivery tag {tag}"
        c.refused(406, text, lambda: (action(), ch.queue_declare(queue, passive=True)))

    refused(tag, lambda: ch.basic_ack(tag))
    ch = c.channel()
    refused(82, lambda: ch.basic_nack(82))
    ch = c.channel()
    refused(83, lambda: ch.basic_reject(83))


@check
def get(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    for number, body in enumerate((b"1", b"2", b"3"), 1):
        method, _, found = ch.basic_get(queue)
        expected = (number, "", queue, 3 - number, False)
        fields = (method.delivery_tag, method.exchange, method.routing_key)
        equal(fields + (method.message_count, method.redelivered), expected, "get-ok")
        equal(found, body, "body")


@check
def get_empty(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    equal(ch.basic_get(queue), (None, None, None), "get of an empty queue")
    missing = c.name()
    text = f"NOT_FOUND - no queue '{missing}' in vhost '/'"
    c.refused(404, text, lambda: ch.basic_get(missing))


@check
def cancel(c: Context):
    ch = c.connection.channel()
    queue = c.queue(ch)
    inbox = c.inbox(ch, queue, auto_ack=True)
    publish(ch, "", queue, b"1")
    inbox.take(1)
    ch.basic_cancel(inbox.tag)
    publisher = c.channel()
    publish(publisher, "", queue, b"2")
    equal(inbox.settled(), [], "deliveries after cancel-ok")
    equal(depth(ch, queue), (1, 0), "the queue")


@check
def consumer_cancel_notify(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    inbox = c.inbox(ch, queue)
    cancelled = []
    ch.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    c.channel().queue_delete(queue)
    c.wait("basic.cancel from the broker", lambda: cancelled)
    equal(cancelled, [inbox.tag], "cancelled")
    assert ch.is_open


@check
def consumer_exclusive(c: Context):
    queue = c.queue(c.channel())
    owner = c.channel()
    inbox = c.inbox(owner, queue, exclusive=True)
    text = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    c.refused(403, text, lambda: c.channel().basic_consume(queue, print))
    owner.basic_cancel(inbox.tag)
    ch = c.channel()
    c.inbox(ch, queue)
    c.refused(403, text, lambda: c.channel().basic_consume(queue, print, exclusive=True))


@check
def consumer_priority(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    consumers = c.channel()
    consumers.basic_qos(prefetch_count=2)
    low = c.inbox(consumers, queue)
    high = c.inbox(consumers, queue, arguments={"x-priority": 10})
    for body in (b"1", b"2", b"3", b"4"):
        publish(ch, "", queue, body)
    equal(high.bodies(2), [b"1", b"2"], "the higher priority has credit")
    equal(low.bodies(2), [b"3", b"4"], "the lower one gets the rest")


@check
def qos_per_consumer(c: Context):
    ch = c.channel()
    queue = three(c, ch)
    for body in (b"4", b"5"):
        publish(ch, "", queue, body)
    consumers = c.channel()
    consumers.basic_qos(prefetch_count=2)
    first = c.inbox(consumers, queue)
    taken = first.take(2)
    equal(first.settled(), [], "more than the prefetch count")
    consumers.basic_qos(prefetch_count=1)
    second = c.inbox(consumers, queue)
    equal(second.bodies(1), [b"3"], "the second consumer's own limit")
    equal(second.settled(), [], "more than the second prefetch count")
    consumers.basic_ack(taken[0][0].delivery_tag)
    equal(first.bodies(1), [b"4"], "credit that came back")
    equal(depth(ch, queue)[0], 1, "ready")


@check
def qos_global(c: Context):
    platform = c.server_properties().get("platform", "")
    if "Warren" not in platform:
        if version_of(c.server_properties()) >= (4, 3):
            raise Skipped("since 4.3 RabbitMQ takes a global limit as one for each consumer")
    ch = c.channel()
    queue = three(c, ch)
    for body in (b"4", b"5"):
        publish(ch, "", queue, body)
    consumers = c.channel()
    consumers.basic_qos(prefetch_count=3, global_qos=True)
    first = c.inbox(consumers, queue)
    second = c.inbox(consumers, queue)
    both = lambda: first.messages + second.messages
    c.wait("3 deliveries in all", lambda: len(both()) == 3)
    first.settled(), second.settled()
    equal(len(both()), 3, "with the channel at its limit")
    tag = both()[0][0].delivery_tag
    consumers.basic_ack(tag)
    c.wait("a fourth delivery", lambda: len(both()) == 4)
    first.settled(), second.settled()
    equal(len(both()), 4, "after one ack")


def round_trip(c: Context, body):
    ch = c.channel()
    queue = c.queue(ch)
    publish(ch, "", queue, body, PERSISTENT)
    method, _, found = ch.basic_get(queue, auto_ack=True)
    assert found == body, f"got {len(found)} bytes back that differ from the {len(body)} sent"
    inbox = c.inbox(ch, queue, auto_ack=True)
    publish(ch, "", queue, body)
    assert inbox.bodies(1)[0] == body, "delivered body differs"


@check
def body_large(c: Context):
    round_trip(c, bytes(range(256)) * (10 * 1024 * 1024 // 256))


@check
def body_empty(c: Context):
    round_trip(c, b"")


@check
def body_frame_boundaries(c: Context):
    frame = c.connect()._impl.params.frame_max - 8
    for size in (frame - 1, frame, frame + 1, 2 * frame, 2 * frame + 1):
        round_trip(c, b"x" * size)


@check
def properties_all(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    sent = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"h": "v"},
        delivery_mode=2,
        priority=7,
        correlation_id="correlation",
        reply_to="reply",
        expiration="60000",
        message_id="id",
        timestamp=1_700_000_000,
        type="type",
        user_id=c.connection._impl.params.credentials.username,
        app_id="app",
        cluster_id="cluster",
    )
    publish(ch, "", queue, b"x", sent)
    equal(ch.basic_get(queue)[1].__dict__, sent.__dict__, "properties")
    publish(ch, "", queue, b"x")
    equal(ch.basic_get(queue)[1].__dict__, pika.BasicProperties().__dict__, "no properties")


@check
def expiration_expires(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    for body, expiration in ((b"short", "50"), (b"long", "60000")):
        publish(ch, "", queue, body, pika.BasicProperties(expiration=expiration))
    c.wait("the first message to expire", lambda: depth(ch, queue) == (1, 0))
    equal(drain(ch, queue), [b"long"], "what lives longer")


@check
def header_types(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    nested = {"list": [1, "two", [3, {"four": 4}], None, True], "table": {"deep": {"er": "x"}}}
    headers = {
        "string": "longstr \u00e4\u20ac",
        "empty": "",
        "bytes": b"\x00\xff\xfe",
        "true": True,
        "false": False,
        "int32": -(2**31),
        "int64": 2**63 - 1,
        "decimal": decimal.Decimal("123.45"),
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "void": None,
        "nested": nested,
    }
    publish(ch, "", queue, b"x", pika.BasicProperties(headers=headers))
    equal(ch.basic_get(queue)[1].headers, headers, "headers")


@check
def user_id_mismatch(c: Context):
    queue = c.queue(c.channel())
    user = c.connection._impl.params.credentials.username
    c.refused(
        406,
        "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was "
        f"'{user}'",
        lambda: publish(c.channel(), "", queue, b"", pika.BasicProperties(user_id="somebody")),
    )


@check
def direct_reply_to(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    replies = []
    ch.basic_consume("amq.rabbitmq.reply-to", lambda *m: replies.append(m), auto_ack=True)
    ask = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="7")
    publish(ch, "", queue, b"question", ask)
    server = c.connect().channel()
    _, properties, _ = server.basic_get(queue, auto_ack=True)
    assert properties.reply_to.startswith("amq.rabbitmq.reply-to."), properties.reply_to
    publish(server, "", properties.reply_to, b"answer", pika.BasicProperties(correlation_id="7"))
    c.wait("the reply", lambda: replies)
    _, method, properties, body = replies[0]
    equal((body, properties.correlation_id), (b"answer", "7"), "reply")
    equal(method.exchange, "", "exchange of the reply")


@check
def direct_reply_to_refusals(c: Context):
    c.refused(
        406,
        "PRECONDITION_FAILED - reply consumer cannot acknowledge",
        lambda: c.channel().basic_consume("amq.rabbitmq.reply-to", print),
    )
    queue = c.queue(c.channel())
    c.refused(
        406,
        "PRECONDITION_FAILED - fast reply consumer does not exist",
        lambda: publish(
            c.channel(), "", queue, b"", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
        ),
    )


@check
def tx_publish(c: Context):
    ch = c.channel(confirm=False)
    queue = c.queue(ch)
    ch.tx_select()
    publish(ch, "", queue, b"rolled back")
    ch.tx_rollback()
    publish(ch, "", queue, b"1")
    publish(ch, "", queue, b"2")
    other = c.channel()
    equal(depth(other, queue)[0], 0, "before the commit")
    ch.tx_commit()
    equal(drain(other, queue), [b"1", b"2"], "after the commit")


@check
def tx_ack(c: Context):
    ch = c.channel(confirm=False)
    queue = three(c, c.channel())
    ch.tx_select()
    tags = [ch.basic_get(queue)[0].delivery_tag for _ in range(3)]
    ch.basic_ack(tags[0])
    ch.tx_rollback()
    ch.basic_ack(tags[1])
    ch.tx_commit()
    ch.basic_ack(tags[2])
    found = [body for body, _ in left(c, ch, queue)]
    equal(found, [b"1", b"3"], "only what was committed is acknowledged")


@check
def tx_refusals(c: Context):
    ch = c.channel(confirm=False)
    c.refused(406, "PRECONDITION_FAILED - channel is not transactional", ch.tx_commit)
    ch = c.channel(confirm=False)
    c.refused(406, "PRECONDITION_FAILED - channel is not transactional", ch.tx_rollback)
    ch = c.channel(confirm=False)
    ch.tx_select()
    text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode"
    c.refused(406, text, ch.confirm_delivery)
    ch = c.channel(confirm=True)
    text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode"
    c.refused(406, text, ch.tx_select)

"""Declaring, deleting, purging and binding queues, with the exact texts of refusals."""

import uuid

from harness import Context, check, depth, drain, equal, publish


@check
def queue_declare(c: Context):
    ch = c.channel()
    name = c.name()
    c.queues.append(name)
    for round_number in range(2):
        ok = ch.queue_declare(name, durable=True).method
        found = (ok.queue, ok.message_count, ok.consumer_count)
        equal(found, (name, round_number, 0), "declare-ok")
        publish(ch, "", name)


@check
def queue_declare_passive(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    equal(depth(ch, queue), (0, 0), "an empty queue")
    publish(ch, "", queue)
    publish(ch, "", queue)
    equal(depth(ch, queue), (2, 0), "with two messages")
    consumer = c.channel()
    consumer.basic_qos(prefetch_count=1)
    c.inbox(consumer, queue).take(1)
    equal(depth(ch, queue), (1, 1), "ready messages and consumers")


@check
def queue_passive_missing(c: Context):
    name = c.name()
    c.refused(
        404,
        f"NOT_FOUND - no queue '{name}' in vhost '/'",
        lambda: c.channel().queue_declare(name, passive=True),
    )


@check
def reply_text_truncated(c: Context):
    missing = "n" * 255
    text = f"NOT_FOUND - no queue '{missing}"[:252] + "..."
    c.refused(404, text, lambda: c.channel().queue_declare(missing, passive=True))


@check
def queue_inequivalent(c: Context):
    queue = c.queue(c.channel(), durable=True)
    for option, changes in {
        "durable": {"durable": False},
        "auto_delete": {"durable": True, "auto_delete": True},
    }.items():
        received = "false" if option == "durable" else "true"
        current = "true" if option == "durable" else "false"
        c.refused(
            406,
            f"PRECONDITION_FAILED - inequivalent arg '{option}' for queue '{queue}' in vhost '/': "
            f"received '{received}' but current is '{current}'",
            lambda changes=changes: c.channel().queue_declare(queue, **changes),
        )


@check
def queue_type_classic(c: Context):
    ch = c.channel()
    queue = c.queue(ch, arguments={"x-queue-type": "classic"})
    ch.queue_declare(queue, durable=True, arguments={"x-queue-type": "classic"})
    ch.queue_declare(queue, durable=True, arguments={"x-no-such-argument": [1, {"a": "b"}]})


@check
def queue_server_named(c: Context):
    ch = c.channel()
    first = ch.queue_declare("", exclusive=True).method.queue
    second = ch.queue_declare("", exclusive=True).method.queue
    assert first.startswith("amq.gen-") and len(first) > 16 and first != second, (first, second)
    ch.queue_declare(first, passive=True)


@check
def queue_reserved_name(c: Context):
    c.refused(
        403,
        "ACCESS_REFUSED - queue name 'amq.conformance' contains reserved prefix 'amq.*'",
        lambda: c.channel().queue_declare("amq.conformance"),
    )


@check
def queue_exclusive_locked(c: Context):
    ch = c.channel()
    queue = uuid.uuid4().hex  # short: a longer text would be cut off
    ch.queue_declare(queue, exclusive=True)
    text = (
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. "
        "It could be originally declared on another connection or the exclusive property value "
        "does not match that of the original declaration."
    )
    other = c.connect()
    c.refused(405, text, lambda: other.channel().queue_declare(queue, exclusive=True))
    c.refused(405, text, lambda: other.channel().basic_get(queue))
    c.refused(405, text, lambda: other.channel().basic_consume(queue, print))
    c.refused(405, text, lambda: other.channel().queue_delete(queue))
    equal(depth(ch, queue), (0, 0), "for its own connection")


@check
def queue_exclusive_gone(c: Context):
    owner = c.connect()
    queue = c.name()
    owner.channel().queue_declare(queue, exclusive=True)
    owner.close()
    c.refused(
        404,
        f"NOT_FOUND - no queue '{queue}' in vhost '/'",
        lambda: c.channel().queue_declare(queue, passive=True),
    )


@check
def queue_auto_delete(c: Context):
    ch = c.channel()
    queue = c.queue(ch, auto_delete=True)
    publish(ch, "", queue)
    equal(depth(ch, queue), (1, 0), "before it ever had a consumer")
    first = c.inbox(ch, queue, auto_ack=True)
    second = c.inbox(ch, queue, auto_ack=True)
    ch.basic_cancel(first.tag)
    equal(depth(ch, queue), (0, 1), "with one consumer left")
    ch.basic_cancel(second.tag)
    c.refused(
        404,
        f"NOT_FOUND - no queue '{queue}' in vhost '/'",
        lambda: ch.queue_declare(queue, passive=True),
    )


@check
def queue_purge_delete_counts(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    for _ in range(3):
        publish(ch, "", queue)
    ch.basic_get(queue)
    equal(ch.queue_purge(queue).method.message_count, 2, "purged (one is out)")
    publish(ch, "", queue)
    equal(ch.queue_delete(queue).method.message_count, 1, "messages in delete-ok")
    equal(ch.queue_delete(queue).method.message_count, 0, "delete of a missing queue")


@check
def queue_delete_if_unused(c: Context):
    queue = c.queue(c.channel())
    ch = c.channel()
    inbox = c.inbox(ch, queue)
    c.refused(
        406,
        f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use",
        lambda: c.channel().queue_delete(queue, if_unused=True),
    )
    ch.basic_cancel(inbox.tag)
    ch.queue_delete(queue, if_unused=True)


@check
def queue_delete_if_empty(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    publish(ch, "", queue)
    c.refused(
        406,
        f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty",
        lambda: c.channel().queue_delete(queue, if_empty=True),
    )
    drain(ch, queue)
    ch.queue_delete(queue, if_empty=True)


@check
def queue_bind_unbind(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    for _ in range(2):
        ch.queue_bind(queue, "amq.direct", queue)
    publish(ch, "amq.direct", queue, b"once")
    equal(drain(ch, queue), [b"once"], "a duplicate binding")
    ch.queue_bind(queue, "amq.direct", queue, arguments={"k": 1})
    publish(ch, "amq.direct", queue, b"once")
    equal(drain(ch, queue), [b"once"], "two bindings of one queue")
    ch.queue_unbind(queue, "amq.direct", queue)
    publish(ch, "amq.direct", queue, b"by the other")
    equal(drain(ch, queue), [b"by the other"], "the binding with arguments stays")
    ch.queue_unbind(queue, "amq.direct", queue, arguments={"k": 1})
    publish(ch, "amq.direct", queue, b"none")
    equal(drain(ch, queue), [], "after unbind")
    ch.queue_unbind(queue, "amq.direct", queue)


@check
def queue_bind_missing(c: Context):
    queue, missing = c.queue(c.channel()), c.name()
    c.refused(
        404,
        f"NOT_FOUND - no exchange '{missing}' in vhost '/'",
        lambda: c.channel().queue_bind(queue, missing, ""),
    )
    c.refused(
        404,
        f"NOT_FOUND - no queue '{missing}' in vhost '/'",
        lambda: c.channel().queue_bind(missing, "amq.direct", ""),
    )

"""Exchanges: kinds, what they route, and what may not be done to them."""

import pika

from harness import Context, check, depth, drain, equal, publish, routed


def queues_bound(c: Context, ch, exchange, bindings):
    """A queue for each binding: label -> (routing key, arguments)."""
    queues = {}
    for label, (key, arguments) in bindings.items():
        queues[label] = c.queue(ch)
        ch.queue_bind(queues[label], exchange, key, arguments=arguments)
    return queues


@check
def exchange_default(c: Context):
    ch = c.channel()
    queue = c.queue(ch)
    publish(ch, "", queue, b"by name")
    equal(drain(ch, queue), [b"by name"], "through the default exchange")


@check
def exchange_direct(c: Context):
    ch = c.channel()
    exchange = c.exchange(ch, "direct")
    bindings = {"a": ("a", None), "a too": ("a", None), "b": ("b", None)}
    queues = queues_bound(c, ch, exchange, bindings)
    equal(routed(ch, exchange, "a", queues), ["a", "a too"], "key a")
    equal(routed(ch, exchange, "b", queues), ["b"], "key b")
    equal(routed(ch, exchange, "c", queues), [], "key c")


@check
def exchange_fanout(c: Context):
    ch = c.channel()
    exchange = c.exchange(ch, "fanout", durable=True)
    queues = queues_bound(c, ch, exchange, {"a": ("x", None), "b": ("", None), "c": ("y", None)})
    equal(routed(ch, exchange, "whatever", queues), ["a", "b", "c"], "fanout")


@check
def exchange_topic(c: Context):
    ch = c.channel()
    exchange = c.exchange(ch, "topic")
    patterns = ["#", "*", "a.*", "a.#", "*.b", "#.c", "a.*.c", "a.#.c", "a.b.c", "*.*", ""]
    queues = queues_bound(c, ch, exchange, {key: (key, None) for key in patterns})
    for key, expected in {
        "": ["", "#"],
        "a": ["#", "*", "a.#"],
        "a.b": ["#", "*.*", "*.b", "a.#", "a.*"],
        "a.b.c": ["#", "#.c", "a.#", "a.#.c", "a.*.c", "a.b.c"],
        "a.c": ["#", "#.c", "*.*", "a.#", "a.#.c", "a.*"],
        "a.b.d.c": ["#", "#.c", "a.#", "a.#.c"],
        "a..c": ["#", "#.c", "a.#", "a.#.c", "a.*.c"],
        "c": ["#", "#.c", "*"],
        "x.y": ["#", "*.*"],
    }.items():
        equal(routed(ch, exchange, key, queues), sorted(expected), f"key {key!r}")


@check
def exchange_headers(c: Context):
    ch = c.channel()
    exchange = c.exchange(ch, "headers")
    bindings = {
        "default": {"a": 1, "b": "two"},
        "all": {"x-match": "all", "a": 1, "b": "two"},
        "any": {"x-match": "any", "a": 1, "b": "two"},
        "present": {"x-match": "all", "a": None},
        "all skips x-": {"x-match": "all", "a": 1, "x-k": "no"},
    }
    queues = queues_bound(c, ch, exchange, {key: ("", args) for key, args in bindings.items()})

    def check_routes(headers, expected):
        properties = pika.BasicProperties(headers=headers)
        equal(routed(ch, exchange, "", queues, properties), sorted(expected), f"{headers}")

    check_routes({"a": 1, "b": "two"}, ["default", "all", "any", "present", "all skips x-"])
    check_routes({"a": 1}, ["any", "present", "all skips x-"])
    check_routes({"a": "1"}, ["present"])
    check_routes({"b": "two", "z": True}, ["any"])
    check_routes({"a": 1, "b": "three", "x-k": "no"}, ["any", "present", "all skips x-"])
    check_routes({}, [])
    check_routes(None, [])


@check
def exchange_headers_with_x(c: Context):
    c.since(3, 10, "x-match forms all-with-x and any-with-x")
    ch = c.channel()
    exchange = c.exchange(ch, "headers")
    bindings = {
        "all": {"x-match": "all-with-x", "a": 1, "x-k": "yes"},
        "any": {"x-match": "any-with-x", "a": 1, "x-k": "yes"},
        "plain any": {"x-match": "any", "a": 1, "x-k": "yes"},
    }
    queues = queues_bound(c, ch, exchange, {key: ("", args) for key, args in bindings.items()})
    for headers, expected in [
        ({"a": 1, "x-k": "yes"}, ["all", "any", "plain any"]),
        ({"x-k": "yes"}, ["any"]),
        ({"a": 1}, ["any", "plain any"]),
        ({"a": 2, "x-k": "no"}, []),
    ]:
        properties = pika.BasicProperties(headers=headers)
        equal(routed(ch, exchange, "", queues, properties), expected, f"{headers}")


@check
def exchange_headers_bad_match(c: Context):
    queue = c.queue(c.channel())
    text = (
        'PRECONDITION_FAILED - Invalid x-match field value <<"some">>; '
        "expected all, any, all-with-x, or any-with-x"
    )
    arguments = {"x-match": "some"}
    c.refused(406, text, lambda: c.channel().queue_bind(queue, "amq.headers", "", arguments))


@check
def exchange_to_exchange(c: Context):
    ch = c.channel()
    source, target = c.exchange(ch, "topic"), c.exchange(ch, "fanout")
    queues = queues_bound(c, ch, target, {"q": ("", None)})
    ch.queue_bind(queues["q"], source, "a.#")
    ch.exchange_bind(target, source, "a.*")
    equal(routed(ch, source, "a.b", queues), ["q"], "two ways to one queue")
    ch.queue_unbind(queues["q"], source, "a.#")
    equal(routed(ch, source, "a.b", queues), ["q"], "through the second exchange")
    ch.exchange_bind(source, target, "a.b")
    equal(routed(ch, source, "a.b", queues), ["q"], "round in a circle")
    ch.exchange_unbind(target, source, "a.*")
    equal(routed(ch, source, "a.b", queues), [], "after unbind")


@check
def alternate_exchange(c: Context):
    ch = c.channel()
    spare = c.exchange(ch, "fanout")
    main = c.exchange(ch, "direct", arguments={"alternate-exchange": spare})
    queues = queues_bound(c, ch, spare, {"spare": ("", None)})
    queues |= queues_bound(c, ch, main, {"main": ("key", None)})
    equal(routed(ch, main, "key", queues), ["main"], "routed")
    equal(routed(ch, main, "other", queues), ["spare"], "not routed")
    publish(ch, main, "other", b"", mandatory=True)
    equal(len(drain(ch, queues["spare"])), 1, "mandatory is satisfied by the alternate")


@check
def cc_bcc(c: Context):
    ch = c.channel()
    queues = {label: c.queue(ch) for label in ("to", "cc", "bcc")}
    headers = {"CC": [queues["cc"], queues["to"]], "BCC": [queues["bcc"]], "k": "v"}
    properties = pika.BasicProperties(headers=headers)
    equal(routed(ch, "", queues["to"], queues, properties), ["bcc", "cc", "to"], "once each")
    publish(ch, "", queues["to"], b"", properties)
    for label, queue in queues.items():
        found = ch.basic_get(queue, auto_ack=True)[1].headers
        equal(found, {"CC": headers["CC"], "k": "v"}, f"headers at {label}")


@check
def cc_not_an_array(c: Context):
    try:
        publish(c.channel(), "", "x", b"", pika.BasicProperties(headers={"CC": "queue"}))
    except pika.exceptions.ChannelClosedByBroker as error:
        equal(error.reply_code, 406, "code")
        start = "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"
        assert error.reply_text.startswith(start), error.reply_text
        return
    raise AssertionError("a CC header that is a string was accepted")


@check
def exchange_internal(c: Context):
    ch = c.channel()
    internal = c.exchange(ch, "fanout", internal=True)
    source = c.exchange(ch, "fanout")
    ch.exchange_bind(internal, source)
    queues = queues_bound(c, ch, internal, {"q": ("", None)})
    equal(routed(ch, source, "", queues), ["q"], "through another exchange")
    c.refused(
        403,
        f"ACCESS_REFUSED - cannot publish to internal exchange '{internal}' in vhost '/'",
        lambda: publish(c.channel(), internal, ""),
    )


@check
def exchange_auto_delete(c: Context):
    ch = c.channel()
    exchange = c.exchange(ch, "direct", auto_delete=True)
    queue = c.queue(ch)
    ch.exchange_declare(exchange, passive=True)
    ch.queue_bind(queue, exchange, "a")
    ch.queue_bind(queue, exchange, "b")
    ch.queue_unbind(queue, exchange, "a")
    ch.exchange_declare(exchange, passive=True)
    ch.queue_unbind(queue, exchange, "b")
    text = f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"
    c.refused(404, text, lambda: ch.exchange_declare(exchange, passive=True))


@check
def exchange_inequivalent(c: Context):
    exchange = c.exchange(c.channel(), "direct", durable=True)
    c.channel().exchange_declare(exchange, "direct", durable=True)

    def refused(argument, received, current, **options):
        text = (
            f"PRECONDITION_FAILED - inequivalent arg '{argument}' for exchange '{exchange}' "
            f"in vhost '/': received {received} but current is {current}"
        )
        c.refused(406, text, lambda: c.channel().exchange_declare(exchange, **options))

    refused("type", "'fanout'", "'direct'", exchange_type="fanout", durable=True)
    refused("durable", "'false'", "'true'", exchange_type="direct")
    options = {"exchange_type": "direct", "durable": True}
    refused("auto_delete", "'true'", "'false'", auto_delete=True, **options)
    refused("internal", "'true'", "'false'", internal=True, **options)
    refused(
        "alternate-exchange",
        "the value 'spare' of type 'longstr'",
        "none",
        arguments={"alternate-exchange": "spare"},
        **options,
    )


@check
def exchange_passive(c: Context):
    c.channel().exchange_declare("amq.topic", passive=True)
    missing = c.name("x")
    text = f"NOT_FOUND - no exchange '{missing}' in vhost '/'"
    c.refused(404, text, lambda: c.channel().exchange_declare(missing, passive=True))


@check
def exchange_predeclared(c: Context):
    ch = c.channel()
    kinds = ["direct", "fanout", "topic", "headers"]
    for name, kind in [(f"amq.{kind}", kind) for kind in kinds] + [("amq.match", "headers")]:
        ch.exchange_declare(name, kind, durable=True)


@check
def exchange_reserved_name(c: Context):
    text = (
        "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'"
    )
    c.refused(403, text, lambda: c.channel().exchange_declare("amq.conformance"))


@check
def exchange_default_forbidden(c: Context):
    queue = c.queue(c.channel())
    text = "ACCESS_REFUSED - operation not permitted on the default exchange"
    c.refused(403, text, lambda: c.channel().queue_bind(queue, "", "k"))
    c.refused(403, text, lambda: c.channel().queue_unbind(queue, "", queue))
    c.refused(403, text, lambda: c.channel().exchange_delete(""))
    c.refused(403, text, lambda: c.channel().exchange_declare("", "direct", durable=True))


@check
def exchange_delete(c: Context):
    ch = c.channel()
    exchange = c.exchange(ch, "direct")
    queue = c.queue(ch)
    ch.queue_bind(queue, exchange, "k")
    text = f"PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use"
    c.refused(406, text, lambda: c.channel().exchange_delete(exchange, if_unused=True))
    ch.queue_unbind(queue, exchange, "k")
    ch.exchange_delete(exchange, if_unused=True)
    ch.exchange_delete(exchange)
    equal(depth(ch, queue), (0, 0), "the queue stays")
    text = "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed"
    c.refused(403, text, lambda: c.channel().exchange_delete("amq.direct"))

// Exchanges: kinds, what they route, and what may not be done to them.

package main

import (
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

var exchangeChecks = map[string]func(*check){
	"exchange_default":           exchangeDefault,
	"exchange_direct":            exchangeDirect,
	"exchange_fanout":            exchangeFanout,
	"exchange_topic":             exchangeTopic,
	"exchange_headers":           exchangeHeaders,
	"exchange_headers_with_x":    exchangeHeadersWithX,
	"exchange_headers_bad_match": exchangeHeadersBadMatch,
	"exchange_to_exchange":       exchangeToExchange,
	"alternate_exchange":         alternateExchange,
	"cc_bcc":                     ccBcc,
	"cc_not_an_array":            ccNotAnArray,
	"exchange_internal":          exchangeInternal,
	"exchange_auto_delete":       exchangeAutoDelete,
	"exchange_inequivalent":      exchangeInequivalent,
	"exchange_passive":           exchangePassive,
	"exchange_predeclared":       exchangePredeclared,
	"exchange_reserved_name":     exchangeReservedName,
	"exchange_default_forbidden": exchangeDefaultForbidden,
	"exchange_delete":            exchangeDelete,
}

func isWarren(c *check) bool {
	platform, _ := c.main().Properties["platform"].(string)
	return strings.Contains(platform, "Warren")
}

func bound(c *check, ch *channel, exchange, key string, arguments amqp.Table) string {
	queue := c.queue(ch)
	must(ch.QueueBind(queue, key, exchange, false, arguments), "queue.bind")
	return queue
}

func exchangeDefault(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	publish(ch, "", queue, text("by name"))
	equal(drain(ch, queue), []string{"by name"}, "through the default exchange")
}

func exchangeDirect(c *check) {
	ch := c.channel()
	exchange := c.exchange(ch, "direct", exchangeOptions{})
	queues := map[string]string{
		"a":     bound(c, ch, exchange, "a", nil),
		"a too": bound(c, ch, exchange, "a", nil),
		"b":     bound(c, ch, exchange, "b", nil),
	}
	equal(routed(ch, exchange, "a", queues, nil), []string{"a", "a too"}, "key a")
	equal(routed(ch, exchange, "b", queues, nil), []string{"b"}, "key b")
	equal(routed(ch, exchange, "c", queues, nil), []string{}, "key c")
}

func exchangeFanout(c *check) {
	ch := c.channel()
	exchange := c.exchange(ch, "fanout", exchangeOptions{durable: true})
	queues := map[string]string{}
	for _, key := range []string{"x", "", "y"} {
		queues[key] = bound(c, ch, exchange, key, nil)
	}
	equal(routed(ch, exchange, "whatever", queues, nil), []string{"", "x", "y"}, "fanout")
}

func exchangeTopic(c *check) {
	ch := c.channel()
	exchange := c.exchange(ch, "topic", exchangeOptions{})
	queues := map[string]string{}
	for _, pattern := range []string{"#", "*", "a.*", "a.#", "*.b", "#.c", "a.*.c", "a.#.c", "a.b.c", "*.*", ""} {
		queues[pattern] = bound(c, ch, exchange, pattern, nil)
	}
	for key, expected := range map[string][]string{
		"":        {"", "#"},
		"a":       {"#", "*", "a.#"},
		"a.b":     {"#", "*.*", "*.b", "a.#", "a.*"},
		"a.b.c":   {"#", "#.c", "a.#", "a.#.c", "a.*.c", "a.b.c"},
		"a.c":     {"#", "#.c", "*.*", "a.#", "a.#.c", "a.*"},
		"a.b.d.c": {"#", "#.c", "a.#", "a.#.c"},
		"a..c":    {"#", "#.c", "a.#", "a.#.c", "a.*.c"},
		"c":       {"#", "#.c", "*"},
		"x.y":     {"#", "*.*"},
	} {
		equal(routed(ch, exchange, key, queues, nil), sorted(expected...), fmt.Sprintf("key %q", key))
	}
}

type headersCase struct {
	headers  amqp.Table
	expected []string
}

func headersRoutes(c *check, bindings map[string]amqp.Table, cases []headersCase) {
	ch := c.channel()
	exchange := c.exchange(ch, "headers", exchangeOptions{})
	queues := map[string]string{}
	for label, arguments := range bindings {
		queues[label] = bound(c, ch, exchange, "", arguments)
	}
	for _, one := range cases {
		found := routed(ch, exchange, "", queues, one.headers)
		equal(found, sorted(one.expected...), fmt.Sprint(one.headers))
	}
}

func exchangeHeaders(c *check) {
	one := int32(1)
	headersRoutes(c, map[string]amqp.Table{
		"default":      {"a": one, "b": "two"},
		"all":          {"x-match": "all", "a": one, "b": "two"},
		"any":          {"x-match": "any", "a": one, "b": "two"},
		"present":      {"x-match": "all", "a": nil},
		"all skips x-": {"x-match": "all", "a": one, "x-k": "no"},
	}, []headersCase{
		{amqp.Table{"a": one, "b": "two"}, []string{"default", "all", "any", "present", "all skips x-"}},
		{amqp.Table{"a": one}, []string{"any", "present", "all skips x-"}},
		{amqp.Table{"a": "1"}, []string{"present"}},
		{amqp.Table{"b": "two", "z": true}, []string{"any"}},
		{amqp.Table{"a": one, "b": "three", "x-k": "no"}, []string{"any", "present", "all skips x-"}},
		{amqp.Table{}, nil},
		{nil, nil},
	})
}

func exchangeHeadersWithX(c *check) {
	c.since(3, 10, "x-match forms all-with-x and any-with-x")
	one := int32(1)
	headersRoutes(c, map[string]amqp.Table{
		"all":       {"x-match": "all-with-x", "a": one, "x-k": "yes"},
		"any":       {"x-match": "any-with-x", "a": one, "x-k": "yes"},
		"plain any": {"x-match": "any", "a": one, "x-k": "yes"},
	}, []headersCase{
		{amqp.Table{"a": one, "x-k": "yes"}, []string{"all", "any", "plain any"}},
		{amqp.Table{"x-k": "yes"}, []string{"any"}},
		{amqp.Table{"a": one}, []string{"any", "plain any"}},
		{amqp.Table{"a": int32(2), "x-k": "no"}, nil},
	})
}

func exchangeHeadersBadMatch(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	text := `PRECONDITION_FAILED - Invalid x-match field value <<"some">>; ` +
		"expected all, any, all-with-x, or any-with-x"
	refused(406, text, ch.closed, func() {
		_ = ch.QueueBind(queue, "", "amq.headers", false, amqp.Table{"x-match": "some"})
	})
}

func exchangeToExchange(c *check) {
	ch := c.channel()
	source := c.exchange(ch, "topic", exchangeOptions{})
	target := c.exchange(ch, "fanout", exchangeOptions{})
	queue := bound(c, ch, target, "", nil)
	queues := map[string]string{"q": queue}
	must(ch.QueueBind(queue, "a.#", source, false, nil), "queue.bind")
	must(ch.ExchangeBind(target, "a.*", source, false, nil), "exchange.bind")
	equal(routed(ch, source, "a.b", queues, nil), []string{"q"}, "two ways to one queue")
	must(ch.QueueUnbind(queue, "a.#", source, nil), "queue.unbind")
	equal(routed(ch, source, "a.b", queues, nil), []string{"q"}, "through the second exchange")
	must(ch.ExchangeBind(source, "a.b", target, false, nil), "exchange.bind")
	equal(routed(ch, source, "a.b", queues, nil), []string{"q"}, "round in a circle")
	must(ch.ExchangeUnbind(target, "a.*", source, false, nil), "exchange.unbind")
	equal(routed(ch, source, "a.b", queues, nil), []string{}, "after unbind")
}

func alternateExchange(c *check) {
	ch := c.channel()
	spare := c.exchange(ch, "fanout", exchangeOptions{})
	arguments := amqp.Table{"alternate-exchange": spare}
	main := c.exchange(ch, "direct", exchangeOptions{arguments: arguments})
	queues := map[string]string{
		"spare": bound(c, ch, spare, "", nil),
		"main":  bound(c, ch, main, "key", nil),
	}
	equal(routed(ch, main, "key", queues, nil), []string{"main"}, "routed")
	equal(routed(ch, main, "other", queues, nil), []string{"spare"}, "not routed")
	returns := ch.NotifyReturn(make(chan amqp.Return, 1))
	publishWith(ch, main, "other", true, text(""))
	equal(len(returns), 0, "mandatory is satisfied by the alternate")
}

func ccBcc(c *check) {
	ch := c.channel()
	queues := map[string]string{"to": c.queue(ch), "cc": c.queue(ch), "bcc": c.queue(ch)}
	copies := []any{queues["cc"], queues["to"]}
	headers := amqp.Table{"CC": copies, "BCC": []any{queues["bcc"]}, "k": "v"}
	found := routed(ch, "", queues["to"], queues, headers)
	equal(found, []string{"bcc", "cc", "to"}, "once each")
	publish(ch, "", queues["to"], amqp.Publishing{Headers: headers})
	for label, queue := range queues {
		equal(mustGet(ch, queue).Headers, amqp.Table{"CC": copies, "k": "v"}, "headers at "+label)
	}
}

func ccNotAnArray(c *check) {
	ch := c.channel()
	reason := closeReason(ch.closed, func() {
		send(ch, "", "x", amqp.Publishing{Headers: amqp.Table{"CC": "queue"}})
	})
	start := "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"
	ensure(reason.Code == 406 && strings.HasPrefix(reason.Reason, start), "close: %v", reason)
}

func exchangeInternal(c *check) {
	ch := c.channel()
	internal := c.exchange(ch, "fanout", exchangeOptions{internal: true})
	source := c.exchange(ch, "fanout", exchangeOptions{})
	must(ch.ExchangeBind(internal, "", source, false, nil), "exchange.bind")
	queues := map[string]string{"q": bound(c, ch, internal, "", nil)}
	equal(routed(ch, source, "", queues, nil), []string{"q"}, "through another exchange")
	reason := "ACCESS_REFUSED - cannot publish to internal exchange '" + internal + "' in vhost '/'"
	refused(403, reason, ch.closed, func() { send(ch, internal, "", text("")) })
}

func passiveExchange(ch *channel, exchange string) error {
	return ch.ExchangeDeclarePassive(exchange, "direct", false, false, false, false, nil)
}

func exchangeAutoDelete(c *check) {
	ch := c.channel()
	exchange := c.exchange(ch, "direct", exchangeOptions{autoDelete: true})
	must(passiveExchange(ch, exchange), "before any binding")
	queue := bound(c, ch, exchange, "a", nil)
	must(ch.QueueBind(queue, "b", exchange, false, nil), "queue.bind")
	must(ch.QueueUnbind(queue, "a", exchange, nil), "queue.unbind")
	must(passiveExchange(ch, exchange), "with one binding left")
	must(ch.QueueUnbind(queue, "b", exchange, nil), "queue.unbind")
	refused(404, noExchange(exchange), ch.closed, func() { _ = passiveExchange(ch, exchange) })
}

func exchangeInequivalent(c *check) {
	exchange := c.exchange(c.channel(), "direct", exchangeOptions{durable: true})
	must(c.channel().ExchangeDeclare(exchange, "direct", true, false, false, false, nil), "again")
	for _, one := range []struct {
		key, received, current, kind string
		options                      exchangeOptions
	}{
		{"type", "'fanout'", "'direct'", "fanout", exchangeOptions{durable: true}},
		{"durable", "'false'", "'true'", "direct", exchangeOptions{}},
		{"auto_delete", "'true'", "'false'", "direct", exchangeOptions{durable: true, autoDelete: true}},
		{"internal", "'true'", "'false'", "direct", exchangeOptions{durable: true, internal: true}},
		{
			"alternate-exchange", "the value 'spare' of type 'longstr'", "none", "direct",
			exchangeOptions{durable: true, arguments: amqp.Table{"alternate-exchange": "spare"}},
		},
	} {
		text := fmt.Sprintf("PRECONDITION_FAILED - inequivalent arg '%s' for exchange '%s' "+
			"in vhost '/': received %s but current is %s", one.key, exchange, one.received, one.current)
		ch, o := c.channel(), one.options
		refused(406, text, ch.closed, func() {
			_ = ch.ExchangeDeclare(exchange, one.kind, o.durable, o.autoDelete, o.internal, false, o.arguments)
		})
	}
}

func exchangePassive(c *check) {
	ch, missing := c.channel(), c.unique("x")
	must(passiveExchange(ch, "amq.topic"), "amq.topic")
	refused(404, noExchange(missing), ch.closed, func() { _ = passiveExchange(ch, missing) })
}

func exchangePredeclared(c *check) {
	ch := c.channel()
	for name, kind := range map[string]string{
		"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic",
		"amq.headers": "headers", "amq.match": "headers",
	} {
		must(ch.ExchangeDeclare(name, kind, true, false, false, false, nil), name)
	}
}

func exchangeReservedName(c *check) {
	ch := c.channel()
	text := "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'"
	refused(403, text, ch.closed, func() {
		_ = ch.ExchangeDeclare("amq.conformance", "direct", true, false, false, false, nil)
	})
}

func exchangeDefaultForbidden(c *check) {
	queue := c.queue(c.channel())
	for _, action := range []func(*channel){
		func(ch *channel) { _ = ch.QueueBind(queue, "k", "", false, nil) },
		func(ch *channel) { _ = ch.QueueUnbind(queue, queue, "", nil) },
		func(ch *channel) { _ = ch.ExchangeDelete("", false, false) },
		func(ch *channel) { _ = ch.ExchangeDeclare("", "direct", true, false, false, false, nil) },
	} {
		ch := c.channel()
		text := "ACCESS_REFUSED - operation not permitted on the default exchange"
		refused(403, text, ch.closed, func() { action(ch) })
	}
}

func exchangeDelete(c *check) {
	ch, other, third := c.channel(), c.channel(), c.channel()
	exchange := c.exchange(ch, "direct", exchangeOptions{})
	queue := bound(c, ch, exchange, "k", nil)
	inUse := fmt.Sprintf("PRECONDITION_FAILED - exchange '%s' in vhost '/' in use", exchange)
	refused(406, inUse, other.closed, func() { _ = other.ExchangeDelete(exchange, true, false) })
	must(ch.QueueUnbind(queue, "k", exchange, nil), "queue.unbind")
	must(ch.ExchangeDelete(exchange, true, false), "exchange.delete if-unused")
	must(ch.ExchangeDelete(exchange, false, false), "exchange.delete of a missing one")
	equal(depth(ch, queue), [2]int{0, 0}, "the queue stays")
	system := "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed"
	refused(403, system, third.closed, func() { _ = third.ExchangeDelete("amq.direct", false, false) })
}

// Declaring, deleting, purging and binding queues, with the exact texts of refusals.

package main

import (
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

var queueChecks = map[string]func(*check){
	"queue_declare":             queueDeclare,
	"queue_declare_passive":     queueDeclarePassive,
	"queue_passive_missing":     queuePassiveMissing,
	"reply_text_truncated":      replyTextTruncated,
	"queue_inequivalent":        queueInequivalent,
	"queue_type_classic":        queueTypeClassic,
	"queue_server_named":        queueServerNamed,
	"queue_reserved_name":       queueReservedName,
	"queue_exclusive_locked":    queueExclusiveLocked,
	"queue_exclusive_gone":      queueExclusiveGone,
	"queue_auto_delete":         queueAutoDelete,
	"queue_purge_delete_counts": queuePurgeDeleteCounts,
	"queue_delete_if_unused":    queueDeleteIfUnused,
	"queue_delete_if_empty":     queueDeleteIfEmpty,
	"queue_bind_unbind":         queueBindUnbind,
	"queue_bind_missing":        queueBindMissing,
}

func noQueue(name string) string {
	return fmt.Sprintf("NOT_FOUND - no queue '%s' in vhost '/'", name)
}

func noExchange(name string) string {
	return fmt.Sprintf("NOT_FOUND - no exchange '%s' in vhost '/'", name)
}

func passive(ch *channel, queue string) func() {
	return func() { _, _ = ch.QueueDeclarePassive(queue, false, false, false, false, nil) }
}

func queueDeclare(c *check) {
	ch := c.channel()
	name := c.declared(c.unique("q"))
	for round := 0; round < 2; round++ {
		found, err := ch.QueueDeclare(name, true, false, false, false, nil)
		must(err, "queue.declare")
		equal(found, amqp.Queue{Name: name, Messages: round}, "declare-ok")
		publish(ch, "", name, text(""))
	}
}

func queueDeclarePassive(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	equal(depth(ch, queue), [2]int{0, 0}, "an empty queue")
	publish(ch, "", queue, text(""))
	publish(ch, "", queue, text(""))
	equal(depth(ch, queue), [2]int{2, 0}, "with two messages")
	consumer := c.channel()
	must(consumer.Qos(1, 0, false), "basic.qos")
	open(consumer, queue, consumeOptions{}).take(1)
	equal(depth(ch, queue), [2]int{1, 1}, "ready messages and consumers")
}

func queuePassiveMissing(c *check) {
	ch, name := c.channel(), c.unique("q")
	refused(404, noQueue(name), ch.closed, passive(ch, name))
}

func replyTextTruncated(c *check) {
	ch, name := c.channel(), strings.Repeat("n", 255)
	refused(404, noQueue(name)[:252]+"...", ch.closed, passive(ch, name))
}

func queueInequivalent(c *check) {
	queue := c.queue(c.channel())
	text := "PRECONDITION_FAILED - inequivalent arg '%s' for queue '%s' in vhost '/': " +
		"received '%s' but current is '%s'"
	ch := c.channel()
	refused(406, fmt.Sprintf(text, "durable", queue, "false", "true"), ch.closed, func() {
		_, _ = ch.QueueDeclare(queue, false, false, false, false, nil)
	})
	other := c.channel()
	refused(406, fmt.Sprintf(text, "auto_delete", queue, "true", "false"), other.closed, func() {
		_, _ = other.QueueDeclare(queue, true, true, false, false, nil)
	})
}

func queueTypeClassic(c *check) {
	ch := c.channel()
	name := c.declared(c.unique("q"))
	for _, arguments := range []amqp.Table{
		{"x-queue-type": "classic"},
		{"x-queue-type": "classic"},
		{"x-no-such-argument": []any{int32(1), amqp.Table{"a": "b"}}},
	} {
		_, err := ch.QueueDeclare(name, true, false, false, false, arguments)
		must(err, fmt.Sprint("queue.declare ", arguments))
	}
}

func queueServerNamed(c *check) {
	ch := c.channel()
	first, err := ch.QueueDeclare("", false, false, true, false, nil)
	must(err, "queue.declare")
	second, err := ch.QueueDeclare("", false, false, true, false, nil)
	must(err, "queue.declare")
	ensure(strings.HasPrefix(first.Name, "amq.gen-") && len(first.Name) > 16, "name %s", first.Name)
	ensure(first.Name != second.Name, "the same name twice")
	depth(ch, first.Name)
}

func queueReservedName(c *check) {
	ch := c.channel()
	text := "ACCESS_REFUSED - queue name 'amq.conformance' contains reserved prefix 'amq.*'"
	refused(403, text, ch.closed, func() {
		_, _ = ch.QueueDeclare("amq.conformance", true, false, false, false, nil)
	})
}

func queueExclusiveLocked(c *check) {
	ch := c.channel()
	queue := random(16) // short: a longer text would be cut off
	_, err := ch.QueueDeclare(queue, false, false, true, false, nil)
	must(err, "queue.declare")
	text := "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '" + queue +
		"' in vhost '/'. It could be originally declared on another connection or the exclusive " +
		"property value does not match that of the original declaration."
	connection := c.connect(nil)
	for _, action := range []func(*channel){
		func(other *channel) { _, _ = other.QueueDeclare(queue, false, false, true, false, nil) },
		func(other *channel) { _, _, _ = other.Get(queue, true) },
		func(other *channel) { _, _ = other.Consume(queue, "t", true, false, false, false, nil) },
		func(other *channel) { _, _ = other.QueueDelete(queue, false, false, false) },
	} {
		other := c.plainOn(connection)
		refused(405, text, other.closed, func() { action(other) })
	}
	equal(depth(ch, queue), [2]int{0, 0}, "for its own connection")
}

func queueExclusiveGone(c *check) {
	owner, queue := c.connect(nil), c.unique("q")
	_, err := c.plainOn(owner).QueueDeclare(queue, false, false, true, false, nil)
	must(err, "queue.declare")
	must(owner.Close(), "connection.close")
	ch := c.channel()
	refused(404, noQueue(queue), ch.closed, passive(ch, queue))
}

func queueAutoDelete(c *check) {
	ch := c.channel()
	queue := c.declared(c.unique("q"))
	_, err := ch.QueueDeclare(queue, true, true, false, false, nil)
	must(err, "queue.declare")
	publish(ch, "", queue, text(""))
	equal(depth(ch, queue), [2]int{1, 0}, "before it ever had a consumer")
	first := open(ch, queue, consumeOptions{autoAck: true})
	second := open(ch, queue, consumeOptions{autoAck: true})
	must(ch.Cancel(first.tag, false), "basic.cancel")
	equal(depth(ch, queue), [2]int{0, 1}, "with one consumer left")
	must(ch.Cancel(second.tag, false), "basic.cancel")
	refused(404, noQueue(queue), ch.closed, passive(ch, queue))
}

func queuePurgeDeleteCounts(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	for number := 0; number < 3; number++ {
		publish(ch, "", queue, text(""))
	}
	mustGet(ch, queue)
	purged, err := ch.QueuePurge(queue, false)
	must(err, "queue.purge")
	equal(purged, 2, "purged (one is out)")
	publish(ch, "", queue, text(""))
	for _, expected := range []int{1, 0} {
		deleted, err := ch.QueueDelete(queue, false, false, false)
		must(err, "queue.delete")
		equal(deleted, expected, "messages in delete-ok")
	}
}

func queueDeleteIfUnused(c *check) {
	ch, other := c.channel(), c.channel()
	queue := c.queue(ch)
	box := open(ch, queue, consumeOptions{})
	text := fmt.Sprintf("PRECONDITION_FAILED - queue '%s' in vhost '/' in use", queue)
	refused(406, text, other.closed, func() { _, _ = other.QueueDelete(queue, true, false, false) })
	must(ch.Cancel(box.tag, false), "basic.cancel")
	_, err := ch.QueueDelete(queue, true, false, false)
	must(err, "queue.delete if-unused")
}

func queueDeleteIfEmpty(c *check) {
	ch, other := c.channel(), c.channel()
	queue := c.queue(ch)
	publish(ch, "", queue, text(""))
	reason := fmt.Sprintf("PRECONDITION_FAILED - queue '%s' in vhost '/' not empty", queue)
	refused(406, reason, other.closed, func() { _, _ = other.QueueDelete(queue, false, true, false) })
	drain(ch, queue)
	_, err := ch.QueueDelete(queue, false, true, false)
	must(err, "queue.delete if-empty")
}

func queueBindUnbind(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	arrives := func(body string, expected []string, what string) {
		publish(ch, "amq.direct", queue, text(body))
		equal(drain(ch, queue), expected, what)
	}
	bind := func(arguments amqp.Table) {
		must(ch.QueueBind(queue, queue, "amq.direct", false, arguments), "queue.bind")
	}
	unbind := func(arguments amqp.Table) {
		must(ch.QueueUnbind(queue, queue, "amq.direct", arguments), "queue.unbind")
	}
	bind(nil)
	bind(nil)
	arrives("once", []string{"once"}, "a duplicate binding")
	bind(amqp.Table{"k": int32(1)})
	arrives("once", []string{"once"}, "two bindings of one queue")
	unbind(nil)
	arrives("by the other", []string{"by the other"}, "the binding with arguments stays")
	unbind(amqp.Table{"k": int32(1)})
	arrives("none", []string{}, "after unbind")
	unbind(nil)
}

func queueBindMissing(c *check) {
	first, second := c.channel(), c.channel()
	queue, missing := c.queue(first), c.unique("q")
	refused(404, noExchange(missing), first.closed, func() {
		_ = first.QueueBind(queue, "", missing, false, nil)
	})
	refused(404, noQueue(missing), second.closed, func() {
		_ = second.QueueBind(missing, "", "amq.direct", false, nil)
	})
}

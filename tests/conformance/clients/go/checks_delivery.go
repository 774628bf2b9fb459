// Consuming, getting, acknowledging, limits on delivery.

package main

import (
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var deliveryChecks = map[string]func(*check){
	"consume":                consume,
	"consume_missing_queue":  consumeMissingQueue,
	"consumer_tag_reuse":     consumerTagReuse,
	"ack":                    ack,
	"ack_multiple":           ackMultiple,
	"ack_all":                ackAll,
	"nack_requeue":           nackRequeue,
	"nack_multiple":          nackMultiple,
	"reject":                 reject,
	"redelivered":            redelivered,
	"recover":                recoverCheck,
	"unknown_delivery_tag":   unknownDeliveryTag,
	"get":                    getCheck,
	"get_empty":              getEmpty,
	"cancel":                 cancel,
	"consumer_cancel_notify": consumerCancelNotify,
	"consumer_exclusive":     consumerExclusive,
	"consumer_priority":      consumerPriority,
	"qos_per_consumer":       qosPerConsumer,
	"qos_global":             qosGlobal,
}

func consume(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	must(ch.QueueBind(queue, queue, "amq.topic", false, nil), "queue.bind")
	box := open(ch, queue, consumeOptions{tag: "my-tag"})
	for number := 1; number <= 3; number++ {
		publish(ch, "amq.topic", queue, text(fmt.Sprint(number)))
	}
	for index, d := range box.take(3) {
		found := fmt.Sprint(d.ConsumerTag, d.DeliveryTag, d.Redelivered, d.Exchange, d.RoutingKey)
		expected := fmt.Sprint("my-tag", uint64(index+1), false, "amq.topic", queue)
		equal(found+string(d.Body), expected+fmt.Sprint(index+1), "delivery")
	}
}

func consumeMissingQueue(c *check) {
	ch, missing := c.channel(), c.unique("q")
	refused(404, noQueue(missing), ch.closed, func() {
		_, _ = ch.Consume(missing, "t", false, false, false, false, nil)
	})
}

func consumerTagReuse(c *check) {
	connection := c.connect(nil)
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	ch := c.plainOn(connection)
	queue := c.queue(ch)
	open(ch, queue, consumeOptions{tag: "twice"})
	refused(530, "NOT_ALLOWED - attempt to reuse consumer tag 'twice'", closed, func() {
		_, _ = ch.Consume(queue, "twice", false, false, false, false, nil)
	})
}

func ack(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	taken := open(ch, queue, consumeOptions{}).take(3)
	must(taken[1].Ack(false), "basic.ack")
	equal(left(c, ch, queue), []string{"1 again", "3 again"}, "left after an ack of 2")
}

func ackMultiple(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	taken := open(ch, queue, consumeOptions{}).take(3)
	must(taken[1].Ack(true), "basic.ack")
	equal(left(c, ch, queue), []string{"3 again"}, "left after an ack up to 2")
}

func ackAll(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	open(ch, queue, consumeOptions{}).take(3)
	must(ch.Ack(0, true), "basic.ack")
	equal(left(c, ch, queue), []string{}, "left after an ack of all (tag 0)")
}

func nackRequeue(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	first, second := mustGet(ch, queue), mustGet(ch, queue)
	must(first.Nack(false, true), "basic.nack")
	equal(seen(mustGet(ch, queue)), "1 again", "back in its place")
	must(second.Nack(false, false), "basic.nack")
	equal(left(c, ch, queue), []string{"1 again", "3"}, "left")
}

func nackMultiple(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	mustGet(ch, queue)
	second := mustGet(ch, queue)
	mustGet(ch, queue)
	must(second.Nack(true, true), "basic.nack")
	equal(drain(ch, queue), []string{"1 again", "2 again"}, "returned, in order")
	must(ch.Nack(0, true, false), "basic.nack")
	equal(left(c, ch, queue), []string{}, "left after a nack of all without requeue")
}

func reject(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	first, second := mustGet(ch, queue), mustGet(ch, queue)
	must(first.Reject(false), "basic.reject")
	must(second.Reject(true), "basic.reject")
	equal(left(c, ch, queue), []string{"2 again", "3"}, "left")
}

func redelivered(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	for _, delivery := range open(ch, queue, consumeOptions{}).take(3) {
		equal(delivery.Redelivered, false, "redelivered the first time")
	}
	connection := c.connect(nil)
	box := open(c.plainOn(connection), queue, consumeOptions{})
	must(ch.Close(), "channel.close")
	var found []string
	for _, delivery := range box.take(3) {
		found = append(found, seen(delivery))
	}
	again := []string{"1 again", "2 again", "3 again"}
	equal(found, again, "after the channel closed")
	must(connection.Close(), "connection.close")
	equal(drain(c.channel(), queue), again, "after the connection closed")
}

func recoverCheck(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	box := open(ch, queue, consumeOptions{})
	box.take(3)
	must(ch.Recover(true), "basic.recover")
	var found []string
	for _, delivery := range box.take(3) {
		found = append(found, seen(delivery))
	}
	equal(found, []string{"1 again", "2 again", "3 again"}, "delivered again")
}

func unknownDeliveryTag(c *check) {
	first, second, third := c.channel(), c.channel(), c.channel()
	message := mustGet(first, three(c, first))
	must(message.Ack(false), "basic.ack")
	reason := "PRECONDITION_FAILED - unknown delivery tag "
	tag := fmt.Sprint(message.DeliveryTag)
	refused(406, reason+tag, first.closed, func() { _ = message.Ack(false) })
	refused(406, reason+"82", second.closed, func() { _ = second.Nack(82, false, false) })
	refused(406, reason+"83", third.closed, func() { _ = third.Reject(83, false) })
}

func getCheck(c *check) {
	ch := c.channel()
	queue := three(c, ch)
	for number := 1; number <= 3; number++ {
		d := mustGet(ch, queue)
		found := fmt.Sprint(d.DeliveryTag, d.MessageCount, d.Exchange, d.RoutingKey, " ", seen(d))
		expected := fmt.Sprint(uint64(number), uint32(3-number), "", queue, " ", fmt.Sprint(number))
		equal(found, expected, "get-ok")
	}
}

func getEmpty(c *check) {
	ch, missing := c.channel(), c.unique("q")
	_, found := get(ch, c.queue(ch), false)
	equal(found, false, "get of an empty queue")
	refused(404, noQueue(missing), ch.closed, func() { _, _, _ = ch.Get(missing, false) })
}

func cancel(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	box := open(ch, queue, consumeOptions{autoAck: true})
	publish(ch, "", queue, text("1"))
	box.take(1)
	must(ch.Cancel(box.tag, false), "basic.cancel")
	publish(c.channel(), "", queue, text("2"))
	equal(box.settled(), 0, "deliveries after cancel-ok")
	equal(depth(ch, queue), [2]int{1, 0}, "the queue")
}

func consumerCancelNotify(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	cancelled := ch.NotifyCancel(make(chan string, 1))
	box := open(ch, queue, consumeOptions{})
	_, err := c.channel().QueueDelete(queue, false, false, false)
	must(err, "queue.delete")
	select {
	case tag := <-cancelled:
		equal(tag, box.tag, "cancelled")
	case <-time.After(waitLimit):
		fail("waited %v for basic.cancel", waitLimit)
	}
	_, err = ch.QueueDeclare("", false, false, true, false, nil)
	must(err, "the channel after basic.cancel")
}

func consumerExclusive(c *check) {
	owner, second, third := c.channel(), c.channel(), c.channel()
	queue := c.queue(owner)
	box := open(owner, queue, consumeOptions{exclusive: true})
	reason := fmt.Sprintf("ACCESS_REFUSED - queue '%s' in vhost '/' in exclusive use", queue)
	refused(403, reason, second.closed, func() {
		_, _ = second.Consume(queue, "t", false, false, false, false, nil)
	})
	must(owner.Cancel(box.tag, false), "basic.cancel")
	open(owner, queue, consumeOptions{})
	refused(403, reason, third.closed, func() {
		_, _ = third.Consume(queue, "t", false, true, false, false, nil)
	})
}

func consumerPriority(c *check) {
	ch, consumers := c.channel(), c.channel()
	queue := c.queue(ch)
	must(consumers.Qos(2, 0, false), "basic.qos")
	low := open(consumers, queue, consumeOptions{})
	high := open(consumers, queue, consumeOptions{arguments: amqp.Table{"x-priority": int32(10)}})
	for _, body := range []string{"1", "2", "3", "4"} {
		publish(ch, "", queue, text(body))
	}
	equal(high.bodies(2), []string{"1", "2"}, "the higher priority has credit")
	equal(low.bodies(2), []string{"3", "4"}, "the lower one gets the rest")
}

func five(c *check, ch *channel) string {
	queue := three(c, ch)
	publish(ch, "", queue, text("4"))
	publish(ch, "", queue, text("5"))
	return queue
}

func qosPerConsumer(c *check) {
	ch, consumers := c.channel(), c.channel()
	queue := five(c, ch)
	must(consumers.Qos(2, 0, false), "basic.qos")
	first := open(consumers, queue, consumeOptions{})
	taken := first.take(2)
	equal(first.settled(), 0, "more than the prefetch count")
	must(consumers.Qos(1, 0, false), "basic.qos")
	second := open(consumers, queue, consumeOptions{})
	equal(second.bodies(1), []string{"3"}, "the second consumer's own limit")
	equal(second.settled(), 0, "more than the second prefetch count")
	must(taken[0].Ack(false), "basic.ack")
	equal(first.bodies(1), []string{"4"}, "credit that came back")
	equal(depth(ch, queue)[0], 1, "ready")
}

func qosGlobal(c *check) {
	major, minor := c.version()
	if !isWarren(c) && (major > 4 || (major == 4 && minor >= 3)) {
		panic(skipped{"since 4.3 RabbitMQ takes a global limit as one for each consumer"})
	}
	ch, consumers := c.channel(), c.channel()
	queue := five(c, ch)
	must(consumers.Qos(3, 0, true), "basic.qos")
	first := open(consumers, queue, consumeOptions{})
	second := open(consumers, queue, consumeOptions{})
	expect := func(count int) {
		deadline := time.Now().Add(waitLimit)
		for first.count()+second.count() < count {
			ensure(time.Now().Before(deadline), "waited %v for %d deliveries in all", waitLimit, count)
			depth(consumers, queue)
		}
		first.settled()
		equal(first.count()+second.count(), count, "deliveries to both consumers")
	}
	expect(3)
	box := first
	if box.count() == 0 {
		box = second
	}
	box.lock.Lock()
	delivery := box.messages[0]
	box.lock.Unlock()
	must(delivery.Ack(false), "basic.ack")
	expect(4)
}

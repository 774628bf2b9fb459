// Publishing, bodies, properties, transactions.

package main

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var messageChecks = map[string]func(*check){
	"publish_confirm":          publishConfirm,
	"publish_missing_exchange": publishMissingExchange,
	"publish_immediate":        publishImmediate,
	"mandatory_return":         mandatoryReturn,
	"body_large":               bodyLarge,
	"body_empty":               bodyEmpty,
	"body_frame_boundaries":    bodyFrameBoundaries,
	"properties_all":           propertiesAll,
	"expiration_expires":       expirationExpires,
	"header_types":             headerTypes,
	"user_id_mismatch":         userIDMismatch,
	"direct_reply_to":          directReplyTo,
	"direct_reply_to_refusals": directReplyToRefusals,
	"tx_publish":               txPublish,
	"tx_ack":                   txAck,
	"tx_refusals":              txRefusals,
}

// A queue with the messages 1, 2 and 3.
func three(c *check, ch *channel) string {
	queue := c.queue(ch)
	for _, body := range []string{"1", "2", "3"} {
		publish(ch, "", queue, persistent(body))
	}
	return queue
}

// Closes the channel that holds messages and gives what is then in the queue, in order.
func left(c *check, ch *channel, queue string) []string {
	must(ch.Close(), "channel.close")
	return drain(c.channel(), queue)
}

func publishConfirm(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 100))
	var sent []string
	for number := 1; number <= 100; number++ {
		send(ch, "", queue, persistent(fmt.Sprint(number)))
		sent = append(sent, fmt.Sprint(number))
	}
	for number := uint64(1); number <= 100; number++ {
		select {
		case confirm := <-confirms:
			equal(confirm, amqp.Confirmation{DeliveryTag: number, Ack: true}, "confirm")
		case <-time.After(waitLimit):
			fail("waited %v for confirm %d", waitLimit, number)
		}
	}
	equal(depth(ch, queue)[0], 100, "messages once all are confirmed")
	equal(drain(ch, queue), sent, "order")
}

func publishMissingExchange(c *check) {
	ch, missing := c.channel(), c.unique("x")
	refused(404, noExchange(missing), ch.closed, func() { send(ch, missing, "key", text("")) })
}

func publishImmediate(c *check) {
	connection := c.connect(nil)
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	ch := c.plainOn(connection)
	refused(540, "NOT_IMPLEMENTED - immediate=true", closed, func() {
		_ = ch.Publish("", "key", false, true, text(""))
	})
}

func mandatoryReturn(c *check) {
	ch, missing := c.channel(), c.unique("q")
	returns := ch.NotifyReturn(make(chan amqp.Return, 3))
	publishWith(ch, "", missing, true, amqp.Publishing{Body: []byte("back"), Type: "t"})
	equal(len(returns), 1, "returns before the confirm")
	found := <-returns
	fields := fmt.Sprintf("%d %s %q %s", found.ReplyCode, found.ReplyText, found.Exchange, found.RoutingKey)
	equal(fields, fmt.Sprintf("312 NO_ROUTE %q %s", "", missing), "basic.return")
	equal(string(found.Body)+" "+found.Type, "back t", "its content")
	publish(ch, "", missing, text("gone"))
	publishWith(ch, "", c.queue(ch), true, text("here"))
	equal(len(returns), 0, "returns")
}

func roundTrip(c *check, body []byte) {
	ch := c.channel()
	queue := c.queue(ch)
	message := amqp.Publishing{Body: body, DeliveryMode: amqp.Persistent}
	publish(ch, "", queue, message)
	found := mustGet(ch, queue).Body
	ensure(bytes.Equal(found, body), "%d bytes back differ from %d", len(found), len(body))
	box := open(ch, queue, consumeOptions{autoAck: true})
	publish(ch, "", queue, amqp.Publishing{Body: body})
	ensure(bytes.Equal(box.take(1)[0].Body, body), "the delivered body differs")
}

func bodyLarge(c *check) {
	body := make([]byte, 10*1024*1024)
	for index := range body {
		body[index] = byte(index)
	}
	roundTrip(c, body)
}

func bodyEmpty(c *check) {
	roundTrip(c, []byte{})
}

func bodyFrameBoundaries(c *check) {
	frame := c.main().Config.FrameSize - 8
	for _, size := range []int{frame - 1, frame, frame + 1, 2 * frame, 2*frame + 1} {
		roundTrip(c, bytes.Repeat([]byte("x"), size))
	}
}

func propertiesAll(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	sent := amqp.Publishing{
		Headers: amqp.Table{"h": "v"}, ContentType: "text/plain", ContentEncoding: "utf-8",
		DeliveryMode: 2, Priority: 7, CorrelationId: "correlation", ReplyTo: "reply",
		Expiration: "60000", MessageId: "id", Timestamp: time.Unix(1_700_000_000, 0),
		Type: "type", UserId: brokerURL().Username, AppId: "app", Body: []byte("x"),
	}
	publish(ch, "", queue, sent)
	equal(propertiesOf(mustGet(ch, queue)), sent, "properties")
	publish(ch, "", queue, amqp.Publishing{Body: []byte("x")})
	bare := propertiesOf(mustGet(ch, queue))
	// amqp091-go always sends a delivery mode; zero when it was given none.
	equal(bare, amqp.Publishing{Body: []byte("x")}, "no properties")
}

func expirationExpires(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	publish(ch, "", queue, amqp.Publishing{Body: []byte("short"), Expiration: "50"})
	publish(ch, "", queue, amqp.Publishing{Body: []byte("long"), Expiration: "60000"})
	for deadline := time.Now().Add(waitLimit); depth(ch, queue)[0] > 1; {
		ensure(time.Now().Before(deadline), "the first message has not expired")
	}
	equal(drain(ch, queue), []string{"long"}, "what lives longer")
}

func propertiesOf(d amqp.Delivery) amqp.Publishing {
	return amqp.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
		DeliveryMode: d.DeliveryMode, Priority: d.Priority, CorrelationId: d.CorrelationId,
		ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId,
		Timestamp: d.Timestamp, Type: d.Type, UserId: d.UserId, AppId: d.AppId, Body: d.Body,
	}
}

func headerTypes(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	headers := amqp.Table{
		"string": "longstr \u00e4\u20ac", "empty": "", "bytes": []byte{0, 255, 254},
		"true": true, "false": false, "void": nil,
		"uint8": byte(255), "int8": int8(-128), "int16": int16(-32768), "uint16": uint16(65535),
		"int32": int32(-1 << 31), "uint32": uint32(1<<32 - 1), "int64": int64(1<<63 - 1),
		"float": float32(0.5), "double": 123.456,
		"decimal": amqp.Decimal{Scale: 2, Value: 12345},
		"time":    time.Unix(1_700_000_000, 0),
		"nested": amqp.Table{
			"list":  []any{int32(1), "two", []any{int32(3), amqp.Table{"four": int32(4)}}, nil, true},
			"table": amqp.Table{"deep": amqp.Table{"er": "x"}},
		},
	}
	publish(ch, "", queue, amqp.Publishing{Headers: headers})
	found := mustGet(ch, queue).Headers
	for key, value := range headers {
		ensure(reflect.DeepEqual(found[key], value), "%s: found %#v, expected %#v", key, found[key], value)
	}
	equal(len(found), len(headers), "headers")
}

func userIDMismatch(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	reason := "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was '" +
		brokerURL().Username + "'"
	refused(406, reason, ch.closed, func() { send(ch, "", queue, amqp.Publishing{UserId: "somebody"}) })
}

func directReplyTo(c *check) {
	ch := c.channel()
	queue := c.queue(ch)
	replies := open(ch, "amq.rabbitmq.reply-to", consumeOptions{autoAck: true})
	publish(ch, "", queue, amqp.Publishing{
		Body: []byte("question"), ReplyTo: "amq.rabbitmq.reply-to", CorrelationId: "7",
	})
	server := confirming(c.plainOn(c.connect(nil)))
	question := mustGet(server, queue)
	ensure(strings.HasPrefix(question.ReplyTo, "amq.rabbitmq.reply-to."), "reply_to %s", question.ReplyTo)
	publish(server, "", question.ReplyTo, amqp.Publishing{Body: []byte("answer"), CorrelationId: "7"})
	reply := replies.take(1)[0]
	found := []string{string(reply.Body), reply.CorrelationId, reply.Exchange}
	equal(found, []string{"answer", "7", ""}, "reply")
}

func directReplyToRefusals(c *check) {
	first, second := c.channel(), c.channel()
	refused(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", first.closed, func() {
		_, _ = first.Consume("amq.rabbitmq.reply-to", "t", false, false, false, false, nil)
	})
	queue := c.queue(second)
	refused(406, "PRECONDITION_FAILED - fast reply consumer does not exist", second.closed, func() {
		send(second, "", queue, amqp.Publishing{ReplyTo: "amq.rabbitmq.reply-to"})
	})
}

func txPublish(c *check) {
	ch, other := c.plain(), c.channel()
	queue := c.queue(ch)
	must(ch.Tx(), "tx.select")
	send(ch, "", queue, text("rolled back"))
	must(ch.TxRollback(), "tx.rollback")
	send(ch, "", queue, text("1"))
	send(ch, "", queue, text("2"))
	equal(depth(other, queue)[0], 0, "before the commit")
	must(ch.TxCommit(), "tx.commit")
	equal(drain(other, queue), []string{"1", "2"}, "after the commit")
}

func txAck(c *check) {
	ch := c.plain()
	queue := three(c, c.channel())
	must(ch.Tx(), "tx.select")
	first, second, third := mustGet(ch, queue), mustGet(ch, queue), mustGet(ch, queue)
	must(ch.Ack(first.DeliveryTag, false), "basic.ack")
	must(ch.TxRollback(), "tx.rollback")
	must(ch.Ack(second.DeliveryTag, false), "basic.ack")
	must(ch.TxCommit(), "tx.commit")
	must(ch.Ack(third.DeliveryTag, false), "basic.ack")
	equal(left(c, ch, queue), []string{"1 again", "3 again"}, "only the committed ack counts")
}

func txRefusals(c *check) {
	first, second, third, fourth := c.plain(), c.plain(), c.plain(), c.channel()
	text := "PRECONDITION_FAILED - channel is not transactional"
	refused(406, text, first.closed, func() { _ = first.TxCommit() })
	refused(406, text, second.closed, func() { _ = second.TxRollback() })
	must(third.Tx(), "tx.select")
	text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode"
	refused(406, text, third.closed, func() { _ = third.Confirm(false) })
	text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode"
	refused(406, text, fourth.closed, func() { _ = fourth.Tx() })
}

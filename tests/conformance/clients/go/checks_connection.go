// Handshake, limits, heartbeats, closing.

package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var connectionChecks = map[string]func(*check){
	"connect_properties":     connectProperties,
	"wrong_password":         wrongPassword,
	"unknown_vhost":          unknownVhost,
	"close_clean":            closeClean,
	"heartbeat_idle":         heartbeatIdle,
	"tune_limits":            tuneLimits,
	"many_channels":          manyChannels,
	"blocked_capability":     blockedCapability,
	"channel_error_isolated": channelErrorIsolated,
}

var capabilities = []string{
	"publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
	"connection.blocked", "consumer_priorities", "authentication_failure_close",
	"per_consumer_qos", "direct_reply_to",
}

func connectProperties(c *check) {
	properties := c.main().Properties
	equal(properties["product"], "RabbitMQ", "product")
	version, _ := properties["version"].(string)
	semver := regexp.MustCompile(`^\d+\.\d+\.\d+([-+].*)?$`)
	ensure(semver.MatchString(version), "version %q", version)
	found, _ := properties["capabilities"].(amqp.Table)
	for _, name := range capabilities {
		equal(found[name], true, "capability "+name)
	}
}

// This client does not announce authentication_failure_close, so the broker drops the socket.
func wrongPassword(c *check) {
	_, err := dial(func(uri *amqp.URI, config *amqp.Config) {
		config.SASL = []amqp.Authentication{&amqp.PlainAuth{Username: uri.Username, Password: "wrong"}}
	})
	ensure(errors.Is(err, amqp.ErrCredentials), "refused with %v", err)
}

func unknownVhost(c *check) {
	_, err := dial(func(_ *amqp.URI, config *amqp.Config) { config.Vhost = "no-such-vhost" })
	var refusal *amqp.Error
	ensure(errors.As(err, &refusal), "refused with %v", err)
	found := fmt.Sprint(refusal.Code, " ", refusal.Reason)
	equal(found, "530 NOT_ALLOWED - vhost no-such-vhost not found", "close")
}

func closeClean(c *check) {
	connection := c.connect(nil)
	must(c.plainOn(connection).Close(), "channel.close")
	must(connection.Close(), "connection.close")
	again := c.connect(nil)
	c.plainOn(again)
	must(again.Close(), "connection.close")
}

func heartbeatIdle(c *check) {
	connection := c.connect(func(_ *amqp.URI, config *amqp.Config) { config.Heartbeat = time.Second })
	equal(connection.Config.Heartbeat, time.Second, "heartbeat agreed on")
	ch := c.plainOn(connection)
	select {
	case reason := <-connection.NotifyClose(make(chan *amqp.Error, 1)):
		fail("the idle connection was closed: %v", reason)
	case <-time.After(5 * time.Second):
	}
	_, err := ch.QueueDeclare("", false, false, true, false, nil)
	must(err, "queue.declare after the idle time")
}

func tuneLimits(c *check) {
	connection := c.connect(func(_ *amqp.URI, config *amqp.Config) {
		config.FrameSize = 8192
		config.ChannelMax = 10
	})
	equal(connection.Config.FrameSize, 8192, "frame_max")
	equal(connection.Config.ChannelMax, uint16(10), "channel_max")
	var ch *channel
	for number := 0; number < 10; number++ {
		ch = c.plainOn(connection)
	}
	confirming(ch)
	queue := c.queue(ch)
	body := strings.Repeat("b", 50_000)
	publish(ch, "", queue, text(body))
	ensure(drain(ch, queue)[0] == body, "the body in frames of 8192 differs")
}

func manyChannels(c *check) {
	connection := c.connect(nil)
	var channels []*channel
	for number := 0; number < 500; number++ {
		channels = append(channels, c.plainOn(connection))
	}
	queue := c.queue(channels[0])
	box := open(channels[0], queue, consumeOptions{autoAck: true})
	for number, ch := range channels {
		send(ch, "", queue, text(fmt.Sprint(number)))
	}
	distinct := map[string]bool{}
	for _, body := range box.bodies(500) {
		distinct[body] = true
	}
	equal(len(distinct), 500, "messages, one from each channel")
	for _, ch := range channels[1:] {
		must(ch.Close(), "channel.close")
	}
	depth(channels[0], queue)
}

func blockedCapability(c *check) {
	connection := c.connect(nil)
	blocked := connection.NotifyBlocked(make(chan amqp.Blocking, 1))
	_, err := c.plainOn(connection).QueueDeclare("", false, false, true, false, nil)
	must(err, "queue.declare")
	equal(len(blocked), 0, "connection.blocked without an alarm")
}

func channelErrorIsolated(c *check) {
	good, bad := c.channel(), c.channel()
	queue, missing := c.queue(good), c.unique("q")
	refused(404, noQueue(missing), bad.closed, func() {
		_, _ = bad.QueueDeclarePassive(missing, false, false, false, false, nil)
	})
	publish(good, "", queue, text("still here"))
	equal(drain(good, queue), []string{"still here"}, "on the other channel")
	depth(c.channel(), queue)
}

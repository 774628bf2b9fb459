// What every check of the amqp091-go suite uses: connections, unique names, waits with a name,
// clean-up. A check fails by `fail` (a panic of its own type); one that hangs is named by its line.

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"runtime/debug"
	"sort"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	checkLimit = 20 * time.Second
	waitLimit  = 8 * time.Second
)

type failure struct{ text string }
type skipped struct{ reason string }

func fail(format string, arguments ...any) {
	panic(failure{fmt.Sprintf(format, arguments...)})
}

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func ensure(condition bool, format string, arguments ...any) {
	if !condition {
		fail(format, arguments...)
	}
}

func equal(found, expected any, what string) {
	if !reflect.DeepEqual(found, expected) {
		fail("%s: found %#v, expected %#v", what, found, expected)
	}
}

func brokerURL() amqp.URI {
	text := os.Getenv("AMQP_URL")
	if text == "" {
		text = "amqp://guest:guest@127.0.0.1:5672/%2f"
	}
	uri, err := amqp.ParseURI(text)
	must(err, "AMQP_URL")
	return uri
}

// One check's connections and what it declared.
type check struct {
	name        string
	lock        sync.Mutex
	connections []*amqp.Connection
	queues      []string
	exchanges   []string
	primary     *amqp.Connection
}

// Channel with its close reason at hand, in confirm mode unless said otherwise.
type channel struct {
	*amqp.Channel
	closed chan *amqp.Error
}

func dial(change func(*amqp.URI, *amqp.Config)) (*amqp.Connection, error) {
	uri := brokerURL()
	config := amqp.Config{Heartbeat: 10 * time.Second, Locale: "en_US"}
	if change != nil {
		change(&uri, &config)
	}
	if config.Vhost == "" {
		config.Vhost = uri.Vhost
	}
	return amqp.DialConfig(uri.String(), config)
}

func (c *check) connect(change func(*amqp.URI, *amqp.Config)) *amqp.Connection {
	connection, err := dial(change)
	must(err, "connect")
	c.lock.Lock()
	defer c.lock.Unlock()
	c.connections = append(c.connections, connection)
	return connection
}

// The check's own connection, opened at first use.
func (c *check) main() *amqp.Connection {
	if c.primary == nil {
		c.primary = c.connect(nil)
	}
	return c.primary
}

func (c *check) channel() *channel {
	return confirming(c.plainOn(c.main()))
}

func (c *check) plain() *channel {
	return c.plainOn(c.main())
}

func (c *check) plainOn(connection *amqp.Connection) *channel {
	raw, err := connection.Channel()
	must(err, "channel.open")
	return &channel{raw, raw.NotifyClose(make(chan *amqp.Error, 1))}
}

func confirming(ch *channel) *channel {
	must(ch.Confirm(false), "confirm.select")
	return ch
}

func random(bytes int) string {
	raw := make([]byte, bytes)
	_, err := rand.Read(raw)
	must(err, "random")
	return hex.EncodeToString(raw)
}

func (c *check) unique(suffix string) string {
	return fmt.Sprintf("conf.go.%s.%s.%s", c.name, suffix, random(5))
}

func (c *check) declared(queue string) string {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.queues = append(c.queues, queue)
	return queue
}

func (c *check) queue(ch *channel) string {
	name := c.declared(c.unique("q"))
	_, err := ch.QueueDeclare(name, true, false, false, false, nil)
	must(err, "queue.declare")
	return name
}

type exchangeOptions struct {
	durable, autoDelete, internal bool
	arguments                     amqp.Table
}

func (c *check) exchange(ch *channel, kind string, o exchangeOptions) string {
	name := c.unique("x")
	c.lock.Lock()
	c.exchanges = append(c.exchanges, name)
	c.lock.Unlock()
	err := ch.ExchangeDeclare(name, kind, o.durable, o.autoDelete, o.internal, false, o.arguments)
	must(err, "exchange.declare")
	return name
}

func (c *check) version() (int, int) {
	var major, minor int
	text, _ := c.main().Properties["version"].(string)
	_, err := fmt.Sscanf(text, "%d.%d", &major, &minor)
	must(err, "version "+text)
	return major, minor
}

func (c *check) since(major, minor int, reason string) {
	foundMajor, foundMinor := c.version()
	if foundMajor < major || (foundMajor == major && foundMinor < minor) {
		panic(skipped{fmt.Sprintf("since %d.%d %s", major, minor, reason)})
	}
}

// The action must be answered by a close with this code and text.
func refused(code int, text string, closed chan *amqp.Error, action func()) {
	reason := closeReason(closed, action)
	equal(fmt.Sprint(reason.Code, " ", reason.Reason), fmt.Sprint(code, " ", text), "close")
}

func closeReason(closed chan *amqp.Error, action func()) *amqp.Error {
	go action()
	select {
	case reason := <-closed:
		if reason == nil {
			fail("closed without a reason")
		}
		return reason
	case <-time.After(waitLimit):
		fail("waited %v for a refusal", waitLimit)
		return nil
	}
}

func (c *check) cleanUp() error {
	c.lock.Lock()
	defer c.lock.Unlock()
	for _, connection := range c.connections {
		_ = connection.Close()
	}
	if len(c.queues)+len(c.exchanges) == 0 {
		return nil
	}
	connection, err := dial(nil)
	if err != nil {
		return err
	}
	defer connection.Close()
	ch, err := connection.Channel()
	if err != nil {
		return err
	}
	for _, name := range c.queues {
		if _, err := ch.QueueDelete(name, false, false, false); err != nil {
			return err
		}
	}
	for _, name := range c.exchanges {
		if err := ch.ExchangeDelete(name, false, false); err != nil {
			return err
		}
	}
	return nil
}

// A consumer that keeps what it was sent.
type inbox struct {
	ch       *channel
	queue    string
	tag      string
	lock     sync.Mutex
	messages []amqp.Delivery
	wake     chan struct{}
}

type consumeOptions struct {
	tag                string
	autoAck, exclusive bool
	arguments          amqp.Table
}

func open(ch *channel, queue string, o consumeOptions) *inbox {
	if o.tag == "" {
		o.tag = "tag-" + random(5)
	}
	deliveries, err := ch.Consume(queue, o.tag, o.autoAck, o.exclusive, false, false, o.arguments)
	must(err, "basic.consume")
	box := &inbox{ch: ch, queue: queue, tag: o.tag, wake: make(chan struct{}, 1)}
	go func() {
		for delivery := range deliveries {
			box.lock.Lock()
			box.messages = append(box.messages, delivery)
			box.lock.Unlock()
			select {
			case box.wake <- struct{}{}:
			default:
			}
		}
	}()
	return box
}

func (b *inbox) count() int {
	b.lock.Lock()
	defer b.lock.Unlock()
	return len(b.messages)
}

func (b *inbox) await(count int) {
	deadline := time.After(waitLimit)
	for b.count() < count {
		select {
		case <-b.wake:
		case <-deadline:
			fail("waited %v for %d deliveries from %s (have %d)", waitLimit, count, b.queue, b.count())
		}
	}
}

func (b *inbox) take(count int) []amqp.Delivery {
	b.await(count)
	b.lock.Lock()
	defer b.lock.Unlock()
	taken := b.messages[:count]
	b.messages = b.messages[count:]
	return taken
}

func (b *inbox) bodies(count int) []string {
	var found []string
	for _, delivery := range b.take(count) {
		found = append(found, string(delivery.Body))
	}
	return found
}

// How many have arrived once the queue has answered a question asked after everything else.
func (b *inbox) settled() int {
	depth(b.ch, b.queue)
	return b.count()
}

func publish(ch *channel, exchange, key string, message amqp.Publishing) {
	publishWith(ch, exchange, key, false, message)
}

// Publishes on a confirming channel and waits for the confirm.
func publishWith(ch *channel, exchange, key string, mandatory bool, message amqp.Publishing) {
	confirm, err := ch.PublishWithDeferredConfirm(exchange, key, mandatory, false, message)
	must(err, "basic.publish")
	limit, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	acked, err := confirm.WaitContext(limit)
	must(err, "the confirm of a message to "+exchange+" "+key)
	ensure(acked, "a message to %s %s was nacked", exchange, key)
}

func send(ch *channel, exchange, key string, message amqp.Publishing) {
	must(ch.Publish(exchange, key, false, false, message), "basic.publish")
}

func text(body string) amqp.Publishing {
	return amqp.Publishing{Body: []byte(body)}
}

func persistent(body string) amqp.Publishing {
	return amqp.Publishing{Body: []byte(body), DeliveryMode: amqp.Persistent}
}

// Ready messages and consumers of a queue.
func depth(ch *channel, queue string) [2]int {
	found, err := ch.QueueDeclarePassive(queue, false, false, false, false, nil)
	must(err, "passive queue.declare")
	return [2]int{found.Messages, found.Consumers}
}

func get(ch *channel, queue string, autoAck bool) (amqp.Delivery, bool) {
	message, found, err := ch.Get(queue, autoAck)
	must(err, "basic.get")
	return message, found
}

func mustGet(ch *channel, queue string) amqp.Delivery {
	message, found := get(ch, queue, false)
	ensure(found, "no message in %s", queue)
	return message
}

// "body" or "body again" for a redelivered message.
func seen(message amqp.Delivery) string {
	if message.Redelivered {
		return string(message.Body) + " again"
	}
	return string(message.Body)
}

// All ready messages, taken with automatic acknowledgement, as `seen` shows them.
func drain(ch *channel, queue string) []string {
	found := []string{}
	for {
		message, ok := get(ch, queue, true)
		if !ok {
			return found
		}
		found = append(found, seen(message))
	}
}

// Publishes one message and gives the labels of the queues that got it.
func routed(ch *channel, exchange, key string, queues map[string]string, headers amqp.Table) []string {
	publish(ch, exchange, key, amqp.Publishing{Headers: headers})
	found := []string{}
	for label, queue := range queues {
		for range drain(ch, queue) {
			found = append(found, label)
		}
	}
	sort.Strings(found)
	return found
}

func sorted(labels ...string) []string {
	sorted := append([]string{}, labels...)
	sort.Strings(sorted)
	return sorted
}

var checkLine = regexp.MustCompile(`(checks_\w+\.go:\d+)`)

// Runs one check and gives its line.
func run(name string, body func(*check)) string {
	if body == nil {
		return fmt.Sprintf("fail %s the suite has no such check", name)
	}
	c := &check{name: name}
	verdict := make(chan string, 1)
	go func() {
		verdict <- guarded(c, body)
	}()
	line := ""
	select {
	case line = <-verdict:
	case <-time.After(checkLimit):
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		line = fmt.Sprintf("fail %s no answer within %v at %s", name, checkLimit, place(stacks))
	}
	cleaned := make(chan error, 1)
	go func() { cleaned <- c.cleanUp() }()
	var err error
	select {
	case err = <-cleaned:
	case <-time.After(checkLimit):
		err = errors.New("it took too long")
	}
	if err != nil && strings.HasPrefix(line, "ok") {
		line = fmt.Sprintf("fail %s clean-up: %v", name, err)
	}
	return strings.Join(strings.Fields(line), " ")
}

func place(stack []byte) string {
	found := checkLine.FindSubmatch(stack)
	if found == nil {
		return "an unknown line"
	}
	return string(found[1])
}

func guarded(c *check, body func(*check)) (line string) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case skipped:
			line = fmt.Sprintf("skip %s %s", c.name, reason.reason)
		case failure:
			line = fmt.Sprintf("fail %s %s (%s)", c.name, reason.text, place(debug.Stack()))
		default:
			line = fmt.Sprintf("fail %s %v (%s)", c.name, reason, place(debug.Stack()))
		}
	}()
	body(c)
	return "ok " + c.name
}

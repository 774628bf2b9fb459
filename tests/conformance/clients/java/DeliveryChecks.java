import com.rabbitmq.client.Connection;
import com.rabbitmq.client.Envelope;
import com.rabbitmq.client.GetResponse;
import java.util.List;
import java.util.Map;

/** Consuming, getting, acknowledging, limits on delivery. */
final class DeliveryChecks {
  private static final List<String> ALL_AGAIN = List.of("1 again", "2 again", "3 again");

  static void register(Map<String, Suite.Check> checks) {
    checks.put("consume", DeliveryChecks::consume);
    checks.put("consume_missing_queue", DeliveryChecks::consumeMissingQueue);
    checks.put("consumer_tag_generated", DeliveryChecks::consumerTagGenerated);
    checks.put("ack", DeliveryChecks::ack);
    checks.put("ack_multiple", DeliveryChecks::ackMultiple);
    checks.put("ack_all", DeliveryChecks::ackAll);
    checks.put("nack_requeue", DeliveryChecks::nackRequeue);
    checks.put("nack_multiple", DeliveryChecks::nackMultiple);
    checks.put("reject", DeliveryChecks::reject);
    checks.put("redelivered", DeliveryChecks::redelivered);
    checks.put("recover", DeliveryChecks::recover);
    checks.put("unknown_delivery_tag", DeliveryChecks::unknownDeliveryTag);
    checks.put("get", DeliveryChecks::get);
    checks.put("get_empty", DeliveryChecks::getEmpty);
    checks.put("cancel", DeliveryChecks::cancel);
    checks.put("consumer_cancel_notify", DeliveryChecks::consumerCancelNotify);
    checks.put("consumer_exclusive", DeliveryChecks::consumerExclusive);
    checks.put("consumer_priority", DeliveryChecks::consumerPriority);
    checks.put("qos_per_consumer", DeliveryChecks::qosPerConsumer);
    checks.put("qos_global", DeliveryChecks::qosGlobal);
  }

  private static void consume(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    ch.raw.queueBind(queue, "amq.topic", queue);
    Inbox inbox = Inbox.open(ch, queue, "my-tag", false, false, null);
    Context.equal(inbox.tag, "my-tag", "consume-ok");
    for (int number = 1; number <= 3; number++) {
      Context.publish(ch, "amq.topic", queue, String.valueOf(number));
    }
    int number = 0;
    for (Inbox.Message message : inbox.take(3)) {
      number += 1;
      Envelope found = message.envelope();
      String fields = found.getDeliveryTag() + " " + found.getExchange() + " ";
      String expected = number + " amq.topic " + queue + " " + number;
      Context.equal(fields + found.getRoutingKey() + " " + message.seen(), expected, "delivery");
    }
  }

  private static void consumeMissingQueue(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String missing = c.name("q");
    Context.refused(404, QueueChecks.noQueue(missing), ch, () -> Inbox.open(ch, missing));
  }

  private static void consumerTagGenerated(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    String first = Inbox.open(ch, queue).tag;
    String second = Inbox.open(ch, queue).tag;
    Context.ensure(first.startsWith("amq.ctag-") && !first.equals(second), first);
  }

  private static void ack(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    List<Inbox.Message> taken = Inbox.open(ch, queue).take(3);
    ch.raw.basicAck(taken.get(1).envelope().getDeliveryTag(), false);
    List<String> expected = List.of("1 again", "3 again");
    Context.equal(MessageChecks.left(c, ch, queue), expected, "left after an ack of 2");
  }

  private static void ackMultiple(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    List<Inbox.Message> taken = Inbox.open(ch, queue).take(3);
    ch.raw.basicAck(taken.get(1).envelope().getDeliveryTag(), true);
    Context.equal(MessageChecks.left(c, ch, queue), List.of("3 again"), "left, ack up to 2");
  }

  private static void ackAll(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    Inbox.open(ch, queue).take(3);
    ch.raw.basicAck(0, true);
    Context.equal(MessageChecks.left(c, ch, queue), List.of(), "left after tag 0");
  }

  private static void nackRequeue(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    GetResponse first = Context.get(ch, queue);
    GetResponse second = Context.get(ch, queue);
    ch.raw.basicNack(Context.tag(first), false, true);
    Context.equal(Context.seen(Context.get(ch, queue)), "1 again", "back in its place");
    ch.raw.basicNack(Context.tag(second), false, false);
    Context.equal(MessageChecks.left(c, ch, queue), List.of("1 again", "3"), "left");
  }

  private static void nackMultiple(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    Context.get(ch, queue);
    GetResponse second = Context.get(ch, queue);
    Context.get(ch, queue);
    ch.raw.basicNack(Context.tag(second), true, true);
    List<String> expected = List.of("1 again", "2 again");
    Context.equal(Context.drain(ch, queue), expected, "returned, in order");
    ch.raw.basicNack(0, true, false);
    Context.equal(MessageChecks.left(c, ch, queue), List.of(), "left after a nack of all");
  }

  private static void reject(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    GetResponse first = Context.get(ch, queue);
    GetResponse second = Context.get(ch, queue);
    ch.raw.basicReject(Context.tag(first), false);
    ch.raw.basicReject(Context.tag(second), true);
    Context.equal(MessageChecks.left(c, ch, queue), List.of("2 again", "3"), "left");
  }

  private static void redelivered(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    Context.equal(Inbox.open(ch, queue).seen(3), List.of("1", "2", "3"), "the first time");
    Connection connection = c.connect();
    Inbox inbox = Inbox.open(Context.plain(connection), queue);
    ch.raw.close();
    Context.equal(inbox.seen(3), ALL_AGAIN, "after the channel closed");
    connection.close();
    Context.equal(Context.drain(c.channel(), queue), ALL_AGAIN, "after the connection closed");
  }

  private static void recover(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    Inbox inbox = Inbox.open(ch, queue);
    inbox.take(3);
    ch.raw.basicRecover(true);
    Context.equal(inbox.seen(3), ALL_AGAIN, "delivered again");
  }

  private static void unknownDeliveryTag(Context c) throws Exception {
    String text = "PRECONDITION_FAILED - unknown delivery tag ";
    Context.Ch first = c.channel();
    long tag = Context.tag(Context.get(first, MessageChecks.three(c, first)));
    first.raw.basicAck(tag, false);
    Context.refused(406, text + tag, first, () -> first.raw.basicAck(tag, false));
    Context.Ch second = c.channel();
    Context.refused(406, text + 82, second, () -> second.raw.basicNack(82, false, false));
    Context.Ch third = c.channel();
    Context.refused(406, text + 83, third, () -> third.raw.basicReject(83, false));
  }

  private static void get(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = MessageChecks.three(c, ch);
    for (int number = 1; number <= 3; number++) {
      GetResponse message = Context.get(ch, queue);
      Envelope found = message.getEnvelope();
      String fields = found.getDeliveryTag() + " " + message.getMessageCount() + " ";
      fields += found.getExchange() + " " + found.getRoutingKey() + " " + Context.seen(message);
      String expected = number + " " + (3 - number) + "  " + queue + " " + number;
      Context.equal(fields, expected, "get-ok");
    }
  }

  private static void getEmpty(Context c) throws Exception {
    Context.Ch ch = c.channel();
    Context.equal(ch.raw.basicGet(c.queue(ch), false), null, "get of an empty queue");
    String missing = c.name("q");
    String text = QueueChecks.noQueue(missing);
    Context.refused(404, text, ch, () -> ch.raw.basicGet(missing, false));
  }

  private static void cancel(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    Inbox inbox = Inbox.openAutoAck(ch, queue);
    Context.publish(ch, "", queue, "1");
    inbox.take(1);
    ch.raw.basicCancel(inbox.tag);
    Context.publish(c.channel(), "", queue, "2");
    Context.equal(inbox.settled(), 0, "deliveries after cancel-ok");
    Context.equal(Context.depth(ch, queue), "1 0", "the queue");
  }

  private static void consumerCancelNotify(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    Inbox inbox = Inbox.open(ch, queue);
    c.channel().raw.queueDelete(queue);
    inbox.takeCancel();
    ch.raw.queueDeclare("", false, true, false, null);
  }

  private static void consumerExclusive(Context c) throws Exception {
    Context.Ch owner = c.channel();
    String queue = c.queue(owner);
    Inbox inbox = Inbox.open(owner, queue, "", false, true, null);
    String text = "ACCESS_REFUSED - queue '" + queue + "' in vhost '/' in exclusive use";
    Context.Ch second = c.channel();
    Context.refused(403, text, second, () -> Inbox.open(second, queue));
    owner.raw.basicCancel(inbox.tag);
    Inbox.open(owner, queue);
    Context.Ch third = c.channel();
    Context.refused(403, text, third, () -> Inbox.open(third, queue, "", false, true, null));
  }

  private static void consumerPriority(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    Context.Ch consumers = c.channel();
    consumers.raw.basicQos(2);
    Inbox low = Inbox.open(consumers, queue);
    Inbox high = Inbox.open(consumers, queue, "", false, false, Map.of("x-priority", 10));
    for (String body : List.of("1", "2", "3", "4")) {
      Context.publish(ch, "", queue, body);
    }
    Context.equal(high.seen(2), List.of("1", "2"), "the higher priority has credit");
    Context.equal(low.seen(2), List.of("3", "4"), "the lower one gets the rest");
  }

  private static String five(Context c, Context.Ch ch) throws Exception {
    String queue = MessageChecks.three(c, ch);
    Context.publish(ch, "", queue, "4");
    Context.publish(ch, "", queue, "5");
    return queue;
  }

  private static void qosPerConsumer(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = five(c, ch);
    Context.Ch consumers = c.channel();
    consumers.raw.basicQos(2);
    Inbox first = Inbox.open(consumers, queue);
    List<Inbox.Message> taken = first.take(2);
    Context.equal(first.settled(), 0, "more than the prefetch count");
    consumers.raw.basicQos(1);
    Inbox second = Inbox.open(consumers, queue);
    Context.equal(second.seen(1), List.of("3"), "the second consumer's own limit");
    Context.equal(second.settled(), 0, "more than the second prefetch count");
    consumers.raw.basicAck(taken.get(0).envelope().getDeliveryTag(), false);
    Context.equal(first.seen(1), List.of("4"), "credit that came back");
    Context.equal(Context.depth(ch, queue), "1 2", "ready and consumers");
  }

  private static void qosGlobal(Context c) throws Exception {
    if (!c.property("platform").contains("Warren") && !c.olderThan(4, 3)) {
      String reason = "since 4.3 RabbitMQ takes a global limit as one for each consumer";
      throw new Context.Skipped(reason);
    }
    Context.Ch ch = c.channel();
    String queue = five(c, ch);
    Context.Ch consumers = c.channel();
    consumers.raw.basicQos(3, true);
    Inbox first = Inbox.open(consumers, queue);
    Inbox second = Inbox.open(consumers, queue);
    expectInAll(3, first, second);
    Inbox holder = first.count() > 0 ? first : second;
    consumers.raw.basicAck(holder.first().envelope().getDeliveryTag(), false);
    expectInAll(4, first, second);
  }

  private static void expectInAll(int count, Inbox first, Inbox second) throws Exception {
    long deadline = System.currentTimeMillis() + Context.WAIT_MS;
    while (first.settled() + second.count() < count) {
      boolean late = System.currentTimeMillis() > deadline;
      Context.ensure(!late, "waited " + Context.WAIT_MS + " ms for " + count + " deliveries");
    }
    first.settled();
    Context.equal(first.count() + second.count(), count, "deliveries to both consumers");
  }
}

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Connection;
import java.util.List;
import java.util.Map;
import java.util.UUID;

/** Declaring, deleting, purging and binding queues, with the exact texts of refusals. */
final class QueueChecks {
  static void register(Map<String, Suite.Check> checks) {
    checks.put("queue_declare", QueueChecks::declare);
    checks.put("queue_declare_passive", QueueChecks::declarePassive);
    checks.put("queue_passive_missing", QueueChecks::passiveMissing);
    checks.put("reply_text_truncated", QueueChecks::replyTextTruncated);
    checks.put("queue_inequivalent", QueueChecks::inequivalent);
    checks.put("queue_type_classic", QueueChecks::typeClassic);
    checks.put("queue_server_named", QueueChecks::serverNamed);
    checks.put("queue_reserved_name", QueueChecks::reservedName);
    checks.put("queue_exclusive_locked", QueueChecks::exclusiveLocked);
    checks.put("queue_exclusive_gone", QueueChecks::exclusiveGone);
    checks.put("queue_auto_delete", QueueChecks::autoDelete);
    checks.put("queue_purge_delete_counts", QueueChecks::purgeDeleteCounts);
    checks.put("queue_delete_if_unused", QueueChecks::deleteIfUnused);
    checks.put("queue_delete_if_empty", QueueChecks::deleteIfEmpty);
    checks.put("queue_bind_unbind", QueueChecks::bindUnbind);
    checks.put("queue_bind_missing", QueueChecks::bindMissing);
  }

  static String noQueue(String name) {
    return "NOT_FOUND - no queue '" + name + "' in vhost '/'";
  }

  static String noExchange(String name) {
    return "NOT_FOUND - no exchange '" + name + "' in vhost '/'";
  }

  private static void declare(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String name = c.declared(c.name("q"));
    for (int round = 0; round < 2; round++) {
      AMQP.Queue.DeclareOk ok = ch.raw.queueDeclare(name, true, false, false, null);
      String found = ok.getQueue() + " " + ok.getMessageCount() + " " + ok.getConsumerCount();
      Context.equal(found, name + " " + round + " 0", "declare-ok");
      Context.publish(ch, "", name, "");
    }
  }

  private static void declarePassive(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    Context.equal(Context.depth(ch, queue), "0 0", "an empty queue");
    Context.publish(ch, "", queue, "");
    Context.publish(ch, "", queue, "");
    Context.equal(Context.depth(ch, queue), "2 0", "with two messages");
    Context.Ch consumer = c.channel();
    consumer.raw.basicQos(1);
    Inbox.open(consumer, queue).take(1);
    Context.equal(Context.depth(ch, queue), "1 1", "ready messages and consumers");
  }

  private static void passiveMissing(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String name = c.name("q");
    Context.refused(404, noQueue(name), ch, () -> ch.raw.queueDeclarePassive(name));
  }

  private static void replyTextTruncated(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String name = "n".repeat(255);
    String text = noQueue(name).substring(0, 252) + "...";
    Context.refused(404, text, ch, () -> ch.raw.queueDeclarePassive(name));
  }

  private static void inequivalent(Context c) throws Exception {
    String queue = c.queue(c.channel());
    String text =
        "PRECONDITION_FAILED - inequivalent arg '%s' for queue '%s' in vhost '/': "
            + "received '%s' but current is '%s'";
    Context.Ch ch = c.channel();
    String durable = String.format(text, "durable", queue, "false", "true");
    Context.refused(406, durable, ch, () -> ch.raw.queueDeclare(queue, false, false, false, null));
    Context.Ch other = c.channel();
    String autoDelete = String.format(text, "auto_delete", queue, "true", "false");
    Context.refused(
        406, autoDelete, other, () -> other.raw.queueDeclare(queue, true, false, true, null));
  }

  private static void typeClassic(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String name = c.declared(c.name("q"));
    Map<String, Object> classic = Map.of("x-queue-type", "classic");
    Map<String, Object> unknown = Map.of("x-no-such-argument", List.of(1, Map.of("a", "b")));
    for (Map<String, Object> arguments : List.of(classic, classic, unknown)) {
      ch.raw.queueDeclare(name, true, false, false, arguments);
    }
  }

  private static void serverNamed(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String first = ch.raw.queueDeclare("", false, true, false, null).getQueue();
    String second = ch.raw.queueDeclare("", false, true, false, null).getQueue();
    Context.ensure(first.startsWith("amq.gen-") && first.length() > 16, first);
    Context.ensure(!first.equals(second), "the same name twice");
    Context.depth(ch, first);
  }

  private static void reservedName(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String name = "amq.conformance";
    String text = "ACCESS_REFUSED - queue name 'amq.conformance' contains reserved prefix 'amq.*'";
    Context.refused(403, text, ch, () -> ch.raw.queueDeclare(name, true, false, false, null));
  }

  private static void exclusiveLocked(Context c) throws Exception {
    Context.Ch ch = c.channel();
    // Short: a longer text would be cut off.
    String queue = UUID.randomUUID().toString();
    ch.raw.queueDeclare(queue, false, true, false, null);
    String text =
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '" + queue
            + "' in vhost '/'. It could be originally declared on another connection or the "
            + "exclusive property value does not match that of the original declaration.";
    Connection connection = c.connect();
    Context.Ch first = Context.plain(connection);
    Context.refused(405, text, first, () -> first.raw.queueDeclare(queue, false, true, false, null));
    Context.Ch second = Context.plain(connection);
    Context.refused(405, text, second, () -> second.raw.basicGet(queue, true));
    Context.Ch third = Context.plain(connection);
    Context.refused(405, text, third, () -> Inbox.open(third, queue));
    Context.Ch fourth = Context.plain(connection);
    Context.refused(405, text, fourth, () -> fourth.raw.queueDelete(queue));
    Context.equal(Context.depth(ch, queue), "0 0", "for its own connection");
  }

  private static void exclusiveGone(Context c) throws Exception {
    Connection owner = c.connect();
    String queue = c.name("q");
    owner.createChannel().queueDeclare(queue, false, true, false, null);
    owner.close();
    Context.Ch ch = c.channel();
    Context.refused(404, noQueue(queue), ch, () -> ch.raw.queueDeclarePassive(queue));
  }

  private static void autoDelete(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.declared(c.name("q"));
    ch.raw.queueDeclare(queue, true, false, true, null);
    Context.publish(ch, "", queue, "");
    Context.equal(Context.depth(ch, queue), "1 0", "before it ever had a consumer");
    Inbox first = Inbox.openAutoAck(ch, queue);
    Inbox second = Inbox.openAutoAck(ch, queue);
    ch.raw.basicCancel(first.tag);
    Context.equal(Context.depth(ch, queue), "0 1", "with one consumer left");
    ch.raw.basicCancel(second.tag);
    Context.refused(404, noQueue(queue), ch, () -> ch.raw.queueDeclarePassive(queue));
  }

  private static void purgeDeleteCounts(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    for (int number = 0; number < 3; number++) {
      Context.publish(ch, "", queue, "");
    }
    Context.get(ch, queue);
    Context.equal(ch.raw.queuePurge(queue).getMessageCount(), 2, "purged (one is out)");
    Context.publish(ch, "", queue, "");
    Context.equal(ch.raw.queueDelete(queue).getMessageCount(), 1, "messages in delete-ok");
    Context.equal(ch.raw.queueDelete(queue).getMessageCount(), 0, "delete of a missing queue");
  }

  private static void deleteIfUnused(Context c) throws Exception {
    Context.Ch ch = c.channel();
    Context.Ch other = c.channel();
    String queue = c.queue(ch);
    Inbox inbox = Inbox.open(ch, queue);
    String text = "PRECONDITION_FAILED - queue '" + queue + "' in vhost '/' in use";
    Context.refused(406, text, other, () -> other.raw.queueDelete(queue, true, false));
    ch.raw.basicCancel(inbox.tag);
    ch.raw.queueDelete(queue, true, false);
  }

  private static void deleteIfEmpty(Context c) throws Exception {
    Context.Ch ch = c.channel();
    Context.Ch other = c.channel();
    String queue = c.queue(ch);
    Context.publish(ch, "", queue, "");
    String text = "PRECONDITION_FAILED - queue '" + queue + "' in vhost '/' not empty";
    Context.refused(406, text, other, () -> other.raw.queueDelete(queue, false, true));
    Context.drain(ch, queue);
    ch.raw.queueDelete(queue, false, true);
  }

  private static void bindUnbind(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    Map<String, Object> arguments = Map.of("k", 1);
    ch.raw.queueBind(queue, "amq.direct", queue);
    ch.raw.queueBind(queue, "amq.direct", queue);
    Context.publish(ch, "amq.direct", queue, "once");
    Context.equal(Context.drain(ch, queue), List.of("once"), "a duplicate binding");
    ch.raw.queueBind(queue, "amq.direct", queue, arguments);
    Context.publish(ch, "amq.direct", queue, "once");
    Context.equal(Context.drain(ch, queue), List.of("once"), "two bindings of one queue");
    ch.raw.queueUnbind(queue, "amq.direct", queue);
    Context.publish(ch, "amq.direct", queue, "other");
    Context.equal(Context.drain(ch, queue), List.of("other"), "the one with arguments stays");
    ch.raw.queueUnbind(queue, "amq.direct", queue, arguments);
    Context.publish(ch, "amq.direct", queue, "none");
    Context.equal(Context.drain(ch, queue), List.of(), "after unbind");
    ch.raw.queueUnbind(queue, "amq.direct", queue);
  }

  private static void bindMissing(Context c) throws Exception {
    Context.Ch first = c.channel();
    Context.Ch second = c.channel();
    String queue = c.queue(first);
    String missing = c.name("q");
    Context.refused(404, noExchange(missing), first, () -> first.raw.queueBind(queue, missing, ""));
    Context.refused(
        404, noQueue(missing), second, () -> second.raw.queueBind(missing, "amq.direct", ""));
  }
}

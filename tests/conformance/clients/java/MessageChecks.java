import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.LongString;
import com.rabbitmq.client.MessageProperties;
import com.rabbitmq.client.Return;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

/** Publishing, bodies, properties, transactions. */
final class MessageChecks {
  static final String REPLY_TO = "amq.rabbitmq.reply-to";

  static void register(Map<String, Suite.Check> checks) {
    checks.put("publish_confirm", MessageChecks::publishConfirm);
    checks.put("publish_missing_exchange", MessageChecks::publishMissingExchange);
    checks.put("publish_immediate", MessageChecks::publishImmediate);
    checks.put("mandatory_return", MessageChecks::mandatoryReturn);
    checks.put("body_large", MessageChecks::bodyLarge);
    checks.put("body_empty", MessageChecks::bodyEmpty);
    checks.put("body_frame_boundaries", MessageChecks::bodyFrameBoundaries);
    checks.put("properties_all", MessageChecks::propertiesAll);
    checks.put("expiration_expires", MessageChecks::expirationExpires);
    checks.put("header_types", MessageChecks::headerTypes);
    checks.put("user_id_mismatch", MessageChecks::userIdMismatch);
    checks.put("direct_reply_to", MessageChecks::directReplyTo);
    checks.put("direct_reply_to_refusals", MessageChecks::directReplyToRefusals);
    checks.put("tx_publish", MessageChecks::txPublish);
    checks.put("tx_ack", MessageChecks::txAck);
    checks.put("tx_refusals", MessageChecks::txRefusals);
  }

  /** A queue with the messages 1, 2 and 3. */
  static String three(Context c, Context.Ch ch) throws Exception {
    String queue = c.queue(ch);
    for (String body : List.of("1", "2", "3")) {
      publishPersistent(ch, queue, Context.bytes(body));
    }
    return queue;
  }

  static void publishPersistent(Context.Ch ch, String queue, byte[] body) throws Exception {
    Context.publish(ch, "", queue, false, MessageProperties.MINIMAL_PERSISTENT_BASIC, body);
  }

  /** Closes the channel that holds messages and gives what is then in the queue, in order. */
  static List<String> left(Context c, Context.Ch ch, String queue) throws Exception {
    ch.raw.close();
    return Context.drain(c.channel(), queue);
  }

  private static void publishConfirm(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    List<String> bodies = IntStream.range(0, 100).mapToObj(String::valueOf).toList();
    for (String body : bodies) {
      BasicProperties persistent = MessageProperties.MINIMAL_PERSISTENT_BASIC;
      ch.raw.basicPublish("", queue, persistent, Context.bytes(body));
    }
    ch.raw.waitForConfirmsOrDie(Context.WAIT_MS);
    Context.equal(Context.depth(ch, queue), "100 0", "messages once all are confirmed");
    Context.equal(Context.drain(ch, queue), bodies, "order");
  }

  private static void publishMissingExchange(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String missing = c.name("x");
    Context.refused(
        404, QueueChecks.noExchange(missing), ch,
        () -> ch.raw.basicPublish(missing, "key", null, new byte[0]));
  }

  private static void publishImmediate(Context c) throws Exception {
    Connection connection = c.connect();
    Channel channel = connection.createChannel();
    Context.refused(
        540, "NOT_IMPLEMENTED - immediate=true", Context.closed(connection),
        () -> channel.basicPublish("", "key", false, true, null, new byte[0]));
  }

  private static void mandatoryReturn(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String missing = c.name("q");
    List<Object> events = new ArrayList<>(); // both listeners run on the connection's one thread
    List<Return> returns = new ArrayList<>();
    ch.raw.addReturnListener(
        (Return returned) -> {
          events.add("return");
          returns.add(returned);
        });
    ch.raw.addConfirmListener((tag, multiple) -> events.add("ack"), (tag, multiple) -> {});
    BasicProperties typed = new BasicProperties.Builder().type("t").build();
    Context.publish(ch, "", missing, true, typed, Context.bytes("back"));
    Context.equal(returns.size(), 1, "returns");
    Return found = returns.get(0);
    String fields = found.getReplyCode() + " " + found.getReplyText() + " " + found.getRoutingKey();
    Context.equal(fields, "312 NO_ROUTE " + missing, "basic.return");
    String content = Context.text(found.getBody()) + " " + found.getProperties().getType();
    Context.equal(content, "back t", "its content");
    Context.publish(ch, "", missing, "gone");
    Context.publish(ch, "", c.queue(ch), true, null, Context.bytes("here"));
    Context.equal(events.subList(0, 2), List.of("return", "ack"), "order");
    Context.equal(returns.size(), 1, "returns after a routed message");
  }

  private static void roundTrip(Context c, byte[] body) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    publishPersistent(ch, queue, body);
    byte[] found = Context.get(ch, queue).getBody();
    Context.ensure(Arrays.equals(found, body), found.length + " bytes differ from " + body.length);
    Inbox inbox = Inbox.openAutoAck(ch, queue);
    Context.publish(ch, "", queue, false, null, body);
    Context.ensure(Arrays.equals(inbox.take(1).get(0).body(), body), "the delivered body differs");
  }

  private static void bodyLarge(Context c) throws Exception {
    byte[] body = new byte[10 * 1024 * 1024];
    for (int index = 0; index < body.length; index++) {
      body[index] = (byte) index;
    }
    roundTrip(c, body);
  }

  private static void bodyEmpty(Context c) throws Exception {
    roundTrip(c, new byte[0]);
  }

  private static void bodyFrameBoundaries(Context c) throws Exception {
    int frame = c.main().getFrameMax() - 8;
    for (int size : new int[] {frame - 1, frame, frame + 1, 2 * frame, 2 * frame + 1}) {
      roundTrip(c, new byte[size]);
    }
  }

  private static void propertiesAll(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    BasicProperties sent =
        new BasicProperties.Builder()
            .contentType("text/plain").contentEncoding("utf-8").headers(Map.of("h", "v"))
            .deliveryMode(2).priority(7).correlationId("correlation").replyTo("reply")
            .expiration("60000").messageId("id").timestamp(new Date(1_700_000_000_000L))
            .type("type").userId(Context.factory().getUsername()).appId("app").clusterId("cluster")
            .build();
    Context.publish(ch, "", queue, false, sent, Context.bytes("x"));
    Context.equal(Context.get(ch, queue).getProps().toString(), sent.toString(), "properties");
    BasicProperties none = new BasicProperties();
    Context.publish(ch, "", queue, false, none, Context.bytes("x"));
    Context.equal(Context.get(ch, queue).getProps(), none, "no properties");
  }

  private static void expirationExpires(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    BasicProperties brief = new BasicProperties.Builder().expiration("50").build();
    Context.publish(ch, "", queue, false, brief, Context.bytes("short"));
    BasicProperties lasting = new BasicProperties.Builder().expiration("60000").build();
    Context.publish(ch, "", queue, false, lasting, Context.bytes("long"));
    long deadline = System.nanoTime() + Context.WAIT_MS * 1_000_000L;
    while (!Context.depth(ch, queue).equals("1 0")) {
      Context.ensure(System.nanoTime() < deadline, "the first message has not expired");
    }
    Context.equal(Context.drain(ch, queue), List.of("long"), "what lives longer");
  }

  private static void headerTypes(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    Map<String, Object> headers = new HashMap<>();
    headers.put("string", "longstr \u00e4\u20ac");
    headers.put("empty", "");
    headers.put("bytes", new byte[] {0, -1, -2});
    headers.put("true", true);
    headers.put("false", false);
    headers.put("void", null);
    headers.put("int8", Byte.MIN_VALUE);
    headers.put("int16", Short.MIN_VALUE);
    headers.put("int32", Integer.MIN_VALUE);
    headers.put("int64", Long.MAX_VALUE);
    headers.put("float", 0.5f);
    headers.put("double", 123.456);
    headers.put("decimal", new BigDecimal("123.45"));
    headers.put("time", new Date(1_700_000_000_000L));
    List<Object> list = Arrays.asList(1, "two", List.of(3, Map.of("four", 4)), null, true);
    headers.put("nested", Map.of("list", list, "table", Map.of("deep", Map.of("er", "x"))));
    BasicProperties properties = new BasicProperties.Builder().headers(headers).build();
    Context.publish(ch, "", queue, false, properties, Context.bytes("x"));
    Map<String, Object> found = Context.get(ch, queue).getProps().getHeaders();
    Context.equal(found.keySet(), headers.keySet(), "keys");
    for (Map.Entry<String, Object> entry : headers.entrySet()) {
      Context.equal(plain(found.get(entry.getKey())), plain(entry.getValue()), entry.getKey());
    }
  }

  /** The value with every string of the client's own kind made an ordinary one. */
  private static Object plain(Object value) {
    if (value instanceof LongString text) {
      return text.toString();
    }
    if (value instanceof List<?> list) {
      return list.stream().map(MessageChecks::plain).toList();
    }
    if (value instanceof Map<?, ?> map) {
      Map<Object, Object> copy = new HashMap<>();
      map.forEach((key, inner) -> copy.put(key, plain(inner)));
      return copy;
    }
    return value;
  }

  private static void userIdMismatch(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    String text =
        "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was '"
            + Context.factory().getUsername() + "'";
    BasicProperties properties = new BasicProperties.Builder().userId("somebody").build();
    Context.refused(406, text, ch, () -> ch.raw.basicPublish("", queue, properties, new byte[0]));
  }

  private static void directReplyTo(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    Inbox replies = Inbox.openAutoAck(ch, REPLY_TO);
    BasicProperties ask =
        new BasicProperties.Builder().replyTo(REPLY_TO).correlationId("7").build();
    Context.publish(ch, "", queue, false, ask, Context.bytes("question"));
    Context.Ch server = Context.confirming(Context.plain(c.connect()));
    GetResponse question = Context.get(server, queue);
    String replyTo = question.getProps().getReplyTo();
    Context.ensure(replyTo.startsWith(REPLY_TO + "."), replyTo);
    BasicProperties answer = new BasicProperties.Builder().correlationId("7").build();
    Context.publish(server, "", replyTo, false, answer, Context.bytes("answer"));
    Inbox.Message reply = replies.take(1).get(0);
    String found = reply.text() + " " + reply.properties().getCorrelationId();
    Context.equal(found, "answer 7", "reply");
    Context.equal(reply.envelope().getExchange(), "", "exchange of the reply");
  }

  private static void directReplyToRefusals(Context c) throws Exception {
    Context.Ch first = c.channel();
    Context.refused(
        406, "PRECONDITION_FAILED - reply consumer cannot acknowledge", first,
        () -> Inbox.open(first, REPLY_TO));
    Context.Ch second = c.channel();
    String queue = c.queue(second);
    BasicProperties ask = new BasicProperties.Builder().replyTo(REPLY_TO).build();
    Context.refused(
        406, "PRECONDITION_FAILED - fast reply consumer does not exist", second,
        () -> second.raw.basicPublish("", queue, ask, new byte[0]));
  }

  private static void txPublish(Context c) throws Exception {
    Context.Ch ch = Context.plain(c.main());
    Context.Ch other = c.channel();
    String queue = c.queue(ch);
    ch.raw.txSelect();
    ch.raw.basicPublish("", queue, null, Context.bytes("rolled back"));
    ch.raw.txRollback();
    ch.raw.basicPublish("", queue, null, Context.bytes("1"));
    ch.raw.basicPublish("", queue, null, Context.bytes("2"));
    Context.equal(Context.depth(other, queue), "0 0", "before the commit");
    ch.raw.txCommit();
    Context.equal(Context.drain(other, queue), List.of("1", "2"), "after the commit");
  }

  private static void txAck(Context c) throws Exception {
    Context.Ch ch = Context.plain(c.main());
    String queue = three(c, c.channel());
    ch.raw.txSelect();
    long[] tags = new long[3];
    for (int index = 0; index < 3; index++) {
      tags[index] = Context.tag(Context.get(ch, queue));
    }
    ch.raw.basicAck(tags[0], false);
    ch.raw.txRollback();
    ch.raw.basicAck(tags[1], false);
    ch.raw.txCommit();
    ch.raw.basicAck(tags[2], false);
    List<String> expected = List.of("1 again", "3 again");
    Context.equal(left(c, ch, queue), expected, "only the committed ack counts");
  }

  private static void txRefusals(Context c) throws Exception {
    String text = "PRECONDITION_FAILED - channel is not transactional";
    Context.Ch first = Context.plain(c.main());
    Context.refused(406, text, first, () -> first.raw.txCommit());
    Context.Ch second = Context.plain(c.main());
    Context.refused(406, text, second, () -> second.raw.txRollback());
    Context.Ch third = Context.plain(c.main());
    third.raw.txSelect();
    text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    Context.refused(406, text, third, () -> third.raw.confirmSelect());
    Context.Ch fourth = c.channel();
    text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    Context.refused(406, text, fourth, () -> fourth.raw.txSelect());
  }
}

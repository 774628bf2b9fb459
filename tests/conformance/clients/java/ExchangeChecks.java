import com.rabbitmq.client.AMQP.BasicProperties;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Exchanges: kinds, what they route, and what may not be done to them. */
final class ExchangeChecks {
  static void register(Map<String, Suite.Check> checks) {
    checks.put("exchange_default", ExchangeChecks::defaultExchange);
    checks.put("exchange_direct", ExchangeChecks::direct);
    checks.put("exchange_fanout", ExchangeChecks::fanout);
    checks.put("exchange_topic", ExchangeChecks::topic);
    checks.put("exchange_headers", ExchangeChecks::headers);
    checks.put("exchange_headers_with_x", ExchangeChecks::headersWithX);
    checks.put("exchange_headers_bad_match", ExchangeChecks::headersBadMatch);
    checks.put("exchange_to_exchange", ExchangeChecks::exchangeToExchange);
    checks.put("alternate_exchange", ExchangeChecks::alternateExchange);
    checks.put("cc_bcc", ExchangeChecks::ccBcc);
    checks.put("cc_not_an_array", ExchangeChecks::ccNotAnArray);
    checks.put("exchange_internal", ExchangeChecks::internal);
    checks.put("exchange_auto_delete", ExchangeChecks::autoDelete);
    checks.put("exchange_inequivalent", ExchangeChecks::inequivalent);
    checks.put("exchange_passive", ExchangeChecks::passive);
    checks.put("exchange_predeclared", ExchangeChecks::predeclared);
    checks.put("exchange_reserved_name", ExchangeChecks::reservedName);
    checks.put("exchange_default_forbidden", ExchangeChecks::defaultForbidden);
    checks.put("exchange_delete", ExchangeChecks::delete);
  }

  private static String bound(
      Context c, Context.Ch ch, String exchange, String key, Map<String, Object> arguments)
      throws Exception {
    String queue = c.queue(ch);
    ch.raw.queueBind(queue, exchange, key, arguments);
    return queue;
  }

  /** A table from keys and values in turn; null values allowed. */
  private static Map<String, Object> table(Object... pairs) {
    Map<String, Object> table = new HashMap<>();
    for (int index = 0; index < pairs.length; index += 2) {
      table.put((String) pairs[index], pairs[index + 1]);
    }
    return table;
  }

  private static void defaultExchange(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    Context.publish(ch, "", queue, "by name");
    Context.equal(Context.drain(ch, queue), List.of("by name"), "through the default exchange");
  }

  private static void direct(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String exchange = c.exchange(ch, "direct");
    Map<String, String> queues = new HashMap<>();
    queues.put("a", bound(c, ch, exchange, "a", null));
    queues.put("a too", bound(c, ch, exchange, "a", null));
    queues.put("b", bound(c, ch, exchange, "b", null));
    List<String> both = List.of("a", "a too");
    Context.equal(Context.routed(ch, exchange, "a", queues, null), both, "key a");
    Context.equal(Context.routed(ch, exchange, "b", queues, null), List.of("b"), "key b");
    Context.equal(Context.routed(ch, exchange, "c", queues, null), List.of(), "key c");
  }

  private static void fanout(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String exchange = c.exchange(ch, "fanout", true, false, false, null);
    Map<String, String> queues = new HashMap<>();
    for (String key : List.of("x", "", "y")) {
      queues.put(key, bound(c, ch, exchange, key, null));
    }
    List<String> all = List.of("", "x", "y");
    Context.equal(Context.routed(ch, exchange, "whatever", queues, null), all, "fanout");
  }

  private static void topic(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String exchange = c.exchange(ch, "topic");
    Map<String, String> queues = new HashMap<>();
    String patterns = "#,*,a.*,a.#,*.b,#.c,a.*.c,a.#.c,a.b.c,*.*,";
    for (String pattern : patterns.split(",", -1)) {
      queues.put(pattern, bound(c, ch, exchange, pattern, null));
    }
    Map<String, String> cases = new LinkedHashMap<>();
    cases.put("", ",#");
    cases.put("a", "#,*,a.#");
    cases.put("a.b", "#,*.*,*.b,a.#,a.*");
    cases.put("a.b.c", "#,#.c,a.#,a.#.c,a.*.c,a.b.c");
    cases.put("a.c", "#,#.c,*.*,a.#,a.#.c,a.*");
    cases.put("a.b.d.c", "#,#.c,a.#,a.#.c");
    cases.put("a..c", "#,#.c,a.#,a.#.c,a.*.c");
    cases.put("c", "#,#.c,*");
    cases.put("x.y", "#,*.*");
    for (Map.Entry<String, String> one : cases.entrySet()) {
      List<String> expected = Context.sorted(one.getValue().split(",", -1));
      String key = one.getKey();
      Context.equal(Context.routed(ch, exchange, key, queues, null), expected, "key " + key);
    }
  }

  /** Bindings by label; then headers and, at the same place, the labels that they reach. */
  private static void headersRoutes(
      Context c, Map<String, Map<String, Object>> bindings, List<Map<String, Object>> messages,
      List<List<String>> reached)
      throws Exception {
    Context.Ch ch = c.channel();
    String exchange = c.exchange(ch, "headers");
    Map<String, String> queues = new HashMap<>();
    for (Map.Entry<String, Map<String, Object>> entry : bindings.entrySet()) {
      queues.put(entry.getKey(), bound(c, ch, exchange, "", entry.getValue()));
    }
    for (int index = 0; index < messages.size(); index++) {
      List<String> found = Context.routed(ch, exchange, "", queues, messages.get(index));
      Context.equal(found, reached.get(index), String.valueOf(messages.get(index)));
    }
  }

  private static void headers(Context c) throws Exception {
    headersRoutes(
        c,
        Map.of(
            "default", table("a", 1, "b", "two"),
            "all", table("x-match", "all", "a", 1, "b", "two"),
            "any", table("x-match", "any", "a", 1, "b", "two"),
            "present", table("x-match", "all", "a", null),
            "skips x-", table("x-match", "all", "a", 1, "x-k", "no")),
        Arrays.asList(
            table("a", 1, "b", "two"), table("a", 1), table("a", "1"), table("b", "two", "z", true),
            table("a", 1, "b", "three", "x-k", "no"), table(), null),
        List.of(
            List.of("all", "any", "default", "present", "skips x-"),
            List.of("any", "present", "skips x-"), List.of("present"), List.of("any"),
            List.of("any", "present", "skips x-"), List.of(), List.of()));
  }

  private static void headersWithX(Context c) throws Exception {
    c.since(3, 10, "x-match forms all-with-x and any-with-x");
    headersRoutes(
        c,
        Map.of(
            "all", table("x-match", "all-with-x", "a", 1, "x-k", "yes"),
            "any", table("x-match", "any-with-x", "a", 1, "x-k", "yes"),
            "plain any", table("x-match", "any", "a", 1, "x-k", "yes")),
        List.of(
            table("a", 1, "x-k", "yes"), table("x-k", "yes"), table("a", 1),
            table("a", 2, "x-k", "no")),
        List.of(
            List.of("all", "any", "plain any"), List.of("any"), List.of("any", "plain any"),
            List.of()));
  }

  private static void headersBadMatch(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String queue = c.queue(ch);
    String text =
        "PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; "
            + "expected all, any, all-with-x, or any-with-x";
    Map<String, Object> arguments = table("x-match", "some");
    Context.refused(406, text, ch, () -> ch.raw.queueBind(queue, "amq.headers", "", arguments));
  }

  private static void exchangeToExchange(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String source = c.exchange(ch, "topic");
    String target = c.exchange(ch, "fanout");
    String queue = bound(c, ch, target, "", null);
    Map<String, String> queues = Map.of("q", queue);
    List<String> once = List.of("q");
    ch.raw.queueBind(queue, source, "a.#");
    ch.raw.exchangeBind(target, source, "a.*");
    Context.equal(Context.routed(ch, source, "a.b", queues, null), once, "two ways to one queue");
    ch.raw.queueUnbind(queue, source, "a.#");
    Context.equal(Context.routed(ch, source, "a.b", queues, null), once, "through the second");
    ch.raw.exchangeBind(source, target, "a.b");
    Context.equal(Context.routed(ch, source, "a.b", queues, null), once, "round in a circle");
    ch.raw.exchangeUnbind(target, source, "a.*");
    Context.equal(Context.routed(ch, source, "a.b", queues, null), List.of(), "after unbind");
  }

  private static void alternateExchange(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String spare = c.exchange(ch, "fanout");
    Map<String, Object> arguments = Map.of("alternate-exchange", spare);
    String main = c.exchange(ch, "direct", false, false, false, arguments);
    Map<String, String> queues = new HashMap<>();
    queues.put("spare", bound(c, ch, spare, "", null));
    queues.put("main", bound(c, ch, main, "key", null));
    Context.equal(Context.routed(ch, main, "key", queues, null), List.of("main"), "routed");
    Context.equal(Context.routed(ch, main, "other", queues, null), List.of("spare"), "not routed");
    List<Object> returns = new ArrayList<>();
    ch.raw.addReturnListener(returned -> returns.add(returned));
    Context.publish(ch, main, "other", true, null, new byte[0]);
    Context.equal(returns, List.of(), "mandatory is satisfied by the alternate");
  }

  private static void ccBcc(Context c) throws Exception {
    Context.Ch ch = c.channel();
    Map<String, String> queues = new HashMap<>();
    for (String label : List.of("to", "cc", "bcc")) {
      queues.put(label, c.queue(ch));
    }
    String to = queues.get("to");
    List<String> copies = List.of(queues.get("cc"), to);
    Map<String, Object> headers = Map.of("CC", copies, "BCC", List.of(queues.get("bcc")), "k", "v");
    List<String> all = List.of("bcc", "cc", "to");
    Context.equal(Context.routed(ch, "", to, queues, headers), all, "once each");
    BasicProperties properties = new BasicProperties.Builder().headers(headers).build();
    Context.publish(ch, "", to, false, properties, new byte[0]);
    for (Map.Entry<String, String> entry : queues.entrySet()) {
      Map<String, Object> found = Context.get(ch, entry.getValue()).getProps().getHeaders();
      Context.equal(found.keySet(), java.util.Set.of("CC", "k"), "headers at " + entry.getKey());
      Context.equal(found.get("CC").toString(), copies.toString(), "CC at " + entry.getKey());
    }
  }

  private static void ccNotAnArray(Context c) throws Exception {
    Context.Ch ch = c.channel();
    BasicProperties properties =
        new BasicProperties.Builder().headers(Map.of("CC", "queue")).build();
    String found =
        Context.closeReason(
            ch.closed, () -> ch.raw.basicPublish("", "x", properties, new byte[0]));
    String start = "406 PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,";
    Context.ensure(found.startsWith(start), found);
  }

  private static void internal(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String internal = c.exchange(ch, "fanout", false, false, true, null);
    String source = c.exchange(ch, "fanout");
    ch.raw.exchangeBind(internal, source, "");
    Map<String, String> queues = Map.of("q", bound(c, ch, internal, "", null));
    Context.equal(Context.routed(ch, source, "", queues, null), List.of("q"), "through another");
    String text =
        "ACCESS_REFUSED - cannot publish to internal exchange '" + internal + "' in vhost '/'";
    Context.refused(403, text, ch, () -> ch.raw.basicPublish(internal, "", null, new byte[0]));
  }

  private static void autoDelete(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String exchange = c.exchange(ch, "direct", false, true, false, null);
    ch.raw.exchangeDeclarePassive(exchange);
    String queue = bound(c, ch, exchange, "a", null);
    ch.raw.queueBind(queue, exchange, "b");
    ch.raw.queueUnbind(queue, exchange, "a");
    ch.raw.exchangeDeclarePassive(exchange);
    ch.raw.queueUnbind(queue, exchange, "b");
    String text = QueueChecks.noExchange(exchange);
    Context.refused(404, text, ch, () -> ch.raw.exchangeDeclarePassive(exchange));
  }

  private static void inequivalent(Context c) throws Exception {
    String exchange = c.exchange(c.channel(), "direct", true, false, false, null);
    c.channel().raw.exchangeDeclare(exchange, "direct", true);
    declareRefused(c, exchange, "type", "'fanout'", "'direct'", "fanout", true, false, false, null);
    declareRefused(c, exchange, "durable", "'false'", "'true'", "direct", false, false, false, null);
    declareRefused(
        c, exchange, "auto_delete", "'true'", "'false'", "direct", true, true, false, null);
    declareRefused(c, exchange, "internal", "'true'", "'false'", "direct", true, false, true, null);
    declareRefused(
        c, exchange, "alternate-exchange", "the value 'spare' of type 'longstr'", "none", "direct",
        true, false, false, Map.of("alternate-exchange", "spare"));
  }

  private static void declareRefused(
      Context c, String exchange, String key, String received, String current, String kind,
      boolean durable, boolean autoDelete, boolean internal, Map<String, Object> arguments)
      throws Exception {
    String text =
        String.format(
            "PRECONDITION_FAILED - inequivalent arg '%s' for exchange '%s' in vhost '/': "
                + "received %s but current is %s",
            key, exchange, received, current);
    Context.Ch ch = c.channel();
    Context.refused(
        406, text, ch,
        () -> ch.raw.exchangeDeclare(exchange, kind, durable, autoDelete, internal, arguments));
  }

  private static void passive(Context c) throws Exception {
    Context.Ch ch = c.channel();
    ch.raw.exchangeDeclarePassive("amq.topic");
    String missing = c.name("x");
    String text = QueueChecks.noExchange(missing);
    Context.refused(404, text, ch, () -> ch.raw.exchangeDeclarePassive(missing));
  }

  private static void predeclared(Context c) throws Exception {
    Context.Ch ch = c.channel();
    for (String kind : List.of("direct", "fanout", "topic", "headers")) {
      ch.raw.exchangeDeclare("amq." + kind, kind, true);
    }
    ch.raw.exchangeDeclare("amq.match", "headers", true);
  }

  private static void reservedName(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String text =
        "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'";
    Context.refused(403, text, ch, () -> ch.raw.exchangeDeclare("amq.conformance", "direct", true));
  }

  private static void defaultForbidden(Context c) throws Exception {
    String queue = c.queue(c.channel());
    String text = "ACCESS_REFUSED - operation not permitted on the default exchange";
    Context.Ch first = c.channel();
    Context.refused(403, text, first, () -> first.raw.queueBind(queue, "", "k"));
    Context.Ch second = c.channel();
    Context.refused(403, text, second, () -> second.raw.queueUnbind(queue, "", queue));
    Context.Ch third = c.channel();
    Context.refused(403, text, third, () -> third.raw.exchangeDelete(""));
    Context.Ch fourth = c.channel();
    Context.refused(403, text, fourth, () -> fourth.raw.exchangeDeclare("", "direct", true));
  }

  private static void delete(Context c) throws Exception {
    Context.Ch ch = c.channel();
    String exchange = c.exchange(ch, "direct");
    String queue = bound(c, ch, exchange, "k", null);
    Context.Ch other = c.channel();
    String inUse = "PRECONDITION_FAILED - exchange '" + exchange + "' in vhost '/' in use";
    Context.refused(406, inUse, other, () -> other.raw.exchangeDelete(exchange, true));
    ch.raw.queueUnbind(queue, exchange, "k");
    ch.raw.exchangeDelete(exchange, true);
    ch.raw.exchangeDelete(exchange);
    Context.equal(Context.depth(ch, queue), "0 0", "the queue stays");
    Context.Ch third = c.channel();
    String system =
        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed";
    Context.refused(403, system, third, () -> third.raw.exchangeDelete("amq.direct"));
  }
}

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.ShutdownSignalException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * What every check uses: connections, unique names, waits with a name, clean-up.
 *
 * <p>Every call to the broker has the client's own limit ({@link #WAIT_MS}); nothing waits for ever.
 */
final class Context {
  static final int WAIT_MS = 8_000;

  /** The broker is older than the behaviour that the check expects. */
  static final class Skipped extends RuntimeException {
    Skipped(String reason) {
      super(reason);
    }
  }

  interface Action {
    void run() throws Exception;
  }

  interface Configure {
    void apply(ConnectionFactory factory);
  }

  /** A channel with the reason of its closing at hand. */
  static final class Ch {
    final Channel raw;
    final BlockingQueue<ShutdownSignalException> closed = new LinkedBlockingQueue<>();

    Ch(Channel raw) {
      this.raw = raw;
      raw.addShutdownListener(closed::add);
    }
  }

  private final String check;
  private final List<Connection> connections = Collections.synchronizedList(new ArrayList<>());
  private final List<String> queues = Collections.synchronizedList(new ArrayList<>());
  private final List<String> exchanges = Collections.synchronizedList(new ArrayList<>());
  private Connection main;

  Context(String check) {
    this.check = check;
  }

  static ConnectionFactory factory() throws Exception {
    String url = System.getenv("AMQP_URL");
    ConnectionFactory factory = new ConnectionFactory();
    factory.setUri(url == null ? "amqp://guest:guest@127.0.0.1:5672/%2f" : url);
    factory.setAutomaticRecoveryEnabled(false);
    factory.setTopologyRecoveryEnabled(false);
    factory.setChannelRpcTimeout(WAIT_MS);
    return factory;
  }

  Connection connect(Configure configure) throws Exception {
    ConnectionFactory factory = factory();
    configure.apply(factory);
    Connection connection = factory.newConnection();
    connections.add(connection);
    return connection;
  }

  Connection connect() throws Exception {
    return connect(factory -> {});
  }

  /** The check's own connection, opened at first use. */
  Connection main() throws Exception {
    if (main == null) {
      main = connect();
    }
    return main;
  }

  /** A channel of the check's own connection, in confirm mode. */
  Ch channel() throws Exception {
    return confirming(plain(main()));
  }

  static Ch confirming(Ch ch) throws Exception {
    ch.raw.confirmSelect();
    return ch;
  }

  static Ch plain(Connection connection) throws Exception {
    return new Ch(connection.createChannel());
  }

  String name(String suffix) {
    String random = UUID.randomUUID().toString().substring(0, 8);
    return "conf.java." + check + "." + suffix + "." + random;
  }

  String declared(String queue) {
    queues.add(queue);
    return queue;
  }

  String queue(Ch ch) throws Exception {
    String name = declared(name("q"));
    ch.raw.queueDeclare(name, true, false, false, null);
    return name;
  }

  String exchange(Ch ch, String kind) throws Exception {
    return exchange(ch, kind, false, false, false, null);
  }

  String exchange(
      Ch ch, String kind, boolean durable, boolean autoDelete, boolean internal,
      Map<String, Object> arguments)
      throws Exception {
    String name = name("x");
    exchanges.add(name);
    ch.raw.exchangeDeclare(name, kind, durable, autoDelete, internal, arguments);
    return name;
  }

  String property(String name) throws Exception {
    return String.valueOf(main().getServerProperties().get(name));
  }

  boolean olderThan(int major, int minor) throws Exception {
    String[] parts = property("version").split("\\.");
    int found = Integer.parseInt(parts[0]) * 1000 + Integer.parseInt(parts[1]);
    return found < major * 1000 + minor;
  }

  void since(int major, int minor, String reason) throws Exception {
    if (olderThan(major, minor)) {
      throw new Skipped("since " + major + "." + minor + " " + reason);
    }
  }

  static void equal(Object found, Object expected, String what) {
    if (!Objects.deepEquals(found, expected)) {
      throw new AssertionError(what + ": found " + found + ", expected " + expected);
    }
  }

  static void ensure(boolean condition, String what) {
    if (!condition) {
      throw new AssertionError(what);
    }
  }

  /** The action must be answered by a close of the channel with this code and text. */
  static void refused(int code, String text, Ch ch, Action action) throws Exception {
    refused(code, text, ch.closed, action);
  }

  static void refused(
      int code, String text, BlockingQueue<ShutdownSignalException> closed, Action action)
      throws Exception {
    equal(closeReason(closed, action), code + " " + text, "close");
  }

  /** Code and text of the close that answers the action. */
  static String closeReason(BlockingQueue<ShutdownSignalException> closed, Action action)
      throws Exception {
    try {
      action.run();
    } catch (java.io.IOException | com.rabbitmq.client.AlreadyClosedException answered) {
      // The reason comes through the listener.
    }
    ShutdownSignalException reason = closed.poll(WAIT_MS, TimeUnit.MILLISECONDS);
    ensure(reason != null, "waited " + WAIT_MS + " ms for a refusal");
    return describe(reason);
  }

  static String describe(ShutdownSignalException signal) {
    if (signal.getReason() instanceof AMQP.Channel.Close close) {
      return close.getReplyCode() + " " + close.getReplyText();
    }
    if (signal.getReason() instanceof AMQP.Connection.Close close) {
      return close.getReplyCode() + " " + close.getReplyText();
    }
    return String.valueOf(signal.getReason());
  }

  static BlockingQueue<ShutdownSignalException> closed(Connection connection) {
    BlockingQueue<ShutdownSignalException> closed = new LinkedBlockingQueue<>();
    connection.addShutdownListener(closed::add);
    return closed;
  }

  static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  static String text(byte[] body) {
    return new String(body, StandardCharsets.UTF_8);
  }

  static void publish(Ch ch, String exchange, String key, String body) throws Exception {
    publish(ch, exchange, key, false, null, bytes(body));
  }

  /** Publishes on a confirming channel and waits for the confirm. */
  static void publish(
      Ch ch, String exchange, String key, boolean mandatory, BasicProperties properties, byte[] body)
      throws Exception {
    ch.raw.basicPublish(exchange, key, mandatory, properties, body);
    ch.raw.waitForConfirmsOrDie(WAIT_MS);
  }

  /** "ready consumers" of a queue. */
  static String depth(Ch ch, String queue) throws Exception {
    AMQP.Queue.DeclareOk ok = ch.raw.queueDeclarePassive(queue);
    return ok.getMessageCount() + " " + ok.getConsumerCount();
  }

  static GetResponse get(Ch ch, String queue) throws Exception {
    GetResponse found = ch.raw.basicGet(queue, false);
    ensure(found != null, "no message in " + queue);
    return found;
  }

  static long tag(GetResponse message) {
    return message.getEnvelope().getDeliveryTag();
  }

  /** "body", or "body again" for a redelivered message. */
  static String seen(boolean redelivered, byte[] body) {
    return redelivered ? text(body) + " again" : text(body);
  }

  static String seen(GetResponse message) {
    return seen(message.getEnvelope().isRedeliver(), message.getBody());
  }

  /** All ready messages, taken with automatic acknowledgement, as `seen` shows them. */
  static List<String> drain(Ch ch, String queue) throws Exception {
    List<String> found = new ArrayList<>();
    for (GetResponse message; (message = ch.raw.basicGet(queue, true)) != null; ) {
      found.add(seen(message));
    }
    return found;
  }

  /** Publishes one message and gives the labels of the queues that got it. */
  static List<String> routed(
      Ch ch, String exchange, String key, Map<String, String> queues, Map<String, Object> headers)
      throws Exception {
    BasicProperties properties = new BasicProperties.Builder().headers(headers).build();
    publish(ch, exchange, key, false, properties, bytes("probe"));
    List<String> found = new ArrayList<>();
    for (Map.Entry<String, String> entry : new TreeMap<>(queues).entrySet()) {
      for (String ignored : drain(ch, entry.getValue())) {
        found.add(entry.getKey());
      }
    }
    return found;
  }

  static List<String> sorted(String... labels) {
    String[] copy = labels.clone();
    Arrays.sort(copy);
    return List.of(copy);
  }

  void cleanUp() throws Exception {
    for (Connection connection : connections) {
      connection.abort(WAIT_MS);
    }
    if (queues.isEmpty() && exchanges.isEmpty()) {
      return;
    }
    try (Connection connection = factory().newConnection();
        Channel channel = connection.createChannel()) {
      for (String queue : queues) {
        channel.queueDelete(queue);
      }
      for (String exchange : exchanges) {
        channel.exchangeDelete(exchange);
      }
    }
  }
}

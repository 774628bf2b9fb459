import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.TimeUnit;

/** Handshake, limits, heartbeats, closing. */
final class ConnectionChecks {
  private static final List<String> CAPABILITIES =
      List.of(
          "publisher_confirms", "exchange_exchange_bindings", "basic.nack",
          "consumer_cancel_notify", "connection.blocked", "consumer_priorities",
          "authentication_failure_close", "per_consumer_qos", "direct_reply_to");

  static void register(Map<String, Suite.Check> checks) {
    checks.put("connect_properties", ConnectionChecks::connectProperties);
    checks.put("wrong_password", ConnectionChecks::wrongPassword);
    checks.put("unknown_vhost", ConnectionChecks::unknownVhost);
    checks.put("close_clean", ConnectionChecks::closeClean);
    checks.put("heartbeat_idle", ConnectionChecks::heartbeatIdle);
    checks.put("tune_limits", ConnectionChecks::tuneLimits);
    checks.put("many_channels", ConnectionChecks::manyChannels);
    checks.put("blocked_capability", ConnectionChecks::blockedCapability);
    checks.put("channel_error_isolated", ConnectionChecks::channelErrorIsolated);
  }

  private static void connectProperties(Context c) throws Exception {
    Context.equal(c.property("product"), "RabbitMQ", "product");
    String version = c.property("version");
    Context.ensure(version.matches("\\d+\\.\\d+\\.\\d+([-+].*)?"), "version " + version);
    Map<?, ?> found = (Map<?, ?>) c.main().getServerProperties().get("capabilities");
    for (String name : CAPABILITIES) {
      Context.equal(found.get(name), true, "capability " + name);
    }
  }

  private static void wrongPassword(Context c) throws Exception {
    try {
      c.connect(factory -> factory.setPassword("not the password"));
    } catch (AuthenticationFailureException refusal) {
      String text =
          "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
              + "For details see the broker logfile.";
      Context.equal(refusal.getMessage(), text, "close");
      return;
    }
    throw new AssertionError("logged in with a wrong password");
  }

  private static void unknownVhost(Context c) throws Exception {
    try {
      c.connect(factory -> factory.setVirtualHost("no-such-vhost"));
    } catch (IOException refusal) {
      String found = Context.describe((ShutdownSignalException) refusal.getCause());
      Context.equal(found, "530 NOT_ALLOWED - vhost no-such-vhost not found", "close");
      return;
    }
    throw new AssertionError("opened a vhost that does not exist");
  }

  private static void closeClean(Context c) throws Exception {
    Connection connection = c.connect();
    connection.createChannel().close();
    connection.close();
    Connection again = c.connect();
    again.createChannel();
    again.close();
  }

  private static void heartbeatIdle(Context c) throws Exception {
    Connection connection = c.connect(factory -> factory.setRequestedHeartbeat(1));
    Context.equal(connection.getHeartbeat(), 1, "heartbeat agreed on");
    BlockingQueue<ShutdownSignalException> closed = Context.closed(connection);
    Channel channel = connection.createChannel();
    Context.equal(closed.poll(5, TimeUnit.SECONDS), null, "close of the idle connection");
    channel.queueDeclare("", false, true, false, null);
  }

  private static void tuneLimits(Context c) throws Exception {
    Connection connection =
        c.connect(
            factory -> {
              factory.setRequestedFrameMax(8192);
              factory.setRequestedChannelMax(10);
            });
    Context.equal(connection.getFrameMax(), 8192, "frame_max");
    Context.equal(connection.getChannelMax(), 10, "channel_max");
    Context.Ch ch = null;
    for (int number = 0; number < 10; number++) {
      ch = Context.plain(connection);
    }
    Context.confirming(ch);
    String queue = c.queue(ch);
    String body = "b".repeat(50_000);
    Context.publish(ch, "", queue, body);
    Context.ensure(Context.drain(ch, queue).get(0).equals(body), "the body differs");
  }

  private static void manyChannels(Context c) throws Exception {
    Connection connection = c.connect();
    List<Context.Ch> channels = new ArrayList<>();
    for (int number = 0; number < 500; number++) {
      channels.add(Context.plain(connection));
    }
    String queue = c.queue(channels.get(0));
    Inbox inbox = Inbox.openAutoAck(channels.get(0), queue);
    for (int number = 0; number < 500; number++) {
      byte[] body = Context.bytes(String.valueOf(number));
      channels.get(number).raw.basicPublish("", queue, new AMQP.BasicProperties(), body);
    }
    int distinct = new HashSet<>(inbox.seen(500)).size();
    Context.equal(distinct, 500, "messages, one from each channel");
    for (Context.Ch ch : channels.subList(1, 500)) {
      ch.raw.close();
    }
    Context.depth(channels.get(0), queue);
  }

  private static void blockedCapability(Context c) throws Exception {
    Connection connection = c.connect();
    List<String> blocked = new ArrayList<>();
    connection.addBlockedListener(blocked::add, () -> blocked.add("unblocked"));
    connection.createChannel().queueDeclare("", false, true, false, null);
    Context.equal(blocked, List.of(), "connection.blocked without an alarm");
  }

  private static void channelErrorIsolated(Context c) throws Exception {
    Context.Ch good = c.channel();
    Context.Ch bad = c.channel();
    String queue = c.queue(good);
    String missing = c.name("q");
    String text = QueueChecks.noQueue(missing);
    Context.refused(404, text, bad, () -> bad.raw.queueDeclarePassive(missing));
    Context.publish(good, "", queue, "still here");
    Context.equal(Context.drain(good, queue), List.of("still here"), "on the other channel");
    Context.depth(c.channel(), queue);
  }
}

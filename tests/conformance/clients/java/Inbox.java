import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.DefaultConsumer;
import com.rabbitmq.client.Envelope;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** A consumer that keeps what it was sent. */
final class Inbox extends DefaultConsumer {
  record Message(Envelope envelope, BasicProperties properties, byte[] body) {
    String text() {
      return Context.text(body);
    }

    String seen() {
      return Context.seen(envelope.isRedeliver(), body);
    }
  }

  final Context.Ch ch;
  final String queue;
  String tag;
  private final List<Message> messages = new ArrayList<>();
  private boolean cancelled;

  private Inbox(Context.Ch ch, String queue) {
    super(ch.raw);
    this.ch = ch;
    this.queue = queue;
  }

  static Inbox open(Context.Ch ch, String queue) throws Exception {
    return open(ch, queue, "", false, false, null);
  }

  static Inbox openAutoAck(Context.Ch ch, String queue) throws Exception {
    return open(ch, queue, "", true, false, null);
  }

  static Inbox open(
      Context.Ch ch, String queue, String tag, boolean autoAck, boolean exclusive,
      Map<String, Object> arguments)
      throws Exception {
    Inbox inbox = new Inbox(ch, queue);
    inbox.tag = ch.raw.basicConsume(queue, autoAck, tag, false, exclusive, arguments, inbox);
    return inbox;
  }

  @Override
  public synchronized void handleDelivery(
      String consumerTag, Envelope envelope, BasicProperties properties, byte[] body) {
    messages.add(new Message(envelope, properties, body));
    notifyAll();
  }

  @Override
  public synchronized void handleCancel(String consumerTag) {
    cancelled = true;
    notifyAll();
  }

  synchronized int count() {
    return messages.size();
  }

  synchronized Message first() {
    return messages.get(0);
  }

  synchronized List<Message> take(int count) throws InterruptedException {
    long deadline = System.currentTimeMillis() + Context.WAIT_MS;
    while (messages.size() < count) {
      await(deadline, count + " deliveries from " + queue + " (have " + messages.size() + ")");
    }
    List<Message> taken = new ArrayList<>(messages.subList(0, count));
    messages.subList(0, count).clear();
    return taken;
  }

  List<String> seen(int count) throws InterruptedException {
    return take(count).stream().map(Message::seen).toList();
  }

  synchronized void takeCancel() throws InterruptedException {
    long deadline = System.currentTimeMillis() + Context.WAIT_MS;
    while (!cancelled) {
      await(deadline, "basic.cancel from the broker");
    }
  }

  private void await(long deadline, String what) throws InterruptedException {
    long rest = deadline - System.currentTimeMillis();
    Context.ensure(rest > 0, "waited " + Context.WAIT_MS + " ms for " + what);
    wait(rest);
  }

  /** How many have arrived once the queue has answered a question asked after everything else. */
  int settled() throws Exception {
    Context.depth(ch, queue);
    return count();
  }
}

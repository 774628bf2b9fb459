import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Conformance checks through the RabbitMQ Java client: `AMQP_URL=.. java Suite CHECK..` (none named:
 * all).
 *
 * <p>Prints a line for each check: `ok NAME`, `fail NAME reason` or `skip NAME since X.Y reason`.
 */
final class Suite {
  interface Check {
    void run(Context c) throws Exception;
  }

  private static final int CHECK_SECONDS = 20;

  public static void main(String[] names) {
    Map<String, Check> checks = new LinkedHashMap<>();
    ConnectionChecks.register(checks);
    QueueChecks.register(checks);
    MessageChecks.register(checks);
    DeliveryChecks.register(checks);
    ExchangeChecks.register(checks);
    for (String name : names.length > 0 ? Arrays.asList(names) : checks.keySet()) {
      System.out.println(run(name, checks.get(name)).replaceAll("\\s+", " "));
      System.out.flush();
    }
    System.exit(0);
  }

  private static String run(String name, Check check) {
    if (check == null) {
      return "fail " + name + " the suite has no such check";
    }
    Context context = new Context(name);
    String line = "ok " + name;
    try {
      bounded(() -> check.run(context));
    } catch (Context.Skipped reason) {
      line = "skip " + name + " " + reason.getMessage();
    } catch (Throwable error) {
      line = "fail " + name + " " + error + place(error.getStackTrace());
    }
    try {
      bounded(context::cleanUp);
    } catch (Throwable error) {
      if (line.startsWith("ok")) {
        line = "fail " + name + " clean-up: " + error;
      }
    }
    return line;
  }

  /** Runs an action on a thread of its own, bounded in time. */
  private static void bounded(Context.Action action) throws Throwable {
    FutureTask<Void> task =
        new FutureTask<>(
            () -> {
              action.run();
              return null;
            });
    Thread thread = new Thread(task);
    thread.setDaemon(true);
    thread.start();
    try {
      task.get(CHECK_SECONDS, TimeUnit.SECONDS);
    } catch (ExecutionException error) {
      throw error.getCause();
    } catch (TimeoutException late) {
      String at = place(thread.getStackTrace());
      thread.interrupt();
      throw new AssertionError("no answer within " + CHECK_SECONDS + " s" + at);
    }
  }

  private static String place(StackTraceElement[] stack) {
    return Arrays.stream(stack)
        .filter(frame -> frame.getClassName().matches("\\w+Checks"))
        .findFirst()
        .map(frame -> " (" + frame.getFileName() + ":" + frame.getLineNumber() + ")")
        .orElse("");
  }
}

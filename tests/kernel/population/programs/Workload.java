// A Java program that checks itself: STOP. See workloads.c for what it prints.
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

public final class Workload {
    private static final AtomicLong rounds = new AtomicLong();
    private static Path stop;

    private static void broken(String what) {
        System.out.println("broken " + what);
        System.out.flush();
        Runtime.getRuntime().halt(1);
    }

    private static boolean stopped() {
        return Files.exists(stop);
    }

    /** Garbage, some of which lives for a while: the collector works. */
    private static void collect() {
        List<int[]> kept = new ArrayList<>();
        while (!stopped()) {
            for (int i = 0; i < 200; i++) {
                int[] block = new int[2048];
                Arrays.fill(block, i);
                if (i % 10 == 0) {
                    kept.add(block);
                }
            }
            for (int i = 0; i < kept.size(); i++) {
                int expected = i % 20 * 10;
                for (int value : kept.get(i)) {
                    if (value != expected) {
                        broken("a block of " + expected + " holds " + value);
                    }
                }
            }
            if (kept.size() >= 400) {
                kept.clear();
            }
            rounds.incrementAndGet();
        }
    }

    private static void sleep() throws InterruptedException {
        while (!stopped()) {
            long start = System.nanoTime();
            Thread.sleep(20);
            if (System.nanoTime() - start < 19_900_000) {
                broken("a sleep ended early");
            }
            rounds.incrementAndGet();
        }
    }

    private static void produce(BlockingQueue<Long> queue) throws InterruptedException {
        for (long n = 1; !stopped(); n++) {
            queue.put(n);
        }
        queue.put(-1L);
    }

    private static void consume(BlockingQueue<Long> queue) throws InterruptedException {
        long next = 1;
        while (true) {
            Long n = queue.poll(10, TimeUnit.MINUTES);
            if (n == null) {
                broken("a queue ended");
            } else if (n == -1) {
                return;
            } else if (n != next++) {
                broken(n + " in place of " + (next - 1));
            }
        }
    }

    private static double series() {
        double sum = 0;
        for (int i = 1; i < 100_000; i++) {
            sum += Math.sin(i) / i;
        }
        return sum;
    }

    private static void compute() {
        double expected = series();
        while (!stopped()) {
            // A compiled loop may round another way than an interpreted one, but only a little.
            if (Math.abs(series() - expected) > 1e-9) {
                broken("another sum");
            }
            rounds.incrementAndGet();
        }
    }

    private interface Work {
        void run() throws InterruptedException;
    }

    private static Thread start(Work work) {
        Thread thread =
                new Thread(
                        () -> {
                            try {
                                work.run();
                            } catch (Throwable problem) {
                                broken(problem.toString());
                            }
                        });
        thread.start();
        return thread;
    }

    public static void main(String[] arguments) throws InterruptedException {
        stop = Path.of(arguments[0]);
        BlockingQueue<Long> queue = new ArrayBlockingQueue<>(16);
        System.out.println("ready");
        List<Thread> threads =
                List.of(
                        start(Workload::collect),
                        start(Workload::compute),
                        start(Workload::sleep),
                        start(() -> produce(queue)),
                        start(() -> consume(queue)));
        for (Thread thread : threads) {
            thread.join();
        }
        System.out.println("whole " + rounds.get());
    }
}

import java.util.Arrays;
import java.util.Random;

/**
 * A program of the JVM that keeps some data and makes garbage at a steady rate.
 *
 * <p>It says "started" and waits for a line, so that it can be enrolled; it says "ready" when it has
 * its data, and ends with its standard input. Arguments: mebibytes of data, mebibytes of garbage in
 * a second, seed of the data.
 */
public final class Heap {
    private static final int BLOCK = 16 << 10;
    private static final int TICKS = 10;
    private static long[][] kept;
    private static long[] last;

    public static void main(String[] words) throws Exception {
        int blocks = Integer.parseInt(words[0]) * (1 << 20) / BLOCK;
        int each = Math.max(1, Integer.parseInt(words[1]) * (1 << 20) / BLOCK / TICKS);
        Random chance = new Random(Long.parseLong(words[2]));
        System.out.println("started");
        if (System.in.read() < 0) {
            return;
        }
        endWithInput();
        kept = new long[blocks][];
        for (int at = 0; at < blocks; at++) {
            kept[at] = block(chance);
        }
        System.out.println("ready");
        while (true) {
            Thread.sleep(1000 / TICKS);
            for (int made = 0; made < each; made++) {
                last = block(chance);
            }
            // A little of what is made is kept, in the place of something older.
            kept[chance.nextInt(blocks)] = last;
        }
    }

    private static long[] block(Random chance) {
        long[] made = new long[BLOCK / Long.BYTES];
        // One value all over: where the collector puts an array within a page is a matter of
        // chance, and would decide whether its pages are another heap's too.
        Arrays.fill(made, chance.nextLong());
        return made;
    }

    private static void endWithInput() {
        Thread watcher = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Nothing more is ever said to it.
                }
            } catch (java.io.IOException gone) {
                // It is over in either case.
            }
            Runtime.getRuntime().halt(0);
        });
        watcher.setDaemon(true);
        watcher.start();
    }
}

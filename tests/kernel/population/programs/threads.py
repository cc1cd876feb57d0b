"""A Python program of several threads that checks itself: STOP. See workloads.c for its output."""

import hashlib
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

STOP = Path(sys.argv[1])
DATA = bytes(range(256)) * 64


def broken(what: str) -> None:
    """Say what deviated, and end."""
    os.write(1, f"broken {what}\n".encode())
    os._exit(1)


def nap(seconds: float) -> None:
    """Sleep, and look at the clock."""
    start = time.monotonic()
    time.sleep(seconds)
    if time.monotonic() - start < seconds:
        broken("a sleep ended early")


def consume(jobs: "queue.Queue[int | None]", results: "queue.Queue[tuple[int, str]]") -> None:
    """Digest what is asked for."""
    while (number := jobs.get()) is not None:
        results.put((number, hashlib.sha256(DATA + bytes([number % 256])).hexdigest()))


def run_programs() -> None:
    """Other programs, one after the other, and what they print."""
    while not STOP.exists():
        answer = subprocess.run(["/bin/echo", "word"], stdout=subprocess.PIPE, check=False)
        if (answer.returncode, answer.stdout) != (0, b"word\n"):
            broken(f"echo: {answer}")
        nap(0.02)


def main() -> None:
    """Hand out work, and compare what comes back."""
    expected = [hashlib.sha256(DATA + bytes([n])).hexdigest() for n in range(256)]
    jobs: queue.Queue[int | None] = queue.Queue(32)
    results: queue.Queue[tuple[int, str]] = queue.Queue()
    arguments = (jobs, results)
    threads = [threading.Thread(target=consume, args=arguments) for _ in range(3)]
    threads.append(threading.Thread(target=run_programs))
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    count = 0
    while not STOP.exists():
        numbers = range(count, count + 16)
        for number in numbers:
            jobs.put(number)
        answers = dict(results.get(timeout=600) for _ in numbers)
        if answers != {number: expected[number % 256] for number in numbers}:
            broken(f"answers {answers}")
        count += 16
        nap(0.003)
    for _ in range(3):
        jobs.put(None)
    for thread in threads:
        thread.join()
    print(f"whole {count}", flush=True)


threading.excepthook = lambda problem: broken(repr(problem.exc_value))
try:
    main()
except Exception as error:  # noqa: BLE001 - whatever it is, it is a deviation
    broken(repr(error))

"""A Python program of one event loop that checks itself: STOP. See workloads.c for its output."""

import asyncio
import os
import sys
import time

STOP = sys.argv[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, a line at a time."""
    while line := await reader.readline():
        writer.write(line[-2::-1] + b"\n")
        await writer.drain()
    writer.close()


async def ask(port: int, seed: int) -> int:
    """Ask and compare until the end; returns how often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while not os.access(STOP, os.F_OK):
        text = str(seed * 1000003 + count).encode() * (1 + count % 500)
        writer.write(text + b"\n")
        answer = await reader.readline()
        assert answer == text[::-1] + b"\n", f"echo of {len(text)} bytes differs"
        count += 1
        start = time.monotonic()
        await asyncio.sleep(0.004)
        # The loop counts in steps of its clock's resolution.
        assert time.monotonic() - start > 0.003, "a sleep ended early"
    writer.close()
    return count


async def programs() -> None:
    """Children that the loop waits for."""
    while not os.access(STOP, os.F_OK):
        child = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 7")
        assert await child.wait() == 7, "another exit status"
        await asyncio.sleep(0.05)


async def main() -> None:
    """Serve and ask in one loop."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print("ready", flush=True)
    *counts, _ = await asyncio.gather(*(ask(port, seed) for seed in range(6)), programs())
    server.close()
    print(f"whole {sum(counts)}", flush=True)


try:
    asyncio.run(main())
except BaseException as error:  # noqa: BLE001 - whatever it is, it is a deviation
    os.write(1, f"broken {error!r}\n".encode())
    sys.exit(1)

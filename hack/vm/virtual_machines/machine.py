"""One boot of one machine: it runs a command, and its console is all that it says."""

import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_cluster.prerequisites import which
from virtual_machines import images, payload
from virtual_machines.machines import Kernel

Say = Callable[[str], None]
OnLine = Callable[[str], None]

START = "@@start "
EXIT = "@@exit "
TAIL_LINES = 40
NICENESS = 10
MEBIBYTES = 1024
SECONDS = 600
BOOTS = 2


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        code: The command's exit code; None if the machine ended before the command did.
        started: The command was begun.
        why: One sentence for a person, where there is no code.
        console: The last lines of its console.
    """

    code: int | None
    started: bool
    why: str
    console: str


def command_line(kernel: Kernel, image: Path, initrd: Path, *, cpus: int) -> list[str]:
    """What starts the emulator.

    A kernel that panics ends it at once, with exit code 0: only the console tells.
    """
    architecture = kernel.architecture
    kernel_words = f"console={architecture.console} quiet panic=-1 mitigations=off nokaslr"
    return [
        # It must not outlive us, and it gives way to whatever else this machine does.
        *(which("setpriv") or "setpriv", "--pdeathsig", "KILL"),
        *("nice", "-n", str(NICENESS)),
        which(architecture.qemu) or architecture.qemu,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *architecture.hardware,
        *("-accel", "tcg,thread=multi", "-smp", str(cpus), "-m", str(MEBIBYTES)),
        *("-kernel", str(image), "-initrd", str(initrd), "-append", kernel_words),
        *("-serial", "stdio"),
    ]


def run(
    kernel: Kernel,
    command: Sequence[str],
    on_line: OnLine,
    say: Say,
    *,
    cpus: int = 2,
    seconds: float = SECONDS,
) -> Outcome:
    """Run a command on a kernel, with this tree as its working folder.

    Args:
        kernel: Which one; its files are in the cache.
        command: Program and arguments.
        on_line: Called with each line that the command prints, without its end.
        say: Where progress goes.
        cpus: Processors of the machine.
        seconds: After so long it is switched off.
    """
    with tempfile.TemporaryDirectory(prefix="ksm-operator-vm-") as work:
        initrd = Path(work) / "initrd"
        root = images.root_folder(kernel.architecture) / "root.cpio"
        extra = payload.pack(kernel.architecture, command, say)
        with initrd.open("wb") as output:
            with root.open("rb") as base:
                shutil.copyfileobj(base, output)
            output.write(extra)
        image = images.kernel_folder(kernel) / "vmlinuz"
        words = command_line(kernel, image, initrd, cpus=cpus)
        for boot in range(1, BOOTS + 1):
            outcome = _boot(words, on_line, seconds)
            # Only a machine that has not begun is tried again: no test's failure hides there.
            if outcome.started or boot == BOOTS:
                break
            say(f"{kernel.name}: {outcome.why}; booting it once more. Its console:")
            say(outcome.console)
    return outcome


def _boot(words: Sequence[str], on_line: OnLine, seconds: float) -> Outcome:
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    started, code = False, None
    late = threading.Event()
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu:

        def end() -> None:
            late.set()
            qemu.kill()

        clock = threading.Timer(seconds, end)
        clock.start()
        try:
            assert qemu.stdout is not None
            for raw in qemu.stdout:
                line = raw.decode(errors="replace").rstrip("\r\n")
                tail.append(line)
                if line.startswith(START):
                    started = True
                elif line.startswith(EXIT) and line.removeprefix(EXIT).isdigit():
                    code = int(line.removeprefix(EXIT))
                elif started and code is None:
                    on_line(line)
        finally:
            clock.cancel()
            qemu.kill()
    if late.is_set():
        why = f"it was not done within {seconds:.0f} s"
    else:
        when = "while its command ran" if started else "before its command began"
        why = f"it ended {when} (emulator's exit code {qemu.returncode})"
    return Outcome(code, started, why if code is None else "", "\n".join(tail))

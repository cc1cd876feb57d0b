"""How long a target stands still for one enrolment, on its own clock."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Row, ratio, table
from benchmarks.programs import Injector, MissingTool, Program, built, hogs
from ksm_operator.kernel import Postponed, Tracer
from ksm_operator.kernel.enrol import set_merge
from support import machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUNS: Final = 300
DEBUGGER_RUNS: Final = 5
MAPPINGS: Final = (0, 5_000, 30_000)
HOGS: Final = 6


def measured(program: Program, act: Callable[[], object]) -> float:
    """The longest time in which the program did not run while we act."""
    program.forget()
    act()
    return program.longest()


def once(tracer: Tracer, program: Program, *, on: bool) -> None:
    """One call, tried until its moment has come."""
    while True:
        with contextlib.suppress(Postponed):
            tracer.call(program.process, [set_merge(on=on)])
            return


def compare(folder: Path, mappings: int, runs: int) -> tuple[Row, Row]:
    """Ours and the least possible, in turn on the same target."""
    tracer = Tracer()
    ours, least = list[float](), list[float]()
    with Program(str(folder / "clock"), str(mappings)) as program:
        injector = Injector(folder / "injector", program.popen.pid)
        for _ in range(runs):
            ours.append(measured(program, lambda: once(tracer, program, on=True)))
            injector.call(on=False)
            least.append(measured(program, lambda: injector.call(on=True)))
            injector.call(on=False)
        injector.close()
    tracer.close()
    return Row("ksm-operator", ours, "us"), Row("minimal C injector", least, "us")


def debugger(folder: Path, runs: int) -> Row:
    """The same with gdb: attach, call, detach.

    Raises:
        MissingTool: gdb is not installed.
    """
    gdb = shutil.which("gdb")
    if gdb is None:
        raise MissingTool("gdb is measured against: apt-get install gdb")
    values = []
    with Program(str(folder / "clock"), "0") as program:
        for _ in range(runs):
            words = [gdb, "-nx", "-batch", "-p", str(program.popen.pid)]
            command = [*words, "-ex", "call (int)prctl(67,1,0,0,0)", "-ex", "detach"]

            def attach(words: list[str] = command) -> None:
                subprocess.run(words, capture_output=True, check=True)

            values.append(measured(program, attach))
    return Row("gdb attach, call, detach", values, "us")


def main() -> None:
    """Measure and print."""
    with built("clock", "injector") as folder, machine.exclusive():
        with Program(str(folder / "clock"), "0") as program:
            silence = [
                measured(program, lambda: subprocess.run(["true"], check=True)) for _ in range(50)
            ]
        attached = debugger(folder, DEBUGGER_RUNS)
        for mappings in MAPPINGS:
            ours, least = compare(folder, mappings, RUNS)
            rows = [ours, least]
            title = f"stop of a target with {mappings:,} further mappings, idle machine"
            if mappings == 0:
                rows += [attached, Row("nobody attaches (the machine's own noise)", silence, "us")]
                title = "stop of a target with under 200 mappings, idle machine"
            print(table(title, rows))
            print(ratio(ours, least))
            if mappings == 0:
                print(ratio(ours, attached))
            print()
        with hogs(HOGS):
            ours, least = compare(folder, 0, RUNS // 3)
        print(table(f"the same beside {HOGS} programs that never sleep", [ours, least]))
        print(ratio(ours, least), "\n")


if __name__ == "__main__":
    main()

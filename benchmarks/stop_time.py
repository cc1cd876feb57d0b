"""How long a target stands still for one enrolment, on its own clock."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Row, table, verdict
from benchmarks.programs import Injector, MissingTool, Program, ahead_of_others, built, hogs
from ksm_operator.kernel import Postponed, Tracer
from ksm_operator.kernel.enrol import set_merge
from support import kernel, machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUNS: Final = 300
DEBUGGER_RUNS: Final = 5
MAPPINGS: Final = (5_000, 30_000)
HOGS: Final = 6

MOST_OF_INJECTOR: Final = 2.0
MOST_OF_DEBUGGER: Final = 0.001
MOST_P99_US: Final = 1000.0


def measured(program: Program, act: Callable[[], object]) -> float:
    """The longest time in which the program did not run while we act, in microseconds."""
    # It must have run since whatever was done to it before, or that would count.
    program.wait_for_look()
    program.forget()
    act()
    program.wait_for_look()
    return program.longest()


def once(tracer: Tracer, program: Program, *, on: bool) -> None:
    """One call, tried until its moment has come."""
    while True:
        with contextlib.suppress(Postponed):
            tracer.call(program.process, [set_merge(on=on)])
            return


def compare(folder: Path, mappings: int, runs: int, *, ahead: bool) -> tuple[Row, Row]:
    """Ours and the least possible, in turn on the same target; ahead of other programs or not."""
    tracer = Tracer()
    ours, least = list[float](), list[float]()
    with Program(str(folder / "clock"), str(mappings)) as program:
        injector = Injector(folder / "injector", program.popen.pid)
        taking_part = (program.popen.pid, injector.pid)
        for _ in range(runs):
            with ahead_of_others(*taking_part) if ahead else contextlib.nullcontext():
                ours.append(measured(program, lambda: once(tracer, program, on=True)))
            injector.call(on=False)
            with ahead_of_others(*taking_part) if ahead else contextlib.nullcontext():
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

            with ahead_of_others(program.popen.pid):
                values.append(measured(program, attach))
    return Row("gdb attach, call, detach", values, "us")


def silence(folder: Path, runs: int) -> Row:
    """What the machine itself takes from the target while another program starts and ends."""
    with Program(str(folder / "clock"), "0") as program:
        values = []
        for _ in range(runs):
            with ahead_of_others(program.popen.pid):
                values.append(measured(program, lambda: subprocess.run(["true"], check=True)))
    return Row("nobody attaches", values, "us")


def ratio(ours: Row, least: Row) -> str:
    """Say how the medians compare where no target is set."""
    return f"{ours.what}: {ours.median / least.median:.3g} x {least.what} (medians).\n"


def main() -> None:
    """Measure and print."""
    with (
        built("clock", "injector") as folder,
        machine.exclusive(),
        kernel.as_booted(),
    ):
        # ksmd stands still: it would scan the target, and have a share of its CPU.
        ours, least = compare(folder, 0, RUNS, ahead=True)
        attached = debugger(folder, DEBUGGER_RUNS)
        rows = [ours, least, attached, silence(folder, RUNS // 6)]
        print(table("stop of a target with under 200 mappings, ahead of other programs", rows))
        times = ours.median / least.median
        print(verdict(f"median in times of the {least.what}'s", times, MOST_OF_INJECTOR, "x"))
        share = ours.median / attached.median
        print(verdict("median in parts of gdb's", share, MOST_OF_DEBUGGER, "x"))
        print(verdict("p99", ours.p99, MOST_P99_US, "us"), "\n")
        for mappings in MAPPINGS:
            ours, least = compare(folder, mappings, RUNS, ahead=True)
            print(table(f"the same with {mappings:,} further mappings", [ours, least]))
            print(ratio(ours, least))
        with hogs(HOGS):
            ours, least = compare(folder, 0, RUNS // 10, ahead=False)
            title = f"the same with under 200 mappings, among {HOGS} programs that spin"
            print(table(title, [ours, least]))
        print(ratio(ours, least))


if __name__ == "__main__":
    main()

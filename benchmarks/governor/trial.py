"""One load with one algorithm: what was measured second by second."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from benchmarks.governor.cast import Cast
from benchmarks.governor.cgroups import Cgroups
from benchmarks.governor.outcome import Outcome, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.governor.algorithms import Algorithm
    from benchmarks.governor.loads import Container
    from benchmarks.governor.node import Node
    from ksm_operator.kernel import Helper

SAMPLE_INTERVAL: Final = 1.0
"""Seconds."""


def play(
    algorithm: Algorithm,
    containers: Sequence[Container],
    seconds: float,
    *,
    node: Node,
    helper: Helper,
    classes: Path,
) -> Outcome:
    """Play a load from its first program on, and return what was measured.

    Nothing is merged when it begins, nor is anything of a former one. All its programs have ended
    afterwards.

    Raises:
        NotAlone: something else merges on this machine.
        RuntimeError: a program of the load failed.
    """
    node.clean()
    samples, steering = list[Sample](), 0.0
    with contextlib.ExitStack() as stack:
        cgroups = stack.enter_context(contextlib.closing(Cgroups(node.host.hierarchy)))
        enrols = None if algorithm.enrols else helper
        cast = stack.enter_context(contextlib.closing(Cast(containers, classes, cgroups, enrols)))
        before, began = node.counters(), time.monotonic()
        driver = algorithm.start(node, cast)
        cast.begin()
        next_step = next_sample = began
        while True:
            now = time.monotonic()
            if now >= next_sample:
                done, pages = node.counters(), cast.pages()
                saved = max(0, pages.merged - done.kept)
                samples.append(
                    Sample(
                        at=now - began,
                        saved=saved,
                        net=saved - done.records,
                        ksmd=done.cpu - before.cpu,
                        breaks=done.breaks - before.breaks,
                        huge=pages.huge,
                    )
                )
                cast.check()
                next_sample += SAMPLE_INTERVAL
                if samples[-1].at >= seconds:
                    break
            if now >= next_step or cast.news.is_set():
                cast.news.clear()
                spent = time.thread_time()
                next_step = now + driver.step()
                steering += time.thread_time() - spent
            cast.news.wait(max(0.0, min(next_step, next_sample) - time.monotonic()))
        # ksmd must not go on while the programs end: that would not be the load's.
        node.write({"run": 0})
    return Outcome(tuple(samples), steering)

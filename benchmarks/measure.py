"""Ways of doing the same thing, side by side in one process: interleaved, medians, ratios taken within a repetition.

CPU seconds are those of this process with all its threads; they suffer less than wall seconds from whatever else the
machine does, and `foreign` says how many cores that was. Memory is the resident set above where it stood, sampled
every few milliseconds, so what lives for less than that is not seen.
"""

import contextlib
import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PAGE = 4096
_JIFFY = 100  # per second, in /proc/stat


@dataclass
class Side:
    """What one way took, a value per repetition; result: of the last one."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)  # MB above the start
    foreign: list[float] = field(default_factory=list)  # cores that others used meanwhile
    result: Any = None

    @property
    def median_wall(self) -> float:
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)


def interleaved(sides: dict[str, Callable[[], Any]], repeats: int = 5, warm_up: bool = True) -> dict[str, Side]:
    """Run every side `repeats` times, in turn; with `warm_up` once more before, unmeasured."""
    measured = {name: Side() for name in sides}
    for repetition in range(-1 if warm_up else 0, repeats):
        for name, run in sides.items():
            gc.collect()
            with peak() as memory:
                wall, cpu, busy = time.perf_counter(), time.process_time(), _busy()
                result = run()
                wall, cpu, busy = time.perf_counter() - wall, time.process_time() - cpu, _busy() - busy
            if repetition < 0:
                continue
            side = measured[name]
            side.wall.append(wall)
            side.cpu.append(cpu)
            side.peak.append(memory[0])
            side.foreign.append(max(0.0, (busy - cpu) / wall))
            side.result = result
    return measured


def ratio(baseline: Side, ours: Side, of: str = "wall") -> float:
    """How many times less ours takes: the median of the ratios within a repetition."""
    pairs = zip(getattr(baseline, of), getattr(ours, of), strict=True)
    return statistics.median(theirs / own for theirs, own in pairs)


@contextlib.contextmanager
def peak() -> Iterator[list[float]]:
    """A list whose one value is, at the end, the peak of the resident set above its start, in MB.

    What earlier work freed goes back to the system first: from the allocator's store it would be used again unseen.
    """
    _trim()
    start, found, done = _resident(), [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(0.003):
            found[0] = max(found[0], (_resident() - start) / 1e6)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, as the README takes it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _trim() -> None:
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _busy() -> float:
    """CPU seconds that all processes of the machine have used."""
    user, nice, system, *_ = (int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system) / _JIFFY

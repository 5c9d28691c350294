"""How far, how fast and how much longer, in the words that nodes and commands share, and when to stop counting."""

import concurrent.futures.thread
import sys
import time


class Rate:
    """A counter and its rate in words. `unit` names what is counted: "B" is shown in GB or MB with its rate, others as they are."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.total: int | None = None

    def line(self, done: int, total: int) -> str:
        """'3.1 of 16.4 GB, 42 MB/s, 5 min left', at the end '81 frames in 7 s'. What was there at the first call does not
        count as speed."""
        if self.total != total:
            self.start, self.first, self.total = time.monotonic(), done, total
        seconds = time.monotonic() - self.start
        rate = (done - self.first) / seconds if seconds > 0 else 0.0
        if self.unit == "B":
            scale, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
            whole, speed = f"{total / scale:.1f} {name}", f"{rate / 1e6:.0f} MB/s"
            counted = f"{done / scale:.1f} of {whole}"
        else:
            whole, speed = (
                f"{total} {self.unit.removesuffix('s') if total == 1 else self.unit}",
                f"{rate:.1f} {self.unit}/s",
            )
            counted = f"{done} of {total} {self.unit}"
        if done >= total:
            return f"{whole} in {duration(seconds)}" if done > self.first else whole
        left = f"{duration((total - done) / rate)} left" if rate > 0 else "starting"
        return ", ".join((counted, speed, left))


class TerminalLine:
    """`progress(done, total)` of bytes for commands: a terminal's line that changes, elsewhere one every ten seconds."""

    def __init__(self, name: str = "") -> None:
        self.name = f"{name}: " if name else ""
        self.rate, self.last, self.live = Rate("B"), time.monotonic(), sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        line, now = self.name + self.rate.line(done, total), time.monotonic()
        if now - self.last >= (0.2 if self.live else 10.0) or (self.live and done == total):
            self.last = now
            ending = "\n" if done == total or not self.live else ""
            sys.stderr.write((f"\r{line:<78}" if self.live else line) + ending)
            sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 80 s, 5 min, 1 h 20 min."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join(f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min")) if count)


def size(count: int) -> str:
    """Bytes as a person says them: 12.3 MB, 4 KB."""
    for scale, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= scale:
            return f"{count / scale:.1f} {name}"
    return f"{count / 1e3:.0f} KB"


def program_ends() -> bool:
    """Whether Python has begun to exit: it waits for the threads of pools, and they for whole files."""
    return getattr(concurrent.futures.thread, "_shutdown", False)

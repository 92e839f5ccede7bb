"""What a person sees while a command works: one bar per stage on a terminal, plain lines elsewhere, nothing with --json."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Advance = Callable[[int], None]


class Progress:
    """Tells on stderr how far each stage is. `quiet` says nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """A bar from `done` to `total`; call the given function with the number of things newly done."""
        if self.quiet or total == 0:
            yield lambda n: None
        elif sys.stderr.isatty():
            with _bar() as bar:
                task = bar.add_task(title, total=total, completed=done)
                yield lambda n: bar.advance(task, n)
        else:
            begun = time.monotonic()
            yield lambda n: None
            self.say(f"{title:<22} {total:>7,}  {time.monotonic() - begun:6.1f} s" + (f"  ({done:,} were done before)" if done else ""))

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def stderr_to(log: Path) -> Iterator[None]:
    """What engines say on the error stream of this process meanwhile, and a JVM that is started meanwhile ever after, goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(sink)
        os.close(kept)


def _bar():  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Bars(*columns, console=Console(stderr=True))

"""What a person sees while a command works: one bar per stage on a terminal, plain lines elsewhere, nothing with --json."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def _bar():  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Bars(*columns, console=Console(stderr=True))

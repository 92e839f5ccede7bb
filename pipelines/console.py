"""What the commands share: their common arguments, how errors are told, how tables are printed.

File names and texts come from anybody: characters that a terminal would obey are written out before it sees them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.wording import visible

if TYPE_CHECKING:
    from manifests.tables import ManifestStore

Dataset = Annotated[Path, typer.Argument(help="Folder of the dataset, as given to `dailies curate --out`.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value overrides of the configuration, e.g. rules.motion.threshold=3")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
Version = Annotated[int | None, typer.Option("--version", help="Version of the manifest; the newest if not given.")]


@contextmanager
def errors(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds are told in a sentence, with exit status 2; others are bugs and keep their traceback."""
    from manifests.tables import ManifestError

    told: tuple[type[Exception], ...] = (ManifestError, *kinds)
    try:
        yield
    except told as error:
        _tell(str(error))
        raise typer.Exit(2) from error


def store_of(dataset: Path) -> "ManifestStore":
    """The manifest of the dataset; where there is none, a sentence says how to make one, with exit status 2."""
    from manifests.tables import ManifestStore

    store = ManifestStore(dataset)
    if store.version() < 0:
        _tell(f"{dataset}: expected a dataset with a manifest, found none; make one with `dailies curate INPUT --out {dataset}`")
        raise typer.Exit(2)
    return store


def print_table(names: list[str], rows: list[list[str]]) -> None:
    """The rows under their names, for people: no lines, no colours, nothing in the cells is read as markup or moves the cursor."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(Text(visible(name)))  # a column may be named by who writes the query, a run or a set by who configures it
    for row in rows:
        table.add_row(*(Text(visible(v)) for v in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def cell(value: Any) -> str:
    """A value as a table shows it: nothing for null, hexadecimal for bytes."""
    return "" if value is None else value.hex() if isinstance(value, bytes) else str(value)


def plain(value: Any) -> Any:
    """What JSON has no type for, as text."""
    return value.hex() if isinstance(value, bytes) else str(value)


def _tell(message: str) -> None:
    """Further lines (an error in SQL has some) are set in, so that no file name can pass for a message of its own."""
    print("dailies: " + "\n  ".join(visible(line) for line in message.split("\n")), file=sys.stderr)

"""What the commands share: their common arguments, how errors are told, how tables are printed.

File names and texts come from anybody: characters that a terminal would obey are written out before it sees them.
"""

import math
import os
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
_ANY_WIDTH = 1 << 20
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
Version = Annotated[int | None, typer.Option("--version", min=0, help="Version of the manifest; the newest if not given.")]


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


def need_dataset(dataset: Path) -> None:
    """There is a dataset, or what a run has left that was killed before it committed anything; otherwise as `store_of`."""
    if not (dataset / "work").is_dir():
        store_of(dataset)


def store_of(dataset: Path) -> "ManifestStore":
    """The manifest of the dataset; where there is none, a sentence says how to make one, with exit status 2."""
    from manifests.tables import ManifestStore

    store = ManifestStore(dataset)
    if store.version() < 0:
        _tell(f"{dataset}: expected a dataset with a manifest, found none; make one with `dailies curate INPUT --out {dataset}`")
        raise typer.Exit(2)
    return store


def need_file(path: Path) -> Path:
    """The path of a regular file; anything else is told, with exit status 2: reading a pipe or a device may have no end."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "what is no regular file" if path.exists() else "nothing there"
        _tell(f"{path}: expected a file, found {found}")
        raise typer.Exit(2)
    return path


def tell_unreadable(error: Exception) -> int:
    """An error of the libraries that read the manifest is told with its remedy; gives the exit status. Other errors are raised again."""
    of_a_library = type(error).__module__.partition(".")[0] in ("pyarrow", "duckdb", "_duckdb")
    of_delta = (exceptions := sys.modules.get("deltalake.exceptions")) is not None and isinstance(error, exceptions.DeltaError)
    if not (of_a_library or of_delta) or os.environ.get("DAILIES_TRACEBACK"):
        raise error
    _tell(
        f"a file of the manifest cannot be read: {error}\n`dailies verify DATASET` says which; if all hold, this is a bug, "
        "and DAILIES_TRACEBACK=1 shows where"
    )
    return 2


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
    # A screen is as wide as it is; a file or a program gets whole values.
    Console(width=None if sys.stdout.isatty() else _ANY_WIDTH).print(table)


def cell(value: Any) -> str:
    """A value as a table shows it: nothing for null, hexadecimal for bytes."""
    return "" if value is None else value.hex() if isinstance(value, bytes) else str(value)


def plain(value: Any) -> Any:
    """What JSON has no type for, as text."""
    return value.hex() if isinstance(value, bytes) else str(value)


def finite(value: Any) -> Any:
    """The value as JSON has it: null for what is no finite number, also within lists and structs."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list) else value


def _tell(message: str) -> None:
    """Further lines (an error in SQL has some) are set in, so that no file name can pass for a message of its own."""
    print("dailies: " + "\n  ".join(visible(line) for line in message.split("\n")), file=sys.stderr)

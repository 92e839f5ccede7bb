"""The shape of the project: import direction, bans, and that the documents tell the truth."""

import ast
import re
from pathlib import Path

import pytest

from pipelines import provenance
from pipelines.provenance import PACKAGES, check_packages

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {"manifests": set(), "curation": {"manifests"}, "training": {"manifests"}, "pipelines": {"manifests", "curation", "training"}}
SOURCES = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
HEAVY = {"manifests": {"ray", "pyspark", "torch", "av", "cv2", "PIL", "numpy.random"}}


def _imports(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


def _pins(path: Path) -> set[str]:
    """The lines of a list of pinned packages that hold on every platform."""
    return {line.strip() for line in path.read_text().splitlines() if "==" in line and ";" not in line}


def test_the_reader_of_paddleocr_has_what_all_tests_need() -> None:
    """What tests/conftest.py imports is in the second environment's list too, at the same versions."""
    needed = {name.split(".")[0] for name in _imports(ast.parse((ROOT / "tests" / "conftest.py").read_text()))}
    every, paddle = _pins(ROOT / "requirements.txt"), _pins(ROOT / "requirements-paddle.txt")
    of_tests = {pin for pin in every if pin.split("==")[0] in needed}
    assert {pin.split("==")[0] for pin in of_tests} >= {"pytest", "hypothesis"}
    assert of_tests <= paddle


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_import_in_one_direction(path: Path) -> None:
    """manifests <- curation, manifests <- training, and only pipelines imports all three; manifests needs no engine or media library."""
    package = path.relative_to(ROOT).parts[0]
    imported = {name.split(".")[0] for name in _imports(ast.parse(path.read_text()))}
    assert imported & set(PACKAGES) <= ALLOWED[package] | {package}
    assert not imported & HEAVY.get(package, set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_uses_pickle_or_global_random_state(path: Path) -> None:
    """No pickle, no `random`, no seeding of numpy's or torch's global generators, no torch.load that would run code."""
    text = path.read_text()
    assert not {"pickle", "dill", "cloudpickle", "random"} & _imports(ast.parse(text))
    assert not re.search(r"np\.random\.(seed|rand|randn|randint|choice|shuffle)\(|torch\.manual_seed\(", text)
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_public_name_has_a_docstring(path: Path) -> None:
    """Modules, public functions and public classes say what is true afterwards."""
    tree = ast.parse(path.read_text())
    assert not path.read_text().strip() or ast.get_docstring(tree), "module"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_the_four_packages_come_from_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard that the command runs accepts this tree, and names a package that lies elsewhere."""
    check_packages()
    monkeypatch.setattr(provenance, "PACKAGES", (*PACKAGES, "json"))
    with pytest.raises(RuntimeError, match="'json' is taken from"):
        check_packages()


def test_readme_lists_every_file_of_the_packages() -> None:
    """The tree at the end of README names each module, and no module that is not there."""
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    listed = set(re.findall(r"^\s*([\w/]+\.py)\s", tree, re.M))
    found = {str(p.relative_to(ROOT)) for p in SOURCES if p.name != "__init__.py"}
    assert listed == found


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_a_benchmark_runs_from_its_file(path: Path) -> None:
    """A script of benchmarks/ that imports another finds it wherever it is called from, as its own first lines say it is called."""
    text = path.read_text()
    if "__main__" in text and any(name.startswith("benchmarks") for name in _imports(ast.parse(text))):
        assert "sys.path.insert(0, " in text

"""The shape of the code: sizes, and who may import what; import-linter sees indirect chains too."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arch.sources import EVERYTHING, PACKAGES, ROOT, files, functions, imports, name, tree

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70
MAX_NESTING = 4

SANS_IO = ("common/media", "common/track", "common/formats", "common/wire", "balancer/policy.py")
FOR_IO = {
    *("asyncio", "socket", "ssl", "selectors", "threading", "subprocess", "multiprocessing"),
    *("aiohttp", "zmq", "av", "time", "random", "requests", "urllib.request"),
}
UNWANTED = {"pickle", "shelve", "marshal"}
NESTING = (
    *(ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.TryStar),
    ast.Match,
)
NAMES = {
    "markdown_it": "markdown_it_py",
    "consul": "py-consul",
    "prometheus_client": "prometheus-client",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
"""Modules whose distribution is called differently."""


def top(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_files_are_small() -> None:
    sizes = {name(path): len(path.read_text().splitlines()) for path in files(*EVERYTHING)}
    assert {path: size for path, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_functions_are_small() -> None:
    large = {
        f"{name(path)}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in files(*EVERYTHING)
        for function in functions(path)
    }
    assert {where: size for where, size in large.items() if size > MAX_FUNCTION_LINES} == {}


def depth(node: ast.AST, level: int = 0) -> int:
    """Return how deep the blocks in a function are nested; ``elif`` does not count as deeper."""
    deepest = level
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            chained = isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If)
            inner = level + (isinstance(child, NESTING) and not chained)
            deepest = max(deepest, depth(child, inner))
    return deepest


def test_nesting_is_shallow() -> None:
    depths = {
        f"{name(path)}:{function.name}": depth(function)
        for path in files(*PACKAGES)
        for function in functions(path)
    }
    assert {where: deep for where, deep in depths.items() if deep > MAX_NESTING} == {}


def test_sans_io_code_has_no_sockets_no_loop_and_no_clock() -> None:
    guilty = {name(path): imports(path) & FOR_IO for path in files(*SANS_IO)}
    assert {path: names for path, names in guilty.items() if names} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package: str) -> None:
    forbidden = set(PACKAGES) - {package, "common"}
    guilty = {name(path): top(imports(path)) & forbidden for path in files(package)}
    assert {path: names for path, names in guilty.items() if names} == {}


@pytest.mark.parametrize("folder", ["origin/inputs", "edge/outputs"])
def test_protocols_never_import_each_other(folder: str) -> None:
    package = folder.replace("/", ".")
    guilty = {
        name(path): {
            module
            for module in imports(path)
            if module.startswith(f"{package}.") and not module.startswith(f"{package}.{path.stem}")
        }
        for path in files(folder)
    }
    assert {path: names for path, names in guilty.items() if names} == {}


def test_nothing_is_ever_unpickled() -> None:
    guilty = {name(path): top(imports(path)) & UNWANTED for path in files(*EVERYTHING)}
    assert {path: names for path, names in guilty.items() if names} == {}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + (ROOT / "requirements/dev.in").read_text().splitlines()
    words = [line.replace("=", " ").replace(">", " ").replace("<", " ").split() for line in lines]
    return {word[0].lower().replace("-", "_") for word in words if word and word[0] != "-c"}


def foreign() -> Iterator[tuple[Path, str]]:
    for path in files(*EVERYTHING):
        for module in top(imports(path)):
            if module not in sys.stdlib_module_names and module not in EVERYTHING:
                yield path, module


def test_every_foreign_module_is_a_declared_dependency() -> None:
    known = declared()
    guilty = {
        f"{name(path)}: {module}"
        for path, module in foreign()
        if NAMES.get(module, module).replace("-", "_") not in known
    }
    assert guilty == set()


def test_main_has_no_loose_ends() -> None:
    words = [
        *("TODO", "FIXME", "XXX", "NotImplementedError", "importorskip"),
        *("pytest.skip", "pytest.mark.skip", "pytest.xfail", "pytest.mark.xfail"),
    ]
    guilty = {
        f"{name(path)}: {word}"
        for path in files(*EVERYTHING)
        for word in words
        if word in path.read_text() and path != Path(__file__)
    }
    assert guilty == set()


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in files("tests")}
    assert {name(folder) for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_tests_of_real_processes_are_where_make_e2e_looks() -> None:
    found = {name(path) for path in files("tests") if "mark.e2e" in path.read_text()}
    found.discard(name(Path(__file__)))
    assert not [one for one in found if not one.startswith(("tests/e2e/", "tests/integration/"))]


def test_every_module_says_what_it_is_for() -> None:
    silent = [name(p) for p in files(*PACKAGES, "bench") if not ast.get_docstring(tree(p))]
    assert silent == []


def test_names_of_tests_are_sentences() -> None:
    short = [
        f"{name(path)}:{function.name}"
        for path in files("tests")
        for function in functions(path)
        if function.name.startswith("test_") and function.name.count("_") < 2
    ]
    assert short == []

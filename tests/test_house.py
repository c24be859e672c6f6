"""What keeps the house in order, where no tool for it has to be installed: who imports whom, how long files are, that a
table has one name, that public functions say their types, and that the metadata name whatever is imported.

``make lint`` asks import-linter for the same floors: both read ``[tool.importlinter]`` in pyproject.toml.
"""

import ast
import configparser
import importlib
import importlib.metadata
import inspect
import re
import statistics
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("linf_plugin", "onnx_export", "comparisons")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
FLOORS = [contract for contract in CONTRACTS if contract["type"] == "layers"]

LONGEST, MEDIAN = 400, 130  # lines of a file
SHARED_NAMES: set[str] = set()  # of tables in two modules: there are none

# Imports that the metadata do not name, and why.
UNNAMED = {"auto_LiRPA": "its own metadata forbid a current torch; the Makefile installs it without its dependencies"}


def _modules() -> dict[str, Path]:
    """The modules of the packages by their dotted names."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = _modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def _imports(name: str) -> set[str]:
    """The modules of the packages that a module imports, also inside functions."""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return found & MODULES.keys()


IMPORTS = {name: _imports(name) for name in MODULES}


def _ignored(contract: dict, importer: str, imported: str) -> bool:
    pairs = (pair.split(" -> ") for pair in contract.get("ignore_imports", ()))
    return any(fnmatch(importer, a) and fnmatch(imported, b) for a, b in pairs)


def _unit(name: str, container: str) -> str | None:
    """The child of a container that a module is in; of no container, its package."""
    if not container:
        return name.split(".")[0]
    inside = name.removeprefix(f"{container}.")
    return None if inside == name else inside.split(".")[0]


@pytest.mark.parametrize("contract", FLOORS, ids=lambda contract: contract["name"])
def test_imports_go_down(contract):
    (container,) = contract.get("containers", [""])
    rows = [re.split(r"\s*[|:]\s*", row) for row in contract["layers"]]
    floor = {unit.strip("()"): i for i, row in enumerate(rows) for unit in row}
    wrong = []
    for importer, targets in IMPORTS.items():
        above = _unit(importer, container)
        if above is None or above in contract.get("exhaustive_ignores", ()):
            continue
        assert above in floor, f"{importer} has no floor in pyproject.toml"
        for imported in targets:
            below = _unit(imported, container)
            if below not in (None, above) and floor[above] >= floor[below]:
                wrong += [f"{importer} imports {imported}"] * (not _ignored(contract, importer, imported))
    assert not wrong


def test_no_module_is_imported_by_what_it_imports():
    done, path = set(), []

    def visit(name):
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(IMPORTS[name]):
                visit(other)
            done.add(path.pop())

    for name in sorted(MODULES):
        visit(name)


def test_nobody_imports_the_face_of_a_package_that_he_is_in():
    wrong = [
        f"{name} imports {other}"
        for name, targets in IMPORTS.items()
        for other in targets
        if name.startswith(f"{other}.") and MODULES[other].name == "__init__.py"
    ]
    assert not wrong


def test_files_are_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES.values()}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}
    assert statistics.median(lengths.values()) < MEDIAN


def _tables(tree: ast.Module) -> set[str]:
    """The names in capitals that a module gives to tables."""
    literal = (ast.Dict, ast.List, ast.Set, ast.Tuple, ast.DictComp, ast.ListComp, ast.SetComp)
    found = set()
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            called = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") in ("dict", "frozenset")
            if called or isinstance(node.value, literal):
                found |= {target.id for target in targets if isinstance(target, ast.Name) and target.id.isupper()}
    return found


def test_a_table_has_a_name_of_its_own():
    places: dict[str, list[str]] = {}
    for name, tree in TREES.items():
        for table in _tables(tree):
            places.setdefault(table, []).append(name)
    assert {table: names for table, names in places.items() if len(names) > 1 and table not in SHARED_NAMES} == {}


def _callables(value: object) -> dict[str, object]:
    """A public function, or the public methods of a public class and how it is made."""
    if not inspect.isclass(value):
        return {"": value} if inspect.isroutine(value) else {}
    return {
        name: method
        for name, method in vars(value).items()
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_"))
    }


FACES = [name for name, path in MODULES.items() if path.name == "__init__.py" and "__all__" in path.read_text()]


@pytest.mark.parametrize("face", FACES)
def test_public_functions_say_their_types(face):
    module, untyped = importlib.import_module(face), []
    for name in module.__all__:
        for method, function in _callables(getattr(module, name)).items():
            signature = inspect.signature(function)
            missing = [a.name for a in signature.parameters.values() if a.annotation is a.empty and a.name != "self"]
            if signature.return_annotation is signature.empty and method != "__init__":
                missing.append("return")
            untyped += [f"{name}.{method}: {part}" for part in missing]
    assert not untyped


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_for_others_too(package):
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    assert (ROOT / package / "py.typed").exists()
    assert "py.typed" in metadata["options.package_data"]["*"]


def _required(*extras: str) -> set[str]:
    """The distributions that setup.cfg asks for, with these extras, by their normalised names."""
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    lists = [metadata["options"]["install_requires"], *(metadata["options.extras_require"][name] for name in extras)]
    lines = [line.strip() for text in lists for line in text.splitlines()]
    return {_normal(re.match(r"[\w.-]+", line)[0]) for line in lines if line and not line.startswith("#")}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _foreign(folder: str) -> set[str]:
    """The packages of others that the files of a folder import."""
    tests = ROOT / "tests"
    ours = {*PACKAGES, *(path.stem for path in tests.iterdir() if path.is_dir() or path.suffix == ".py")}
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
    return found - ours - sys.stdlib_module_names - UNNAMED.keys()


ALL = ("bounds", "onnx", "compare", "search")  # the extras that `all` consists of


@pytest.mark.parametrize(
    "folder, extras",
    [
        *((package, (*ALL, "gpu", "marabou", "onnx-models", "tensorboard")) for package in PACKAGES),
        ("tests", (*ALL, "test")),
        ("examples", ALL),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_metadata_name_what_is_imported(folder, extras):
    required, distributions = _required(*extras), importlib.metadata.packages_distributions()
    missing = {
        name: distributions.get(name, [name])
        for name in _foreign(folder)
        if not required & set(map(_normal, distributions.get(name, [name])))
    }
    assert missing == {}


def test_an_exemption_from_a_rule_says_why():
    mark = re.compile(r"#\s*(noqa|type: *ignore)")
    whole = re.compile(r"# (noqa: [A-Z]+\d+(, [A-Z]+\d+)*|type: ignore\[[\w, -]+\])\s+\S+")
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in (*PACKAGES, "tests", "examples")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mark.search(line) and not whole.search(line) and path != Path(__file__)
    ]
    assert not bare

"""How the house is built: floors, sizes, public names, and one lazy face."""

# pyright: reportOptionalOperand=false
# (every statement of a file that was read has lines)

import ast
import graphlib
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rnn_jax

ROOT = Path(__file__).parent.parent
FLOORS = (
    *("machinery", "types", "initializers", "losses", "sequences", "cells", "keys"),
    *("combinators", "dropout", "counting", "schedules", "layers", "readouts", "input_layers"),
    *("diagnostics", "decoding", "bridges", "topologies", "gradients", "training"),
    *("data", "lab", "interop", "__init__"),
)
"""The rooms of rnn_jax from the bottom up: a file imports from its own room and those below, never from the face."""
TOP = ("docs", "experiments", "benchmarks", "tests")
FILES = [file for folder in ("rnn_jax", *TOP) for file in sorted((ROOT / folder).rglob("*.py"))]
MODULES = sorted(name for _, name, _ in pkgutil.walk_packages(rnn_jax.__path__, "rnn_jax."))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(file: Path) -> set[str]:
    """Full names of all that a file imports, inside functions too; relative imports are refused."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno} has a relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def floor_of(name: str) -> int:
    """The floor of a full name of rnn_jax; the face is the highest."""
    room = name.split(".")[1] if "." in name else "__init__"
    return FLOORS.index(room if room in FLOORS else "__init__")


def test_every_room_has_a_floor():
    rooms = {module.split(".")[1] for module in MODULES}
    assert rooms == {*FLOORS} - {"__init__"}


def test_a_file_imports_only_from_its_own_floor_and_those_below():
    for file in FILES:
        if file.is_relative_to(ROOT / "rnn_jax"):
            names = imports_of(file)
            above = {n for n in names if n.split(".")[0] == "rnn_jax" and floor_of(n) > floor_of(module_of(file))}
            above |= {name for name in names if name.split(".")[0] in TOP}
            assert not above, f"{module_of(file)} imports {sorted(above)}, from above"


def test_no_file_looks_up_a_module_by_its_name_in_a_string():
    for file in FILES:
        if file.is_relative_to(ROOT / "rnn_jax"):
            named = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
            assert not named & {*MODULES} - {module_of(file).rpartition(".")[0]}, file


def test_no_imports_go_in_a_circle():
    modules = {module_of(file): file for file in FILES if file.is_relative_to(ROOT / "rnn_jax")}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports_of(file)} & modules.keys()
        for module, file in modules.items()
    }
    graphlib.TopologicalSorter({module: below - {module} for module, below in graph.items()}).prepare()


def test_no_file_is_longer_than_400_lines_and_no_function_than_60_without_its_docstring():
    for file in FILES:
        source = file.read_text()
        assert len(source.splitlines()) <= 400, file
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                words = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
                assert node.end_lineno - node.lineno + 1 - words <= 60, f"{file}: {node.name}"


def test_every_name_of_the_face_is_there_and_every_module_and_every_type_of_params_and_states():
    assert {*rnn_jax.__all__} <= {*dir(rnn_jax)}
    assert {module.split(".")[1] for module in MODULES} <= {*rnn_jax.__all__}
    for name in rnn_jax.__all__:
        assert getattr(rnn_jax, name) is not None
    for module in map(importlib.import_module, MODULES):
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, tuple) and name.endswith(("Params", "State")):
                assert getattr(rnn_jax, name) is value, f"{name} of {module.__name__}"
    with pytest.raises(AttributeError, match=r"^module 'rnn_jax' has no attribute 'lstn'$"):
        getattr(rnn_jax, "lstn")  # noqa: B009


def test_importing_the_face_and_what_is_light_imports_no_jax():
    code = "import rnn_jax, sys; dir(rnn_jax), rnn_jax.__version__, rnn_jax.__all__; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_public_name_of_a_package_hides_a_module_of_it():
    for package in [rnn_jax, *map(importlib.import_module, MODULES)]:
        for _, name, _ in pkgutil.iter_modules(getattr(package, "__path__", [])):
            value = vars(package).get(name, importlib.import_module(f"{package.__name__}.{name}"))
            assert isinstance(value, ModuleType), f"{package.__name__}.{name} is a module, and a {type(value).__name__}"
            assert name not in package.__all__ or isinstance(getattr(package, name), ModuleType)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_is_public_and_that_has_a_docstring(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert len({*module.__all__}) == len(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isfunction(value) or (inspect.isclass(value) and value.__module__.startswith("rnn_jax")):
            assert inspect.unwrap(value).__doc__, f"{public} has no docstring"

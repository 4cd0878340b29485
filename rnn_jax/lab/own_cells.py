"""Your own cells and optimizers: functions from ``FILE.py:function``, with an error of one line for wrong ones."""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.data import text
from rnn_jax.keys import unkey
from rnn_jax.lab.commands import describe_errors_with
from rnn_jax.types import Cell, Keyed

__all__ = ["digests_of", "error_in_own_file", "naming", "own_cell", "own_function", "require_floating_state"]

FILES: dict[str, str] = {}
"""``{path: file}``: every source file that was loaded, and the file on the command line that needs it."""
LONGEST = 100  # bytes of a function's name, which becomes part of file names


def own_cell(name: str, input_size: int, hidden_size: int, reads_ids: bool) -> Cell:
    """The cell that ``function(input_size, hidden_size)`` of ``FILE.py:function`` returns, checked by abstract steps.

    Args:
        name: ``FILE.py:function``.
        input_size, hidden_size: the arguments of the function.
        reads_ids: whether inputs are ids. The inputs of a cell of vectors are then one-hot vectors ``(input_size,)``;
            the inputs of a cell whose step works on ids alone are the ids.

    Raises:
        ValueError: for a file or function that does not exist, that raises, or that returns no cell.
    """
    function, digest = own_function(name), _digest(Path(name.rpartition(":")[0]).resolve())
    with naming(name):
        cell = function(input_size, hidden_size)
        if not isinstance(cell, Cell):
            raise ValueError(
                f"cell got {name!r}, which returned {type(cell).__name__}; want a Cell: see cell_from_step"
            )
    if not reads_ids:
        _tried(name, digest, input_size, hidden_size, ids=False)
        return cell
    return one_hot(cell, input_size) if _reads_vectors(name, digest, input_size, hidden_size) else cell


def own_function(
    name: str, what: str = "cell", arguments: Sequence[str] = ("input_size", "hidden_size")
) -> Callable[..., Any]:
    """The function that ``FILE.py:function`` names.

    Args:
        name: ``FILE.py:function``.
        what: the option, for messages.
        arguments: names of the arguments that the function takes.

    Raises:
        ValueError: for a file or a function that does not exist, that raises, or that takes other arguments.
    """
    file, _, function = name.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(f"{what} got {name!r}, whose file {file} is not there; want FILE.py:function")
    if not function.isidentifier() or function.startswith("_") or len(function.encode()) > LONGEST:
        raise ValueError(
            f"{what} got {name!r}; want FILE.py:function, the function's name of letters, digits and underscores, "
            f"beginning with a letter and of at most {LONGEST} bytes, as files are called after it"
        )
    with naming(name, what):
        module = _load(Path(file).resolve(), _digest(Path(file).resolve()), file)
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{what} got {name!r}, but {file} has no function {function!r}; want FILE.py:function")
    made = getattr(module, function)
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):  # some callables have no signature
        return made
    try:
        signature.bind(*[1] * len(arguments))
    except TypeError:
        raise ValueError(f"{what} got {name!r}, which takes {signature}; want ({', '.join(arguments)})") from None
    return made


def digests_of(names: Iterable[str], fact: str = "cell_sha256") -> dict[str, dict[str, str]]:
    """The SHA-256 of each file of these cells, ``{fact: {file: digest}}``, so that a run goes on only with equal files.

    Modules in the folder of a file that it imports belong to it. Empty if all cells are those of the library.
    """
    files = dict.fromkeys(name.rpartition(":")[0] for name in names if ":" in name)
    return {fact: {file: _digest(Path(file).resolve()) for file in files}} if files else {}


def one_hot(cell: Cell, size: int) -> Cell:
    """A cell of vectors as a cell of ids, each of which becomes √V times a one-hot vector.

    So a matrix that begins with ``scaled_normal``, for inputs of unit variance, gives products of unit variance, as
    ``unit_normal`` does in the cells of the library, which gather rows. (Under Adam the products then also change √V
    times as much at each update as theirs, so early in training such a cell learns faster.)
    """

    def project(params, x):
        ids, key = unkey(x)
        character = size**0.5 * text.one_hot(ids, size)
        return cell.project(params, character if key is None else Keyed(character, key))

    return cell._replace(project=project)


def error_in_own_file(error: BaseException, name: str = "", what: str = "cell") -> str | None:
    """One line for an error that passed through your own file, with the last of its lines; None for other errors.

    Args:
        error: with its traceback.
        name: ``FILE.py:function``, if known.
        what: the option, for the message.
    """
    where, tb = None, error.__traceback__
    while tb is not None:
        file = tb.tb_frame.f_code.co_filename
        if file in FILES:
            where = FILES[file], f"{Path(file).name}:{tb.tb_lineno}"
        tb = tb.tb_next
    if where is None:
        return None
    return f"{what} got {name or where[0]!r}, which raised {type(error).__name__} at {where[1]}{_message(error)}"


describe_errors_with(error_in_own_file)


@contextlib.contextmanager
def naming(name: str, what: str = "cell") -> Iterator[None]:
    """A context that turns any error of your own file into a ValueError of one line with the file and its line."""
    try:
        yield
    except SyntaxError as error:
        raise ValueError(f"{what} got {name!r}, whose file is no Python ({error}); want FILE.py:function") from None
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{what} got"):  # one line already
            raise
        here = f"{what} got {name!r}, which raised {type(error).__name__}{_message(error)}"
        raise ValueError(error_in_own_file(error, name, what) or here) from None


def _message(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f": {message[:300]}" if message else ""


@functools.cache
def _load(file: Path, digest: str, given: str) -> ModuleType:
    """The module of a file with this digest; its folder is put on the path for other modules that it imports."""
    spec = importlib.util.spec_from_file_location(f"own_cell_{file.stem}_{digest[:8]}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"cell got {given}, which is no Python; want FILE.py:function")
    module = importlib.util.module_from_spec(spec)
    sources = _sources(file)
    FILES.update(dict.fromkeys(map(str, sources), given))
    if str(file.parent) in sys.path:
        sys.path.remove(str(file.parent))
    sys.path.insert(0, str(file.parent))
    for known in _known(sources):
        del sys.modules[known]  # of an earlier state of these files, or of another folder
    importlib.invalidate_caches()
    sys.modules[spec.name] = module
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is written into that folder
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    for known in _known(sources):
        vars(sys.modules[known])["_is_own"] = True
    return module


def _known(sources: list[Path]) -> list[str]:
    """The modules in memory with the names of these files, the first of which lies in the folder of all."""
    folder = sources[0].parent
    names = {path.relative_to(folder).parts[0].removesuffix(".py") for path in sources} - _foreign(folder)
    return [name for name in sys.modules if name.partition(".")[0] in names]


def _digest(file: Path) -> str:
    """The SHA-256 of a file, or of those of it and of the files that it imports, one after the other."""
    digests = [hashlib.sha256(source.read_bytes()).hexdigest() for source in _sources(file)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _sources(file: Path) -> list[Path]:
    """A file, and those beside it that it imports, directly or through others; whole packages."""
    found, waiting = {}, [file]
    while waiting:
        source = waiting.pop(0)
        found[source] = None
        near = (file.parent / name for name in _imported(source) - _foreign(file.parent))
        files = [path for name in near for path in [name.with_suffix(".py"), *sorted(name.rglob("*.py"))]]
        waiting += [path for path in sorted(files) if path.is_file() and path not in found and path not in waiting]
    return list(found)


@functools.cache
def _foreign(folder: Path) -> frozenset[str]:
    """Names of modules that were loaded before any cell of this folder."""
    return frozenset(
        name for name, module in list(sys.modules.items()) if "_is_own" not in getattr(module, "__dict__", {})
    )


def _imported(source: Path) -> set[str]:
    """The first names of all modules that a source file imports, anywhere in it."""
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


@functools.cache
def _reads_vectors(name: str, digest: str, input_size: int, hidden_size: int) -> bool:
    """Whether the cell of a file with this digest reads one-hot vectors; False for one that works on ids alone."""
    try:
        _tried(name, digest, input_size, hidden_size, ids=False)
    except ValueError as error:
        try:
            _tried(name, digest, input_size, hidden_size, ids=True)
        except ValueError as with_ids:
            ways = f" (a character is read as a one-hot vector ({input_size},), or as its id)"
            raise ValueError(f"{error}{'' if str(with_ids) == str(error) else ways}") from None
        return False
    return True


@functools.cache
def _tried(name: str, digest: str, input_size: int, hidden_size: int, *, ids: bool) -> None:
    """Raises a ValueError unless a cell takes abstract steps that keep its state's shapes, alone and in a batch."""
    function = own_function(name)
    with naming(name):
        cell = function(input_size, hidden_size)
        params = jax.eval_shape(cell.init, jax.random.key(0))
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params)):
            raise ValueError(f"cell got {name!r}, whose params are {_shapes(params)}; want floating numbers to learn")
        for batch in ((), (2,)):
            vector = jax.ShapeDtypeStruct((*batch, input_size), jnp.zeros(()).dtype)
            x = jax.ShapeDtypeStruct(batch, jnp.int32) if ids else vector
            before = jax.eval_shape(lambda params, batch=batch: cell.start(params, batch), params)
            after = jax.eval_shape(cell.step, params, before, x)
            if _shapes(after) != _shapes(before):
                raise ValueError(
                    f"cell got {name!r}, whose step makes {_shapes(after)} of the state {_shapes(before)}; "
                    "want the same shapes and types"
                )
            y = jax.eval_shape(cell.output, params, after)
            kinds = [(leaf.shape[:-1], jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in jax.tree.leaves(y)]
            if kinds != [(batch, True)]:
                raise ValueError(f"cell got {name!r}, whose output is {_shapes(y)}; want one array of floating numbers")


def require_floating_state(name: str, cell: Cell) -> None:
    """Raises a ValueError for a state with anything but floating numbers, with respect to which nothing is derived."""
    state = jax.eval_shape(cell.start, jax.eval_shape(cell.init, jax.random.key(0)))
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(state)):
        raise ValueError(f"cell got {name!r}, whose state is {_shapes(state)}; want floating numbers to derive by")


def _shapes(tree: Any) -> str:
    """Types and shapes of a tree of arrays, such as ``LSTMState(h=float32[5], c=float32[5])``."""
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")

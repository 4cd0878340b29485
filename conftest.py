"""Strict by default: float64, checked shapes, no silent rank or type promotion, warnings as errors."""

import os

from tests.quick_compilation import FLAGS

os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"

os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # lines of source in every operation, which none reads

import functools
import gc
import inspect
import signal
import tempfile
from importlib.util import find_spec
from pathlib import Path

import jax
import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is asked for
with_shapes = jaxtyping.jaxtyped


def with_types(*, typechecker):
    """``jaxtyped`` for functions whose annotations name a shape; for others the check of types, in a tenth of it."""

    def decorate(function):
        hints = [*getattr(function, "__annotations__", {"": ""}).values()]
        if inspect.isclass(function) or any(isinstance(hint, str) or names_a_shape(hint) for hint in hints):
            return with_shapes(function, typechecker=typechecker)
        checked = typecheck(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

        return call if hints else function

    return decorate


def names_a_shape(hint):
    """Whether an annotation holds a type of arrays; a PyTree of anything is no such type."""
    return "jaxtyping" in repr(hint).replace("jaxtyping.PyTree'", "")


jaxtyping.jaxtyped = with_types  # which the import hook writes above every function
jaxtyping.install_import_hook("rnn_jax", "conftest.typecheck").__enter__()

os.environ.setdefault("KERAS_HOME", f"{tempfile.gettempdir()}/keras_of_tests")  # else Keras writes in the user's home

PEERS = {"torch_modules": "torch", "keras_models": "keras", "haiku_weights": "haiku", "equinox_weights": "equinox"}
"""Modules whose examples run only where another library is installed (``make peers``)."""
collect_ignore = [f"rnn_jax/interop/{module}.py" for module, peer in PEERS.items() if find_spec(peer) is None]

settings.register_profile("laws", deadline=None, max_examples=5, derandomize=True)
settings.load_profile("laws")


gc.set_threshold(100_000, 50, 50)  # tracing makes many objects, most of which need no collector


def pytest_collection_finish():
    """Leaves what is imported out of every later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts this process and those that it starts, even if the suite was started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_runtest_teardown(item, nextitem):
    """Forgets compiled programs between modules where they fill the memory, in which XLA's code must lie together."""
    if (nextitem is None or nextitem.path != item.path) and resident_memory() > 2.0e9:
        jax.clear_caches()
        gc.collect()


def resident_memory():
    """Bytes of memory that this process has; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0

"""A Sphinx extension: the API pages, written from every ``__all__``, and links between pages and docstrings."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from docutils import nodes

import rnn_jax

ORDER = ["types", "cells", "initializers", "combinators", "readouts", "input_layers", "keys", "dropout", "schedules"]
ORDER += ["sequences", "layers", "bridges", "topologies", "losses", "decoding", "gradients", "diagnostics", "training"]
ORDER += ["parallel", "counting", "data", "lab", "interop"]
HIDDEN = {"machinery"}  # what the library is made of inside
INTRODUCTION = """# API reference

Everything public, from the docstrings. `import rnn_jax` also gives the names that are used most: `rnn_jax.lstm` is
`rnn_jax.cells.lstm`. Every example is run by the tests.

"""


class Page(NamedTuple):
    """What one module offers."""

    module: str
    title: str
    functions: list[str]
    classes: list[str]
    values: list[str]


def public_names(module: ModuleType) -> list[str]:
    """The names in ``__all__`` of a package; of a plain module those that it defines itself."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [name for name in vars(module) if not name.startswith("_")]
        names = [name for name in names if callable(getattr(module, name))]
    if not hasattr(module, "__path__") or not hasattr(module, "__all__"):
        names = [
            name for name in names if getattr(getattr(module, name), "__module__", module.__name__) == module.__name__
        ]
    return [name for name in names if not inspect.ismodule(getattr(module, name))]


def modules() -> list[ModuleType]:
    """The modules of the library in the order of the pages; a package without ``__all__`` gives its own modules."""
    names = [found.name for found in pkgutil.iter_modules(rnn_jax.__path__) if found.name not in HIDDEN]
    names.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    found = []
    for name in names:
        module = importlib.import_module(f"rnn_jax.{name}")
        if hasattr(module, "__path__") and not hasattr(module, "__all__"):
            inner = sorted(found.name for found in pkgutil.iter_modules(module.__path__))
            found += [importlib.import_module(f"rnn_jax.{name}.{part}") for part in inner]
        else:
            found.append(module)
    return found


def page_of(module: ModuleType) -> Page:
    """The public names of a module: functions, classes and other values apart, each in the order of the alphabet."""
    names = sorted(public_names(module), key=str.lower)
    classes = [name for name in names if inspect.isclass(getattr(module, name))]
    functions = [name for name in names if inspect.isroutine(getattr(module, name))]
    values = [name for name in names if name not in classes and name not in functions]
    title = (inspect.getdoc(module) or module.__name__).partition("\n")[0].rstrip(".")
    return Page(module.__name__, title, functions, classes, values)


PAGES = [page for page in map(page_of, modules()) if page.functions or page.classes]
PLACES = {name: f"{page.module}.{name}" for page in reversed(PAGES) for name in (*page.functions, *page.classes)}
"""The full name of every function and class that has a place in the reference."""


def write_pages(app: Any) -> None:
    """Writes ``api/*.md``, one page a module, before Sphinx searches its sources."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    for page in PAGES:
        calls = [f".. autofunction:: {page.module}.{name}" for name in page.functions]
        calls += [f".. autoclass:: {page.module}.{name}\n   :members:" for name in page.classes]
        body = "\n\n".join(calls)
        head = "\n\n".join(
            [f"# `{page.module}`", f"{page.title}.", *(constant(page.module, name) for name in page.values)]
        )
        (folder / f"{page.module}.md").write_text(f"{head}\n\n```{{eval-rst}}\n{body}\n```\n")
    rows = "\n".join(f"| [`{page.module}`]({page.module}.md) | {page.title} |" for page in PAGES)
    tree = "\n".join(page.module for page in PAGES)
    table = f"| module | |\n|---|---|\n{rows}\n"
    (folder / "index.md").write_text(f"{INTRODUCTION}{table}\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n")


def constant(module: str, name: str) -> str:
    """One sentence on a value that is no function: its name, and the keys of a dictionary."""
    value = getattr(importlib.import_module(module), name)
    keys = ": " + ", ".join(f"`{key}`" for key in value) if isinstance(value, dict | tuple) else ""
    return f"`{name}`{keys}."


def link_sources(app: Any, name: str, source: list[str]) -> None:
    """Links to files outside ``docs/`` point into the repository; on the site they go to the reference, or are text."""

    def replacement(match: re.Match[str]) -> str:
        text = match[1].strip("`")
        return f"{{py:obj}}`{text} <{PLACES[text]}>`" if text in PLACES else f"`{text}`"

    outside = r"\[([^\]]+)\]\((?:\.\./)+(?!tutorials|howto|api|gallery)[\w./-]+(?<!\.md)\)"
    source[0] = re.sub(outside, replacement, source[0])


def convert_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings as reStructuredText: links for public names, the equations of a cell, no name for a plain field."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    for n, line in enumerate(lines):
        line = re.sub(r"^( +)((?:\*{0,2}\w+, )+\*{0,2}\w+):", lambda names: names[0].replace(",", " ·"), line)
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            parts = [
                part if part.startswith("``") else part.replace("|", r"\|").replace(" **", r" \*\*") for part in parts
            ]
            lines[n] = "".join(linked(part, name) if part.startswith("``") else part for part in parts)
    if what == "function" and (equations := equations_of(obj)):
        lines += ["", "Equations::", "", *(f"    {line}" for line in equations), ""]


def linked(literal: str, own: str) -> str:
    """A name in double backticks as a link to its place in the reference."""
    name = literal.strip("`")
    return f":py:obj:`{name} <{PLACES[name]}>`" if name in PLACES and PLACES[name] != own else literal


def equations_of(factory: Any) -> list[str]:
    """The docstring of the function that holds the equations of a cell; empty for anything else."""
    module = inspect.getmodule(factory)
    name = getattr(factory, "__name__", "")
    found = getattr(module, f"{name}_advance", None) or getattr(module, f"{name}_coefficients", None)
    return (inspect.getdoc(found) or "").replace("``", "").splitlines() if found else []


def short_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Types by their names; classes without a signature, because their fields are listed below it."""
    return ("" if what == "class" else signature and short(signature)), returned and short(returned)


def short(types: str) -> str:
    """Types as the library writes them: ``Array`` for ``jaxlib._jax.Array``, and the names of unions.

    >>> short("key: Key[jaxlib._jax.Array, ''] | UInt32[jaxlib._jax.Array, '2'] | UInt32[jaxlib._jax.Array, '4']")
    'key: PRNGKeyArray'
    """
    types = re.sub(r"~?\b(jaxlib\._jax|jax\._src\.\w+|jaxtyping|collections\.abc|typing)\.", "", types)
    types = types.replace("Key[Array, ''] | UInt32[Array, '2'] | UInt32[Array, '4']", "PRNGKeyArray")
    return types.replace("str | type[Any] | dtype | SupportsDType", "DTypeLike")


def shorten_types(app: Any, doctree: nodes.document) -> None:
    """``Array`` for ``jaxlib._jax.Array`` in every signature."""
    for signature in doctree.findall(lambda node: "desc_" in type(node).__name__):
        for text in list(signature.findall(nodes.Text)):
            if short(text) != text:
                text.parent.replace(text, nodes.Text(short(text)))


def setup(app: Any) -> dict[str, bool]:
    """Registers the functions above."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", link_sources)
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("doctree-read", shorten_types)
    return {"parallel_read_safe": True}

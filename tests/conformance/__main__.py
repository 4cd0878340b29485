"""``python -m tests.conformance``: runs every suite, and writes docs/conformance.md.

With names, such as ``python -m tests.conformance Keras``, only the suites whose names begin so are run, and only their
rows are written anew.
"""

import sys
import time

import jax

jax.config.update("jax_enable_x64", True)

from tests.conformance.keras_live import types_of_float64  # noqa: E402
from tests.conformance.onnx_live import evidence  # noqa: E402
from tests.conformance.report import (  # noqa: E402
    PAGE,
    missing_for,
    read_results,
    result_of,
    suites,
    versions,
    write,
)


def main(names: list[str]) -> int:
    """The exit code: 1 where a case is wrong or a library is missing."""
    chosen = [suite for suite in suites() if not names or suite.name.startswith(tuple(names))]
    missing = sorted({name for suite in chosen for name in missing_for(suite)})
    if missing or not chosen:
        print(
            f"missing: {', '.join(missing)}; install them by make peers" if missing else f"no suite is called {names}"
        )
        return 1
    results = []
    for suite in chosen:
        begin = time.perf_counter()
        try:
            results.append(result_of(suite, suite.cases()))
        except AssertionError as error:
            print(error)
            return 1
        r, seconds = results[-1], time.perf_counter() - begin
        print(f"{r.suite}: {r.cases} cases right, largest error {r.error:.0e}, {seconds:.1f} s", flush=True)
    print(f"{sum(r.cases for r in results)} cases, all right")
    facts, measured = read_results(), {r.suite: r._asdict() for r in results}
    rows = {entry["suite"]: entry for entry in facts["suites"]} | measured
    facts["suites"] = [rows[suite.name] for suite in suites() if suite.name in rows]
    if not names:
        found = [[where, *(f"{number:.8f}" for number in numbers)] for where, *numbers in evidence()]
        facts |= {"versions": versions(), "evidence": found, "types": types_of_float64()}
    write(facts)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The numbers of other libraries, suite by suite, and the page that reports them."""

import json

import pytest

from tests.conformance.cases import Suite
from tests.conformance.faults import FAULTS, ROOT, noticed
from tests.conformance.onnx_stored import TYPED_WRONG
from tests.conformance.report import (
    PAGE,
    RESULTS,
    Result,
    agrees,
    missing_for,
    page,
    read_results,
    result_of,
    suites,
)

SUITES = {suite.name: suite for suite in suites()}
RERUN = "run make conformance, look at what has changed, and commit it"


LIBRARIES = [*dict.fromkeys(name.partition(", ")[0] for name in SUITES)]
"""Stored and live suites of one library run in one test, where they share compiled programs."""


def require_installed(*chosen: Suite) -> None:
    """Skips the test where a library is missing."""
    if missing := {name for suite in chosen for name in missing_for(suite)}:
        pytest.skip(f"{', '.join(sorted(missing))} is not installed: make peers")


def written(name: str) -> Result:
    """What the page says of a suite."""
    return next(Result(**entry) for entry in read_results()["suites"] if entry["suite"] == name)


def test_the_page_is_made_of_the_results():
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text())), RERUN


def test_the_results_are_those_of_the_suites():
    assert [entry["suite"] for entry in read_results()["suites"]] == [*SUITES], RERUN


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_suite_is_right_in_every_case_and_is_that_of_the_page(library):
    chosen = [suite for name, suite in SUITES.items() if name.partition(", ")[0] == library]
    for suite in chosen:
        if not missing_for(suite):
            measured = result_of(suite, suite.cases())
            assert agrees(measured, written(suite.name)), f"{measured} is not that of the page; {RERUN}"
    require_installed(*chosen)


def test_what_is_called_an_error_of_onnx_runtime_is_one_by_its_own_numbers():
    require_installed(SUITES["ONNX Runtime, live"])
    from tests.conformance.onnx_live import evidence

    found = evidence()
    assert len(found) == 2
    for _, theirs, live, ours in found:
        assert theirs == TYPED_WRONG[0]
        assert abs(live - theirs) == pytest.approx(6.1e-5, abs=1e-6)
        assert live == pytest.approx(ours, abs=1e-7)


def test_every_planted_fault_was_noticed_by_the_suite_meant_for_it():
    faults = read_results()["faults"]
    assert [(each["fault"], each["suite"]) for each in faults] == [(fault.name, fault.suite) for fault in FAULTS]
    for each in faults:
        assert noticed(each["wrong"]), each
        assert each["wrong"].endswith(f" of {written(each['suite']).cases}"), (
            f"{each}; python -m tests.conformance.faults"
        )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_still_be_planted(fault):
    assert (ROOT / "rnn_jax" / fault.file).read_text().count(fault.right) == 1

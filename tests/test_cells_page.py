"""docs/cells.md says what the code and the tests say."""

from tests.cells_page import EQUATIONS, PAGE, checks, collect_checks, factories, page


def test_the_page_of_cells_is_what_the_tests_would_write():
    text = page()
    before = PAGE.read_text() if PAGE.is_file() else ""
    PAGE.write_text(text)
    assert before == text, "docs/cells.md had drifted; it is written anew, so look at it and commit it"


def test_every_cell_was_checked_against_something_outside_the_library():
    collect_checks()
    unchecked = [name for name in factories() if not checks(name, EQUATIONS.get(name, name))]
    assert not unchecked

# SPDX-License-Identifier: Apache-2.0
"""The table of faults in the documentation names tests that exist, in each of its rows."""

import ast
import functools
import pathlib
import re

_TESTS = pathlib.Path(__file__).parents[1]
_PAGE = (_TESTS.parent / "docs/faults.rst").read_text(encoding="utf-8")
_TABLE = _PAGE[_PAGE.index(".. faults\n") : _PAGE.index(".. end of faults\n")]
_ROWS = _TABLE.split("\n   * - ")[2:]  # the first is the head's
_NAMED = re.compile(r"``(\S+\.py)::(\w+)``")


@functools.cache
def functions_of(path: pathlib.Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_test_that_the_table_names_exists() -> None:
    named = _NAMED.findall(_TABLE)
    missing = [
        "%s::%s" % (file, test)
        for file, test in named
        if not (_TESTS / file).exists() or test not in functions_of(_TESTS / file)
    ]
    assert named
    assert missing == []
    assert len(named) == _TABLE.count(".py")  # none is written in another way


def test_every_row_has_its_four_columns_and_a_test() -> None:
    assert len(_ROWS) > 40
    for row in _ROWS:
        *_, test = columns = row.split("\n     - ")
        assert len(columns) == 4, row
        assert _NAMED.search(test), row


def test_every_test_of_the_matrix_has_a_row() -> None:
    tests = {
        name
        for name in functions_of(_TESTS / "functional/test_fault_matrix.py")
        if name.startswith("test_")
    }
    assert tests - {test for _file, test in _NAMED.findall(_TABLE)} == set()

"""Every fault of the table is injected by a test, and explained in the guide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import documents

TESTS = Path(__file__).parents[1]
NUMBERED = (
    "C01ab C02abcd C03a C04abcd C05ab C06abc C07ab C08abcdef C10abcdefghi C11ab C12ab "
    "C20abc C21abcde C22ab C23abcd C24a C30abcd C31a C32a C33ab C34ab C35ab C36abc C37a "
    "C40abcde C41abc C42ab C43a C50abcdefg C51a C60abcd C61ab C62a C63abc"
)
"""The numbered faults of a site: each row, and the letters of its faults."""
FAULTS = [f"{row[:3]}.{letter}" for row in NUMBERED.split() for letter in row[3:]]
AS_EGI = [f"C7{number}" for number in range(6)]
"""The rows of EGI's view, each of which is one fault of the table."""
NO_FAULTS = {"test_check_table.py", "test_check_framework.py", "test_check_hanging.py"}
"""Tests that name ids without injecting the faults."""


@pytest.fixture(scope="module")
def injected() -> str:
    """Return the text of all tests that inject faults."""
    found = [
        *TESTS.glob("unit/test_check*.py"),
        *TESTS.glob("e2e/test_check*.py"),
        *TESTS.glob("e2e/test_vm_check*.py"),
    ]
    return "".join(path.read_text() for path in found if path.name not in NO_FAULTS)


def test_the_table_is_whole() -> None:
    assert len(set(FAULTS)) == len(FAULTS) == 97
    assert len(FAULTS) + len(AS_EGI) == 103


def test_every_fault_is_injected_by_a_test(injected: str) -> None:
    named = set(re.findall(r'"(C\d\d(?:\.[a-z])?)(?= |")', injected))
    assert set(FAULTS) - named == set()
    assert set(AS_EGI) - {name.partition(".")[0] for name in named} == set()


def test_every_fault_is_explained_in_the_guide() -> None:
    page = (documents.TOP / "docs/how-to/check-a-site.md").read_text()
    assert [name for name in FAULTS if f"`{name}`" not in page] == []
    assert [row for row in AS_EGI if f"### {row}\n" not in page] == []

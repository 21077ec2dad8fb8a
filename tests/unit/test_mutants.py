"""The mutation tool: which slips it makes, and that it reports those that no test notices."""

import pytest

from tests.mutation.operators import mutants


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("a = b < c", {"a = (b <= c)"}),
        ("a = b < c <= d", {"a = (b <= c <= d)", "a = (b < c < d)"}),
        ("a = b and not c", {"a = (b or not c)", "a = b and c"}),
        ("a = b + 1", {"a = (b - 1)", "a = b + 2"}),
        ("a = b if c else d", {"a = b if (not c) else d"}),
        ("a = any(b)", {"a = all(b)"}),
        ("a = [b for b in c if b]", {"a = [b for b in c if (not b)]"}),
        ("a = True", {"a = False"}),
        ("key.verify(a)", {"pass"}),
        ("raise A(b)", {"pass"}),
        ("def f():\n return b", {"def f():\n return None"}),
        ("while a:\n continue", {"while (not a):\n continue", "while a:\n break"}),
        ("é = b == c", {"é = (b != c)"}),
    ],
)
def test_each_slip(source: str, changed: set[str]) -> None:
    found = {one.apply(source.encode()).decode() for one in mutants(source.encode())}
    assert found == changed


@pytest.mark.parametrize(
    "source",
    [
        '"""Text."""',
        "a: int | None",
        "def f(a: int = b) -> int | None: ...",
        "logger.info(a)",
        "a = 'b'",
    ],
)
def test_no_slip_in_words_types_and_logs(source: str) -> None:
    assert mutants(source.encode()) == []


def test_a_check_for_types_is_deleted_as_a_whole() -> None:
    assert [str(one) for one in mutants(b"isinstance(a, int | str)")] == [
        ": `isinstance(a, int | str)` -> `pass`"
    ]

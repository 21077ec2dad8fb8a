"""The question of import and release: only yes is yes."""

from __future__ import annotations

import argparse
import io

import pytest

from appliance.core.run.errors import UsageError
from cloudkeeper.frontend.commands import hand_over


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["", "y\n", "no\n", "\n"])
def test_nothing_is_changed_without_a_yes(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.setattr("sys.stdin", _Terminal(typed))
    with pytest.raises(UsageError, match="nothing was changed"):
        hand_over._confirm(argparse.Namespace(yes=False), "", number=1)


def test_a_closed_standard_input_needs_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(
        UsageError, match="is not a terminal, so the lines above cannot be confirmed; add --yes"
    ):
        hand_over._confirm(argparse.Namespace(yes=False), "", number=1)
    hand_over._confirm(argparse.Namespace(yes=True), "", number=1)

"""What a source or an administrator may write: any damage is reported, and removes no entry."""

import functools
import re
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.ldif import Entry
from appliance.core.run.errors import ConfigurationError
from bdii import tree
from bdii.entry import CREATION_TIME
from bdii.messages import printable
from bdii.site import settings as site
from bdii.sources import last_good
from bdii.sources.answers import Earlier, ask
from bdii.sources.last_good import LastGood
from bdii.sources.model import LdifSource, SourceAnswer
from tests.e2e.bdii_service import cloud, image

GOOD = cloud(image(1, "a"), image(2, "a", "b"), image(3, "b")).encode()
NOW = datetime(2026, 11, 30, tzinfo=UTC)
PIECES = st.sampled_from(
    [
        *(b"\n", b"\n\n", b"\r\n", b" ", b"dn: ", b"dn:: ", b"o=glue", b"objectClass", b": "),
        *(b":: ", b":< ", b"# failed: a\n", b"changetype: delete\n", b"\0", b"\xff", b"=", b","),
        *(b"\\", b'"', b"+", b"#"),
    ]
) | st.binary(max_size=4)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Cut, replace, insert and repeat parts of a text."""
    data = good
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 200)) | st.just(len(data)))
        new = draw(PIECES | st.just(data[start:end] * 2))
        data = data[:start] + new + data[end:]
    return data


def asked(data: bytes, earlier: Earlier) -> SourceAnswer:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.ldif"
        path.write_bytes(data)
        source = LdifSource(
            "ldif/a.ldif", [path], is_program=False, timeout=timedelta(0), limit=10_000_000
        )
        known = {source.name: earlier}
        (answer,) = ask([source], earlier=known, scratch=None, stop=threading.Event())
    return answer


@functools.cache
def good() -> tuple[SourceAnswer, LastGood]:
    answer = asked(GOOD, Earlier())
    assert answer.tree is not None
    return answer, last_good.advance(None, answer.tree, now=NOW)


@given(damaged(GOOD))
def test_no_damaged_answer_removes_an_entry(data: bytes) -> None:
    """F-I1: whatever a source prints once, all entries stay; most damage is reported."""
    before, last = good()
    answer = asked(data, Earlier(before, last.tree))
    assert not any("bug in this program" in line for line in answer.problems)
    assert all(printable(line) == line for line in answer.problems)
    if answer.tree is None:
        assert answer.problems
        return
    after = last_good.advance(
        last,
        answer.tree,
        now=NOW,
        failed=answer.failed,
        is_complete=answer.is_complete,
        elapsed=timedelta(days=1),
    )
    assert after.tree.keys() >= last.tree.keys()
    limits = last_good.Expiry(timedelta(days=9), None)
    hour = timedelta(hours=1)
    kept, _ = last_good.release({"a": after}, size=8, delay=hour, hold=hour, expiry=limits)
    whole, _, _ = last_good.merge(kept, limits)
    assert whole.keys() >= last.tree.keys()
    for dn, entry in whole.items():
        assert tree.checked(Entry(entry.dn, entry.attributes))[0] == dn


@given(damaged(GOOD))
def test_what_has_not_changed_need_not_be_read_again(data: bytes) -> None:
    """An answer that is compared with the one before says what it says alone."""
    before, last = good()
    alone = asked(data, Earlier())
    compared = asked(data, Earlier(before, last.tree))
    assert (alone.tree is None) is (compared.tree is None)
    assert (alone.failed, alone.problems) == (compared.failed, compared.problems)
    assert (alone.is_complete, alone.is_terminated) == (
        compared.is_complete,
        compared.is_terminated,
    )
    one, other = alone.tree or {}, compared.tree or {}
    assert list(one) == list(other)
    assert all(tree.is_same(one[dn], other[dn], ignoring=CREATION_TIME) for dn in one)


SITE_CFG = b"""\
# the site
SITE_NAME = TEST-SITE
SITE_EMAIL = a@test.org
SITE_SECURITY_EMAIL = b@test.org
SITE_SUPPORT_EMAIL = c@test.org
SITE_DESC = A site
SITE_LAT = 43.46
SITE_LONG = -3.8
OTHERINFO = GRID=EGI
OTHERINFO = TIER=2
"""
DEFAULTS = b"SITE_NAME=TEST-SITE\nSITE_BDII_HOST=bdii.test.org\n"
URLS = b"# BDIIs\nCLOUD ldap://cloud:2170/GLUE2GroupID=cloud,o=glue\nB ldap://b:2170/o=glue\n"
TEXTS = {"site.cfg": SITE_CFG, "defaults": DEFAULTS, "urls": URLS}


@given(st.data(), st.sampled_from(sorted(TEXTS)))
def test_a_damaged_file_of_the_site_is_read_or_named_with_its_line(
    data: st.DataObject, wrong: str
) -> None:
    text = data.draw(damaged(TEXTS[wrong]))
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / name for name in ("defaults", "site.cfg", "urls")]
        for path in paths:
            path.write_bytes(text if path.name == wrong else TEXTS[path.name])
        try:
            read, warnings = site.read(*paths, timeout=timedelta(0))
        except ConfigurationError as error:
            problems = list(error.problems)
            assert problems
        else:
            problems = [*warnings, *read.problems]
            for degrees in (read.latitude, read.longitude):
                assert not degrees or re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+", degrees)
        assert all(problem.path in paths for problem in problems)
        assert all(printable(str(problem)) == str(problem) for problem in problems)

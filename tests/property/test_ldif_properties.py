"""LDIF and names against slapd's tools: slapadd and slapcat round trips, slapdn's equality."""

import io
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core import ldif
from tests.property.examples import examples

SLAPD = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/GLUE20.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "o=glue"
directory {directory}
maxsize 16777216
"""

awkward = st.sampled_from(
    [" a", "a ", ":a", ": a", "<a", "a\nb", "a\0", "#a", "a:b", "dn: o=x", "é", " "]
)
octets = awkward | st.binary(min_size=1, max_size=120).map(
    lambda data: data.decode("utf-8", "surrogateescape")
)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=160)
# slapd folds more than its own names need; letters, blanks and all that has to be escaped are what
# matters here.
names = st.text(st.sampled_from("aAbZ09é,+\"\\<>;=# /:._-'\t"), min_size=1, max_size=24).filter(
    str.strip
)
TYPES = ("o", "GLUE2ServiceID", "GLUE2GroupID", "cn")
rdns = st.lists(
    st.tuples(st.sampled_from(TYPES), names),
    min_size=1,
    max_size=2,
    unique_by=lambda pair: pair[0].lower(),
)

dns = st.lists(rdns, min_size=1, max_size=3)


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("slapd")
    (directory / "slapd.conf").write_text(SLAPD.format(directory=directory))
    yield directory
    for path in directory.glob("*.mdb"):
        path.unlink()


def tool(slapd: Path, name: str, *arguments: str, data: bytes = b"") -> bytes:
    command = [f"/usr/sbin/{name}", "-f", str(slapd / "slapd.conf"), *arguments]
    shown = subprocess.run(
        command, input=data, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert shown.returncode == 0, (shown.stderr.decode(errors="replace")[-400:], data)
    return shown.stdout


@pytest.mark.programs("slapadd")
@settings(max_examples=examples(25))
@given(
    st.lists(
        st.tuples(names, st.lists(octets, min_size=1, max_size=3, unique=True), texts),
        min_size=1,
        max_size=5,
    )
)
def test_a_directory_holds_what_was_written_and_is_read_back(
    slapd: Path, people: list[tuple[str, list[str], str]]
) -> None:
    entries = {
        ldif.normalise_dn(dn): ldif.Entry(
            dn,
            {
                "objectClass": ("person", "extensibleObject"),
                "cn": (name,),
                "sn": ("x",),
                "userPassword": tuple(passwords),
                "GLUE2ServiceID": (text.strip() or "x",),
            },
        )
        for name, passwords, text in people
        for dn in [ldif.child("o=glue", "cn", name)]
    }
    top = ldif.Entry("o=glue", {"objectClass": ("organization",), "o": ("glue",)})
    written = "".join(ldif.write([ldif.Comment("failed: a\nVO"), top, *entries.values()]))
    assert all(len(line) <= 76 for line in written.splitlines())
    for path in slapd.glob("*.mdb"):
        path.unlink()
    tool(slapd, "slapadd", "-q", "-b", "o=glue", data=written.encode("ascii"))
    kept = ldif.parse(tool(slapd, "slapcat", "-b", "o=glue"))
    assert {ldif.normalise_dn(entry.dn) for entry in kept} == entries.keys() | {"o=glue"}
    for entry in kept[1:]:
        wanted = entries[ldif.normalise_dn(entry.dn)]
        assert sorted(entry.get("USERPASSWORD")) == sorted(wanted.get("userPassword"))
        assert entry.get("GLUE2ServiceID") == wanted.get("GLUE2ServiceID")


@given(
    st.lists(
        st.tuples(names, st.lists(octets | st.just(""), min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_written_entries_are_read_as_they_were(people: list[tuple[str, list[str]]]) -> None:
    entries = [
        ldif.Entry(ldif.child("o=x", "cn", name), {"a": tuple(values)}) for name, values in people
    ]
    text = "version: 1\n" + "".join(ldif.write(entries))
    for data in (text.encode(), text.replace("\n", "\r\n").encode()):
        assert list(ldif.read(io.BytesIO(data))) == entries


@pytest.mark.programs("slapadd")
@settings(max_examples=examples(60))
@given(st.lists(dns, min_size=1, max_size=8))
def test_names_are_equal_when_slapd_says_so(
    slapd: Path, listed: list[list[list[tuple[str, str]]]]
) -> None:
    swapped = [[[(kind, value.swapcase()) for kind, value in rdn] for rdn in dn] for dn in listed]
    spelled = [_spelled(dn, style) for dn in [*listed, *swapped] for style in range(3)]
    shown = tool(slapd, "slapdn", *spelled).decode()
    normal = re.findall(r"^normalized: <(.*)>$", shown, re.MULTILINE)
    pretty = re.findall(r"^pretty: {5}<(.*)>$", shown, re.MULTILINE)
    assert len(normal) == len(pretty) == len(spelled)
    ours = [ldif.normalise_dn(dn) for dn in spelled]
    for mine, theirs, shape in zip(ours, normal, pretty, strict=True):
        assert mine == ldif.normalise_dn(theirs) == ldif.normalise_dn(shape)
    for one, left in enumerate(normal):
        for other, right in enumerate(normal[:one]):
            assert (ours[one] == ours[other]) == (left == right)


@given(dns)
def test_a_name_says_its_parts_and_its_parent(dn: list[list[tuple[str, str]]]) -> None:
    text = _spelled(dn, 0)
    assert [list(rdn) for rdn in ldif.parse_dn(text)] == dn
    assert ldif.parent(text) == _spelled(dn[1:], 0)


def _spelled(dn: list[list[tuple[str, str]]], style: int) -> str:
    """Write a name in a form of RFC 4514: escapes of characters and bytes, blanks, capitals."""
    if style == 1:
        return ",".join("+".join(f"{kind}={_octets(value)}" for kind, value in rdn) for rdn in dn)
    parts = ["+".join(f"{kind}={ldif.escape_rdn(value)}" for kind, value in rdn) for rdn in dn]
    return (
        ",".join(parts)
        if style == 0
        else " , ".join(re.sub(r"^(\w+)=", lambda m: m[0].swapcase(), p) for p in parts)
    )


def _octets(value: str) -> str:
    return "".join(f"\\{octet:02x}" for octet in value.encode())


LINES = st.sampled_from(
    [
        b"dn: o=glue",
        b"dn:: bz1nbHVl",
        b"o: glue",
        b"O:: gg==",
        b"o: a b ",
        b" folded",
        b" ",
        b"\r",
        b"\rdn: o=x",
        b"# failed: ops",
        b"version: 1",
        b"changetype: delete",
        b"o:< file:///etc/passwd",
        b"nonsense",
        b"o: \xff\0",
        b"",
        b"",
        b"",
    ]
)
ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\r\n", b""])


class _Slow(io.BytesIO):
    """A file of which a read returns a few bytes, as one larger than a block does."""

    step = 1

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or self.step, self.step))


@given(st.lists(st.tuples(LINES, ENDS), max_size=20), st.integers(1, 9))
def test_the_blocks_of_a_file_have_its_records(lines: list[tuple[bytes, bytes]], step: int) -> None:
    data = b"".join(line + end for line, end in lines)
    file = _Slow(data)
    file.step = step
    blocks = list(ldif.blocks(file))
    found = [record for block in blocks for record in block.read()]
    wanted = list(ldif.read(io.BytesIO(data)))
    assert found == wanted
    assert [record.line for record in found] == [record.line for record in wanted]
    assert all(data[block.offset :].startswith(block.data) for block in blocks)
    counts = [sum(isinstance(one, ldif.Entry) for one in block.read()) for block in blocks]
    assert all(count <= 1 for count in counts)

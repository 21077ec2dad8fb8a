"""LDIF as RFC 2849 shows it, and records that cannot be read."""

import pytest

from appliance.core import ldif
from appliance.core.ldif import Comment, Entry, LdifError, MalformedRecord

# The first two examples of RFC 2849, and its fourth, cut to what is content.
RFC = b"""\
version: 1
dn: cn=Barbara Jensen, ou=Product Development, dc=airius, dc=com
objectclass: top
objectclass: person
cn: Barbara Jensen
cn: Barbara J Jensen
description:Babs is a big sailing fan, and travels extensively in sea
 rch of perfect sailing conditions.
title:Product Manager, Rod and Reel Division

# rdn-value: ou=<JapaneseOU>
dn:: b3U95Za25qWt6YOoLG89QWlyaXVz
ou:: 5Za25qWt6YOo
ou;lang-ja:: 5Za25qWt6YOo
"""


def test_the_examples_of_the_rfc() -> None:
    first, comment, second = ldif.read(RFC.splitlines(keepends=True))
    assert isinstance(first, Entry)
    assert isinstance(second, Entry)
    assert first.line == 2
    assert first.get("description") == (
        (
            "Babs is a big sailing fan, and travels extensively in search of perfect sailing "
            "conditions."
        ),
    )
    assert first.get("CN") == ("Barbara Jensen", "Barbara J Jensen")
    assert first.get("mail") == ()
    assert comment == Comment("rdn-value: ou=<JapaneseOU>")
    assert second == Entry("ou=営業部,o=Airius", {"ou": ("営業部",), "ou;lang-ja": ("営業部",)})


@pytest.mark.parametrize(
    ("text", "line", "cause"),
    [
        ("cn: x", 2, "the record has no dn:"),
        ("dn: o=x\ndn: o=y", 3, "a second dn: in one record"),
        ("dn: o=x\nnonsense", 3, "neither 'attribute: value' nor a comment: 'nonsense'"),
        ("dn: o=x\na:: %%%", 3, "a: the value is not base64"),
        ("dn: o=x\na:< file:///etc/passwd", 3, "a: a reference to a file is not followed"),
        ("dn: o=x\nchangetype: delete", 3, "a change record where entries are expected"),
    ],
)
def test_a_record_that_cannot_be_read_leaves_its_neighbours(
    text: str, line: int, cause: str
) -> None:
    data = f"\n{text}\n\n\ndn: o=after\n".encode()
    assert list(ldif.read(data.splitlines(keepends=True))) == [
        MalformedRecord(line, cause),
        Entry("o=after", {}),
    ]
    with pytest.raises(LdifError, match=f"^line {line}: "):
        ldif.parse(data)


def test_a_comment_cannot_become_anything_else() -> None:
    written = ldif.format_comment("failed: a\n\ndn: o=x\x00é")
    assert written == "# failed: a dn: o=x \\xe9\n"


@pytest.mark.parametrize(
    "dn",
    ["x", "o=a,", "o=a,,o=b", "o=a+", "=a", 'o="a"', "o=a;o=b", "o=\\zz", "o=#04024869", "o=a\\"],
)
def test_what_is_no_name(dn: str) -> None:
    with pytest.raises(LdifError, match=r"at character|ends in a comma or a plus sign"):
        ldif.parse_dn(dn)
    with pytest.raises(LdifError):
        ldif.normalise_dn(dn)


def test_the_empty_name() -> None:
    assert (ldif.parse_dn(""), ldif.normalise_dn(""), ldif.parent("o=glue")) == ((), "", "")
    assert ldif.child("", "o", "glue") == "o=glue"

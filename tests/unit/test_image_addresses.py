"""Lines of image-lists.conf."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.run import log
from appliance.core.run.errors import ConfigurationError
from cloudkeeper.frontend import addresses
from cloudkeeper.frontend.addresses import OR_OFF

SECRET = "0123-this-is-a-token-4567"


def read(tmp_path: Path, text: str) -> tuple[list[addresses.Address], list[str]]:
    path = tmp_path / "image-lists.conf"
    path.write_bytes(text.encode())
    found, problems = addresses.read_file(path, may_be_empty=False)
    return found, [str(problem).removeprefix(f"{path}") for problem in problems]


def test_lines_as_administrators_write_them(tmp_path: Path) -> None:
    """R37: the token appears in no output."""
    text = (
        "\ufeff# AppDB\r\n\r\n"
        f"  https://{SECRET}:x-oauth-basic@vmcaster.appdb.egi.eu/store/vo/ops/image.list\t\r\n"
        "   # https://commented.example.org/list\r\n"
        "https://lists.example.org:8443/a/image.list?x=1#part"
    )
    found, problems = read(tmp_path, text)
    assert problems == []
    assert [(one.name, one.url, one.user, one.password) for one in found] == [
        (
            "https://vmcaster.appdb.egi.eu/store/vo/ops/image.list",
            "https://vmcaster.appdb.egi.eu/store/vo/ops/image.list",
            SECRET,
            "x-oauth-basic",
        ),
        (
            "https://lists.example.org:8443/a/image.list",
            "https://lists.example.org:8443/a/image.list?x=1",
            "",
            "",
        ),
    ]
    assert [one.origin.rpartition(":")[2] for one in found] == ["3", "5"]
    assert SECRET not in repr(found)
    assert log.redact(f"GET with {SECRET}") == "GET with ***"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lists.example.org/image.list", "does not begin with https://; write https://HOST/PATH"),
        (
            "ftp://lists.example.org/image.list",
            "does not begin with https://; write https://HOST/PATH",
        ),
        ("https:///image.list", "has no host or no path; write https://HOST/PATH"),
        ("https://lists.example.org/", "has no host or no path; write https://HOST/PATH"),
        ("https://lists.example.org:port/x", "is not a URL; write https://HOST/PATH"),
        ("https://[lists/x", "is not a URL; write https://HOST/PATH"),
        (
            "https://a.example.org/x https://b.example.org/x",
            "has a space or an unprintable character; write one URL a line",
        ),
        (
            "https://APPDB_TOKEN:x-oauth-basic@vmcaster.appdb.egi.eu/store/vo/ops/image.list",
            (
                "is still the placeholder 'APPDB_TOKEN'; write your access token of "
                "vmcaster.appdb.egi.eu"
            ),
        ),
        (f"http://{SECRET}:x@a.example.org/x", "would send the token unencrypted; write https://"),
    ],
)
def test_a_bad_line_is_reported_by_number_and_stops_no_other(
    tmp_path: Path, line: str, words: str
) -> None:
    """R37."""
    found, problems = read(tmp_path, f"# first\n{line}\nhttps://good.example.org/list\n")
    assert [one.name for one in found] == ["https://good.example.org/list"]
    assert problems == [f":2: {words}"]


def test_the_same_list_twice(tmp_path: Path) -> None:
    found, problems = read(tmp_path, f"https://a.example.org/x\nhttps://{SECRET}@a.example.org/x\n")
    assert len(found) == 1
    assert problems == [
        f":2: the same list is in {tmp_path}/image-lists.conf:1; remove one of them"
    ]


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing\n\n") == (
        [],
        [f": has no image list; write one URL a line, or a registry into sources.yaml{OR_OFF}"],
    )


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        addresses.read_file(tmp_path / "none", may_be_empty=False)


@given(st.text(max_size=40), st.sampled_from(["", "https://", "https://u:p@h/", "https://h/"]))
def test_any_text_is_a_list_or_a_problem(text: str, start: str) -> None:
    hidden = set(log._secrets)
    found, problems = addresses.read([(start + text, 7)], path=Path("image-lists.conf"))
    log._secrets.intersection_update(hidden)  # what is drawn here must not be masked in other tests
    assert len(found) + len(problems) == 1
    for problem in problems:
        assert str(problem).startswith("image-lists.conf:7: ")
    for one in found:
        assert one.url.isprintable()
        assert " " not in one.url

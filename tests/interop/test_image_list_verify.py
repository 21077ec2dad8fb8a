"""``cloudkeeper verify`` against lists that the openssl program signs, and its verdict on them."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloudkeeper.cmds import frontend
from tests.interop.test_image_list_refusals import forged
from tests.simulators import image_server
from tests.simulators.image_lists import (
    LIST_ID,
    image,
    image_id,
    image_list,
    in_days,
    openssl_accepts,
    sign,
)
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential

ENDORSER = f"{HOST_DN}/CN=lists.example.org"
OTHER = "/DC=EU/DC=EXAMPLE/CN=Other"
PAST = datetime.now(UTC) - timedelta(days=9)


@dataclass(frozen=True)
class Endorsing:
    """An authority that the CA directory has, one of the same name that it lacks, and signers."""

    own: Authority
    signer: Credential
    stranger: Credential
    expired: Credential
    revoked: Credential

    @property
    def certificates(self) -> Path:
        return self.own.directory / "certificates"


@pytest.fixture(scope="module")
def endorsing(tmp_path_factory: pytest.TempPathFactory) -> Endorsing:
    own, rogue = (
        Authority.create(tmp_path_factory.mktemp(name) / "ca", key="ec")
        for name in ("own", "rogue")
    )
    made = Endorsing(
        own,
        own.issue("lists.example.org", key="ec"),
        rogue.issue("lists.example.org", key="ec"),
        own.issue("lists.example.org", key="ec", not_before=PAST, days=2),
        own.issue("lists.example.org", key="ec"),
    )
    own.revoke(made.revoked)
    own.publish(made.certificates)
    return made


def document(*images: dict[str, Any], **changes: Any) -> dict[str, Any]:
    listed = images or (image(1, uri="https://images.example.org/one.qcow2", content=b"one"),)
    named = {"dn": ENDORSER, "ca": AUTHORITY_DN}
    return image_list(list(listed), **{**named, **changes})


def verify(
    message: bytes,
    endorsing: Endorsing,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *flags: str,
) -> tuple[int, str, str]:
    path = tmp_path / "image.list"
    path.write_bytes(message)
    status = frontend.main(["verify", str(path), "--ca-dir", str(endorsing.certificates), *flags])
    shown = capsys.readouterr()
    return status, shown.out, shown.err.replace(f"{tmp_path}/", "")


FORMS: dict[str, list[str]] = {
    "detached": [],
    "opaque": ["-nodetach"],
    "opaque, BER": ["-nodetach", "-stream"],
    "PEM": ["-nodetach", "-outform", "PEM"],
    "DER": ["-nodetach", "-outform", "DER"],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_good_list_in_each_form(
    endorsing: Endorsing, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    listed = document()
    message = sign(listed, endorsing.signer, *FORMS[form])
    status, shown, errors = verify(message, endorsing, tmp_path, capsys)
    assert (status, errors) == (0, "")
    content = listed["hv:imagelist"]
    rows = dict(line.split(maxsplit=1) for line in shown.splitlines() if line[0] != " ")
    assert rows["identifier"] == content["dc:identifier"]
    assert (rows["VO"], rows["images"]) == ("ops", "1")
    assert rows["endorser"] == rows["signer"] == ENDORSER
    assert shown.count(f"of {AUTHORITY_DN}\n") == 2
    for key in ("created", "expires"):
        assert rows[key] == content[f"dc:date:{key}"][:16].replace("T", " ") + "Z"


def test_the_same_as_json_from_standard_input(
    endorsing: Endorsing, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = document(
        image(1, uri="https://images.example.org/one.qcow2", content=b"one"),
        image(2, uri="ftp://images.example.org/two.qcow2", content=b"two"),
    )
    text = io.TextIOWrapper(io.BytesIO(sign(listed, endorsing.signer)))
    monkeypatch.setattr(sys, "stdin", text)
    command = ["verify", "-", "--json", "--ca-dir", str(endorsing.certificates)]
    assert frontend.main(command) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found["accepted"], found["identifier"], found["images"]) == (
        False,
        LIST_ID,
        [image_id(1)],
    )
    assert found["signer"] == {"dn": ENDORSER, "ca": AUTHORITY_DN}
    assert datetime.fromisoformat(found["created"]).tzinfo == UTC
    reason = "hv:uri is not an http or https URL"
    assert found["refused"] == [{"image": image_id(2), "reason": reason}]
    assert found["findings"] == []
    assert shown.err == (
        "cloudkeeper: standard input: 1 of 2 images cannot be used, so strict subscribers refuse "
        "the list; correct them\n"
    )


OLD = "cloudkeeper 1.7.1 refuses the list without"
ATROPE = "atrope refuses the list without"
INVALID = "is not a whole number in its range"


def with_endorser(**changes: str | None) -> dict[str, Any]:
    listed = document()
    x509 = listed["hv:imagelist"]["hv:endorser"]["hv:x509"]
    kept = {**x509, **{key.replace("__", ":"): value for key, value in changes.items()}}
    listed["hv:imagelist"]["hv:endorser"]["hv:x509"] = {
        key: value for key, value in kept.items() if value is not None
    }
    return listed


def with_image(**changes: Any) -> dict[str, Any]:
    uri = "https://images.example.org/one.qcow2"
    return document(image(1, uri=uri, content=b"one", **changes))


LENIENT: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "no ad:mpuri": (
        with_image(ad__mpuri=None),
        image_id(1),
        [f"{OLD} ad:mpuri", f"{ATROPE} ad:mpuri"],
    ),
    "a blank ad:mpuri": (with_image(ad__mpuri=" "), image_id(1), [f"{OLD} ad:mpuri"]),
    "no texts": (
        with_image(ad__group=None, sl__comments=None),
        image_id(1),
        [f"{ATROPE} ad:group, sl:comments"],
    ),
    "no keys of the list": (
        document(hv__version=None, dc__title=None, hv__uri=None),
        "the list",
        [f"{ATROPE} dc:title, hv:uri, hv:version"],
    ),
    "no mail": (with_endorser(hv__email=None), "the list", [f"{ATROPE} hv:email"]),
    "memory with a unit": (
        with_image(hv__ram_minimum="512 MB"),
        image_id(1),
        [f"hv:ram_minimum {INVALID}: '512 MB'; cloudkeeper ignores it"],
    ),
    "cores without end": (
        with_image(hv__core_minimum=2**31),
        image_id(1),
        [f"hv:core_minimum {INVALID}: '2147483648'; cloudkeeper ignores it"],
    ),
    "no text": (
        with_image(sl__note=["a"]),
        image_id(1),
        ["sl:note is not a text; cloudkeeper ignores it"],
    ),
}
"""Lists that sync uses, the subject of the findings, and the findings."""


@pytest.mark.parametrize("kind", LENIENT)
def test_a_list_that_only_sync_accepts(
    endorsing: Endorsing, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """The keys of cloudkeeper 1.7.1 and of atrope; each is refused there with its whole list."""
    listed, subject, findings = LENIENT[kind]
    message = sign(listed, endorsing.signer)
    status, shown, errors = verify(message, endorsing, tmp_path, capsys)
    rows = [line.split(maxsplit=1) for line in shown.splitlines() if line.startswith("finding")]
    assert [row[1] for row in rows] == [f"{subject}: {each}" for each in findings]
    number = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
    assert status == 1
    assert errors.endswith(
        f"cloudkeeper: image.list: {number}: other subscribers refuse the list, or values of it are"
        " lost; correct them\n"
    )
    status, shown, _ = verify(message, endorsing, tmp_path, capsys, "--json")
    found = json.loads(shown)
    identifier = None if subject == "the list" else subject
    assert (status, found["accepted"], found["refused"]) == (1, False, [])
    assert found["findings"] == [{"image": identifier, "reason": each} for each in findings]
    assert found["images"] == [image_id(1)]


def test_a_list_of_a_server(endorsing: Endorsing, capsys: pytest.CaptureFixture[str]) -> None:
    """A token in the URL reaches the server, and no output; a missing list is not a refused one."""
    with image_server.serve(endorsing.own.issue("localhost", key="ec")) as server:
        url = server.put("/list", sign(document(), endorsing.signer))
        secret = url.replace("https://", "https://s3cr3t-t0ken:x-oauth-basic@")
        flags = ["--ca-dir", str(endorsing.certificates)]
        assert frontend.main(["verify", secret, *flags, "--debug"]) == 0
        assert [asked[2]["Authorization"].split()[0] for asked in server.requests] == ["Basic"]
        shown = capsys.readouterr()
        assert "s3cr3t" not in shown.out + shown.err
        server.put("/list", image_server.Status(404))
        assert frontend.main(["verify", url, *flags]) == 3
        assert capsys.readouterr().err == (
            f"cloudkeeper: {url}: the server answers 404 Not Found; check its URL, or ask its"
            " administrators\n"
        )


def signed_twice_named(endorsing: Endorsing) -> bytes:
    text = json.dumps(document()).replace('"ad:vo"', '"ad:vo": "other", "ad:vo"', 1)
    return sign(text.encode(), endorsing.signer)


REFUSED: dict[str, Any] = {
    "altered": lambda one: sign(document(), one.signer).replace(b"one.qcow2", b"two.qcow2"),
    "signature": lambda one: forged(sign(document(), one.signer)),
    "unsigned": lambda _: json.dumps(document()).encode(),
    "nothing": lambda _: b"",
    "foreign": lambda one: sign(document(), one.stranger),
    "signer expired": lambda one: sign(document(), one.expired),
}
"""Refused by the openssl program, too."""
STRICTER: dict[str, tuple[Any, str]] = {
    "revoked": (lambda one: sign(document(), one.revoked), "was revoked by"),
    "SHA-1": (lambda one: sign(document(), one.signer, "-md", "sha1"), "its digest is SHA1"),
    "endorser": (lambda one: sign(document(dn=OTHER), one.signer), "its endorser is"),
    "authority": (lambda one: sign(document(ca=OTHER), one.signer), "is issued by"),
    "expired": (
        lambda one: sign(document(dc__date__expires=in_days(-1)), one.signer),
        "it expired on",
    ),
    "no identifier": (
        lambda one: sign(document(dc__identifier=None), one.signer),
        "dc:identifier is missing",
    ),
    "no expiry": (
        lambda one: sign(document(dc__date__expires=None), one.signer),
        "dc:date:expires is missing",
    ),
    "no VO": (lambda one: sign(document(ad__vo=None), one.signer), "ad:vo is missing"),
    "a key twice": (signed_twice_named, "'ad:vo' occurs twice"),
    "not JSON": (lambda one: sign(b"[", one.signer), "is not JSON"),
}
"""Well signed for the openssl program, with the words of the refusal."""


@pytest.mark.parametrize("kind", [*REFUSED, *STRICTER])
def test_a_refusal_is_one_line(
    endorsing: Endorsing, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """F-T4."""
    make, words = (REFUSED[kind], "") if kind in REFUSED else STRICTER[kind]
    message = make(endorsing)
    accepts = openssl_accepts(message, endorsing.certificates)
    if kind != "SHA-1":  # which releases of openssl accept differs
        assert accepts == (kind in STRICTER)
    status, shown, errors = verify(message, endorsing, tmp_path, capsys)
    assert (status, shown, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("cloudkeeper: image.list: refused: ")
    assert words in errors
    status, shown, _ = verify(message, endorsing, tmp_path, capsys, "--json")
    assert (status, json.loads(shown)["accepted"]) == (1, False)


def test_revocation_lists_by_choice(
    endorsing: Endorsing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the authority's list ``require`` refuses, ``warn`` warns and ``off`` is silent."""
    bare = tmp_path / "bare"
    endorsing.own.publish(bare)
    for path in bare.glob("*.r0"):
        path.unlink()
    path = tmp_path / "image.list"
    path.write_bytes(sign(document(), endorsing.signer))
    found = {}
    for policy in ("require", "warn", "off"):
        status = frontend.main(["verify", str(path), "--ca-dir", str(bare), "--crls", policy])
        found[policy] = (status, "CRL" in capsys.readouterr().err)
    assert found == {"require": (1, True), "warn": (0, True), "off": (0, False)}


def test_an_allowed_endorser(
    endorsing: Endorsing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = sign(document(), endorsing.signer)
    ca = ("--endorser-ca", AUTHORITY_DN)
    assert verify(message, endorsing, tmp_path, capsys, "--endorser-dn", ENDORSER, *ca)[0] == 0
    status, _, errors = verify(message, endorsing, tmp_path, capsys, "--endorser-dn", OTHER, *ca)
    assert (status, f"not by {OTHER} of {AUTHORITY_DN}" in errors) == (1, True)
    status, _, errors = verify(message, endorsing, tmp_path, capsys, *ca)
    assert (status, errors) == (
        2,
        "cloudkeeper: --endorser-ca: needs --endorser-dn, too; give both or none\n",
    )


@pytest.mark.parametrize("flags", [["none.list"], ["image.list", "--ca-dir", "/nowhere"]])
def test_what_cannot_be_read(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    endorsing: Endorsing,
    flags: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.list").touch()
    assert frontend.main(["verify", "--ca-dir", str(endorsing.certificates), *flags]) == 3
    assert capsys.readouterr().err.count("\n") == 1

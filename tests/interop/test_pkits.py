"""NIST's suite for paths of certificates (PKITS, 2011): 224 signed messages, their lists, and a
table of verdicts.

``pkits-verdicts.csv`` has a row for each message: what NIST expects, what the openssl program
finds, and our verdict with ``crls`` set to `require` and to `warn`; where ours is not NIST's,
why. The CA directory holds what a site would have: the root and all lists of the suite.
Intermediates come with the messages.
"""

import base64
import csv
import re
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from asn1crypto import crl as asn1_crl

from appliance.core.trust import smime
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.distinguished_name import canonical
from appliance.core.trust.errors import Malformed, Untrusted

SUITE = Path(cryptography_vectors.__file__).parent / "x509" / "PKITS_data"
TABLE = Path(__file__).with_name("pkits-verdicts.csv")
AT = datetime(2020, 1, 1, tzinfo=UTC)
"""Within the ten years of the suite's certificates that are meant to be valid."""
POLICIES = {"4.8", "4.9", "4.10", "4.11", "4.12"}
"""The sections on certificate policies, which are not evaluated: ADR 17."""
NO_USABLE_LIST = re.compile(
    r"no list of the issuer exists"
    r"|the named issuer has no indirect list"
    r"|the only list is a delta without its base"
    r"|the list is stale"
    r"|unverifiable: .*"
    r"|the list has another scope"
    r"|the lists do not cover all reasons"
    r"|the list has an unknown critical extension and does not name the certificate"
)

Accepted = dict[CRLPolicy, dict[str, smime.Verified]]

with TABLE.open(newline="") as table:
    ROWS = list(csv.DictReader(table))


def section(row: dict[str, str]) -> str:
    return row["test"].rpartition(".")[0]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pkits")
    root = SUITE / "certs" / "TrustAnchorRootCertificate.crt"
    (path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(root.read_bytes()))
    for file in (SUITE / "crls").iterdir():
        encoded = base64.encodebytes(file.read_bytes()).decode()
        text = f"-----BEGIN X509 CRL-----\n{encoded}-----END X509 CRL-----\n"
        (path / f"{file.stem}.crl").write_text(text)
    subprocess.run(["openssl", "rehash", str(path)], check=True)
    return path


def message(row: dict[str, str]) -> Path:
    return SUITE / "smime" / f"Signed{row['message']}.eml"


@pytest.fixture(scope="module")
def accepted(directory: Path) -> Accepted:
    """What each setting accepts, by the number of the test."""
    found = {}
    for crls in (CRLPolicy.REQUIRE, CRLPolicy.WARN):
        trust = CADirectory(directory, crls=crls)
        verdicts = ((row["test"], judge(trust, row)) for row in ROWS)
        found[crls] = {test: verified for test, verified in verdicts if verified}
    return found


def judge(trust: CADirectory, row: dict[str, str]) -> smime.Verified | None:
    try:
        return smime.verify(message(row).read_bytes(), trust=trust, at=AT, max_bytes=1 << 20)
    except (Malformed, Untrusted):
        return None


def test_the_table_has_every_message_of_the_suite() -> None:
    assert sorted(map(message, ROWS)) == sorted((SUITE / "smime").iterdir())
    assert len({row["test"] for row in ROWS}) == len(ROWS) == 224


@pytest.mark.parametrize("crls", [CRLPolicy.REQUIRE, CRLPolicy.WARN])
def test_verdicts_are_those_of_the_table(accepted: Accepted, crls: CRLPolicy) -> None:
    """F-T1, F-T5."""
    found = {row["test"]: "accept" if row["test"] in accepted[crls] else "refuse" for row in ROWS}
    assert found == {row["test"]: row[crls.value] for row in ROWS}


def test_require_accepts_nothing_wrong_but_policies() -> None:
    wrong = {section(row) for row in ROWS if (row["nist"], row["require"]) == ("refuse", "accept")}
    assert wrong == POLICIES


def test_warn_accepts_wrongly_only_where_no_list_can_be_used() -> None:
    wrong = [row for row in ROWS if (row["nist"], row["warn"]) == ("refuse", "accept")]
    reasons = [row["why ours differs from nist"] for row in wrong if section(row) not in POLICIES]
    assert [reason for reason in reasons if not NO_USABLE_LIST.fullmatch(reason)] == []


def test_every_difference_is_explained_and_nothing_else() -> None:
    for row in ROWS:
        differs = {row["nist"]} != {row["require"], row["warn"]}
        assert bool(row["why ours differs from nist"]) == differs, row


def test_warn_never_refuses_what_require_accepts() -> None:
    assert [row for row in ROWS if (row["require"], row["warn"]) == ("accept", "refuse")] == []


def test_wrong_refusals_are_weak_keys_and_lists_of_other_issuers() -> None:
    for setting, expected in (("require", 8), ("warn", 2)):
        wrong = [row for row in ROWS if (row["nist"], row[setting]) == ("accept", "refuse")]
        assert len(wrong) == expected
        for row in wrong:
            assert "DSA" in row["message"] or "indirect list" in row["why ours differs from nist"]


def test_no_list_names_what_warn_accepts(accepted: Accepted) -> None:
    """F-T1: asn1crypto reads the lists, apart from us, and follows ``certificateIssuer``."""
    revoked = {entry for file in (SUITE / "crls").iterdir() for entry in entries(file)}
    named = {
        test
        for test, verified in accepted[CRLPolicy.WARN].items()
        if (canonical(verified.certificate.issuer), verified.certificate.serial_number) in revoked
    }
    # Valid delta-CRL Test5 and Test7: on hold, until the delta removed them.
    assert named == {"4.15.5", "4.15.7"}


def entries(file: Path) -> set[tuple[Any, int]]:
    tbs = asn1_crl.CertificateList.load(file.read_bytes())["tbs_cert_list"]
    issuer, found = tbs["issuer"], set()
    for entry in tbs["revoked_certificates"]:
        for extension in entry["crl_entry_extensions"]:
            if extension["extn_id"].native == "certificate_issuer":
                issuer = extension["extn_value"].parsed[0].chosen
        found.add((key_of(issuer), entry["user_certificate"].native))
    return found


def folded(value: str) -> str:
    return " ".join(value.split()).lower()


def key_of(name: Any) -> Any:
    """Return a name of asn1crypto in the form of `canonical`."""
    rdns = [[(part["type"].dotted, part["value"].native) for part in rdn] for rdn in name.chosen]
    return tuple(frozenset((kind, folded(value)) for kind, value in rdn) for rdn in rdns)


@pytest.mark.matrix
def test_the_openssl_program_finds_what_the_table_says(directory: Path) -> None:
    """It reads the lists of the directory and those that came with the message."""
    command = ["openssl", "cms", "-verify", "-CApath", str(directory), "-no-CAfile", "-no-CAstore"]
    command += ["-purpose", "any", "-crl_check_all", "-extended_crl", "-use_deltas"]
    command += ["-attime", str(int(AT.timestamp())), "-out", "/dev/null", "-in"]
    found = {}
    for row in ROWS:
        done = subprocess.run([*command, str(message(row))], capture_output=True, check=False)
        found[row["test"]] = "refuse" if done.returncode else "accept"
    assert found == {row["test"]: row["openssl"] for row in ROWS}

from pathlib import Path

import pytest

from appliance.core.trust.distinguished_name import DN
from appliance.core.trust.errors import Untrusted
from appliance.core.trust.signing_policy import SigningPolicy

CA = DN("/C=NL/O=Example Org/CN=Example CA")
PATH = Path("/etc/grid-security/certificates/0a1b2c3d.signing_policy")


def policy(
    subjects: str, *, authority: str = CA, rights: str = "pos_rights globus CA:sign"
) -> SigningPolicy:
    return SigningPolicy.parse(
        (
            f"# a comment\n access_id_CA   X509   '{authority}'\n\n\t{rights}\n cond_subjects "
            f"globus   {subjects}\n"
        ),
        path=PATH,
    )


@pytest.mark.parametrize(
    ("subjects", "subject", "verdict"),
    [
        ("""'"/C=NL/O=Example Org/*"'""", "/C=NL/O=Example Org/CN=host", True),
        ("""'"/C=NL/O=Example Org/*"'""", "/C=NL/O=Example Org/OU=deep/CN=host/a.b", True),
        ("""'"/C=NL/O=Example Org/*"'""", "/C=NL/O=Another/CN=host", False),
        ("""'"/C=NL/O=Example Org/*"'""", "/X=1/C=NL/O=Example Org/CN=host", False),
        ("""'"/C=NL/*" "/DC=org/*"'""", "/DC=org/CN=x", True),
        ("""'"/C=NL/*"  "/DC=org/*"'""", "/DC=com/CN=x", False),
        ("""'/C=NL/O=Example Org/*'""", "/C=NL/O=Example Org/CN=x", True),
        ('''"/C=NL/*"''', "/C=NL/CN=x", True),
        ("/C=NL/*", "/C=NL/CN=x", True),
        ("""'"/C=NL/CN=x"'""", "/C=NL/CN=x", True),
        ("""'"/C=NL/CN=x"'""", "/C=NL/CN=xy", False),
        ("""'"/C=NL/CN=host-?"'""", "/C=NL/CN=host-1", True),
        ("""'"/C=NL/CN=host-?"'""", "/C=NL/CN=host-12", False),
        ("""'"/C=nl/*"'""", "/C=NL/CN=x", False),
        ("""'"/C=NL/CN=a.c"'""", "/C=NL/CN=abc", False),
        ("""'"/C=NL/Email=*"'""", "/C=NL/emailAddress=a@b", True),
        ("""'"/C=NL/USERID=*"'""", "/C=NL/UID=a", True),
    ],
)
def test_patterns(subjects: str, subject: str, verdict: bool) -> None:
    assert policy(subjects).permits(DN(subject), issuer=CA) is verdict


def test_the_entry_of_another_ca_does_not_count() -> None:
    assert not policy("'\"/*\"'", authority="/CN=Other").permits(DN("/C=NL"), issuer=CA)


def test_no_right_to_sign_no_permission() -> None:
    text = f"access_id_CA X509 '{CA}'\ncond_subjects globus '\"/*\"'\n"
    assert not SigningPolicy.parse(text, path=PATH).permits(DN("/C=NL"), issuer=CA)


def test_an_empty_file_permits_nothing() -> None:
    assert not SigningPolicy.parse("# nothing\n", path=PATH).permits(DN("/C=NL"), issuer=CA)


def test_several_entries() -> None:
    text = "".join(
        f"access_id_CA X509 '{ca}'\npos_rights globus CA:sign\ncond_subjects globus "
        f"'\"{subjects}\"'\n"
        for ca, subjects in [("/CN=Other", "/C=NL/*"), (CA, "/C=ES/*"), (CA, "/C=FR/*")]
    )
    found = SigningPolicy.parse(text, path=PATH)
    verdicts = {c: found.permits(DN(f"/C={c}/CN=x"), issuer=CA) for c in ("NL", "ES", "FR")}
    assert verdicts == {"NL": False, "ES": True, "FR": True}


@pytest.mark.parametrize(
    "line",
    [
        "neg_rights globus CA:sign",
        "pos_rights globus CA:issue",
        "cond_times globus '08:00'",
        "access_id_CA",
        "cond_subjects globus '\"/C=NL/*'",
        "cond_subjects globus '\"\"'",
    ],
)
def test_what_is_not_understood_is_named_with_its_line(line: str) -> None:
    with pytest.raises(Untrusted, match=r"0a1b2c3d\.signing_policy:2: "):
        SigningPolicy.parse(f"access_id_CA X509 '{CA}'\n{line}\n", path=PATH)


def test_rights_before_any_authority_are_an_error() -> None:
    with pytest.raises(Untrusted, match="signing_policy:1: "):
        SigningPolicy.parse("pos_rights globus CA:sign\n", path=PATH)


def test_quotes_around_each_of_several_subjects_only() -> None:
    found = policy('"/C=NL/*" "/DC=org/*"')
    assert found.permits(DN("/C=NL/CN=x"), issuer=CA)
    assert found.permits(DN("/DC=org/CN=x"), issuer=CA)
    assert not found.permits(DN("/DC=com/CN=x"), issuer=CA)


def test_a_ca_without_a_name() -> None:
    """Certificates may have an empty subject, and quotes hold nothing then."""
    assert policy("'\"/*\"'", authority="").permits(DN("/C=NL"), issuer=DN(""))

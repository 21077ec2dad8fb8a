"""sources.yaml and registry.auth: what they may hold, and the line of what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.core.config import yaml_file
from appliance.core.registry import account as registry_account
from appliance.core.registry.account import RegistryAccount
from appliance.core.run.errors import ConfigurationError, Problem
from cloudkeeper.frontend import source_settings
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.frontend.selection import Selection
from cloudkeeper.frontend.source_settings import RegistrySettings
from cloudkeeper.model import Endorser

FILE = Path("/etc/cloudkeeper/sources.yaml")
ROBOT = RegistryAccount("robot$site", "s3cret", "/etc/cloudkeeper/registry.auth:1")


def read(
    text: str, **accounts: RegistryAccount
) -> tuple[list[RegistrySettings], list[Address], tuple[Problem, ...]]:
    by_host = {name.replace("_", "."): account for name, account in accounts.items()}
    return source_settings.read(yaml_file.parse(FILE, text), by_host)


def test_a_file_of_atrope_s_keys() -> None:
    """The keys and the shape of atrope 2.1: a shared block, projects of Harbor, a signed list."""
    registries, lists, warnings = read(
        """\
harbor:
  api_url: https://registry.example.org/api/v2.0
  tag_pattern: ^[^-]*$
  page_size: 50
egi:
  type: harbor
  project: egi_vm_images
  vos: [ops, dteam]
matlab:
  type: harbor
  project: vo.example.org
  tag_pattern: latest
  vos: [vo.example.org]
  enabled: true
off:
  type: harbor
  project: other
  vos: [ops]
  enabled: false
list:
  url: https://lists.example.org/ops/image.list
  token: T0KEN
  images: [a, b]
  endorser:
    dn: /CN=endorser
    ca: /CN=ca
""",
        registry_example_org=ROBOT,
    )
    egi, matlab = registries
    assert (egi.host, egi.project, egi.vos) == (
        "registry.example.org",
        "egi_vm_images",
        ("ops", "dteam"),
    )
    assert egi.tags.fullmatch("24.04")
    assert not egi.tags.fullmatch("24.04-2026")
    assert egi.account == ROBOT
    assert matlab.tags.pattern == "latest"
    (found,) = lists
    assert (found.url, found.user) == ("https://lists.example.org/ops/image.list", "T0KEN")
    assert found.endorser == Endorser("/CN=endorser", "/CN=ca")
    assert found.selection == Selection(wanted=("a", "b"))
    assert [str(warning) for warning in warnings] == [
        f"{FILE}:4: [harbor] page_size: has no effect here: the length of pages is fixed"
    ]


def test_a_plain_registry() -> None:
    (found,), _, _ = read(
        """\
site:
  type: oci
  registry_host: registry.example.org:5000
  project: site
  repositories: [one, two/three]
  vos: [ops]
"""
    )
    assert (found.host, found.has_harbor) == ("registry.example.org:5000", False)
    assert found.repositories == ("site/one", "site/two/three")
    assert found.account is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "  vos: []",
            "2: [egi] vos: must be set: the VOs that get the images, [ops, …]",
        ),
        ("  vos: ['../x']", "2: [egi] vos: '../x' is not the name of a VO"),
        ("  project: EGI", "2: [egi] project: 'EGI' is not the name of a project"),
        (
            "  project:",
            "2: [egi] project: must be set: the project of the registry",
        ),
        ("  registry_host: a b", "2: [egi] registry_host: 'a b' is not HOST or HOST:PORT"),
        (
            "  registry_host:",
            "2: [egi] registry_host: must be set: the host of the registry",
        ),
        (
            "  api_url: http://registry.example.org/api/v2.0",
            "2: [egi] api_url: must be https://HOST/api/v2.0",
        ),
        (
            "  verify_ssl: false",
            "2: [egi] verify_ssl: false: certificates are always verified; add the CA instead",
        ),
        (
            "  auth_token: abc",
            "2: [egi] auth_token: is not supported; write a robot account into registry.auth",
        ),
        (
            "  subscribed_images: ['24.04']",
            "2: [egi] subscribed_images: is not supported; write patterns into images instead, ",
        ),
        (
            "  auth_user: robot$x",
            "2: [egi] auth_user: is set without auth_password; set both or none",
        ),
        ("  tag_pattern: '['", "2: [egi] tag_pattern: '[' is not a regular expression: "),
        (
            "  repositories: [egi_vm_images/ubuntu]",
            "2: [egi] repositories: 'egi_vm_images/ubuntu' begins with the project; write ubuntu",
        ),
        ("  repositories: [A]", "2: [egi] repositories: 'A' is not a valid name of a repository"),
        (
            "  type: docker",
            "2: [egi] type: 'docker' is not allowed; write harbor or oci or hepix",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_line(change: str, problem: str) -> None:
    option = change.strip().partition(":")[0]
    lines = [
        "  type: harbor",
        "  project: egi_vm_images",
        "  registry_host: registry.example.org",
        "  vos: [ops]",
    ]
    kept = [line for line in lines if not line.startswith(f"  {option}:")]
    with pytest.raises(ConfigurationError) as caught:
        read("\n".join(["egi:", change, *kept]))
    assert f"{FILE}:{problem}" in str(caught.value)


def test_subscriptions_of_atrope_never_mean_all_images() -> None:
    """atrope takes tags and digests there; an empty list means all images for both."""
    registry = "type: oci\n  project: site\n  registry_host: r.example.org\n  vos: [ops]\n"
    url = "url: https://lists.example.org/a\n"
    key = "  subscribed_images:\n    - 24.04\n    - sha256:00\n"
    for start, line in ((f"site:\n  {registry}", 6), (f"list:\n  {url}", 3), ("harbor:\n", 2)):
        with pytest.raises(ConfigurationError) as caught:
            read(start + key)
        (problem,) = caught.value.problems
        assert (problem.line, problem.option.rpartition(" ")[2]) == (line, "subscribed_images")
    registries, lists, warnings = read(
        f"site:\n  {registry}  subscribed_images: []\nlist:\n  {url}  subscribed_images:\n"
    )
    assert (registries[0].selection, lists[0].selection) == (Selection(), Selection())
    assert warnings == ()


def test_properties_of_a_source() -> None:
    """Texts stay as written: Nova reads ``yes``, and a version keeps its digits."""
    registries, lists, warnings = read(
        """\
egi:
  type: harbor
  project: egi_vm_images
  registry_host: registry.example.org
  vos: [ops]
  properties:
    os_require_quiesce: yes
    hw_disk_bus: scsi
    os_type: linux
    site:note: "1.10"
site:
  type: oci
  project: site
  registry_host: registry.example.org
  vos: [ops]
list:
  url: https://lists.example.org/a
  properties: {hw_disk_bus: virtio}
"""
    )
    assert registries[0].properties == (
        ("hw_disk_bus", "scsi"),
        ("os_require_quiesce", "yes"),
        ("os_type", "linux"),
        ("site:note", "1.10"),
    )
    assert (registries[1].properties, lists[0].properties) == ((), (("hw_disk_bus", "virtio"),))
    assert warnings == ()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("name: x", "name: is a field of Glance itself"),
        ("Visibility: public", "Visibility: is a field of Glance itself"),
        ("os_glance_x: y", "os_glance_x: is a field of Glance itself"),
        ("appdb_id: x", "appdb_id: is set by cloudkeeper, as the image's source describes it"),
        ("image_list: x", "image_list: is set by cloudkeeper, "),
        ("APPLIANCE_ID: x", "APPLIANCE_ID: is set by cloudkeeper, "),
        ("vmcatcher_event_ad_mpuri: x", "vmcatcher_event_ad_mpuri: is set by cloudkeeper, "),
        ("dc:title: x", "dc:title: is set by cloudkeeper, "),
        ("os_type: linux", "os_type: is set by cloudkeeper, "),
        ("image_type: snapshot", "image_type: is a mark of Nova for snapshots of servers"),
        ("a b: x", "a b: is not a name of letters, digits and _ . : -"),
        ("hw_disk_bus:", "hw_disk_bus: has no value; write one, or remove the line"),
        ("hw_disk_bus: {a: b}", "hw_disk_bus: is not a text; write NAME: VALUE"),
        ('hw_disk_bus: "a\\u0007"', "hw_disk_bus: is longer than 1000 characters, or has "),
        (f"hw_disk_bus: {'x' * 1001}", "hw_disk_bus: is longer than 1000 characters, or has "),
    ],
)
def test_properties_that_a_site_may_not_set(line: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(f"list:\n  url: https://lists.example.org/a\n  properties:\n    {line}\n")
    assert f"{FILE}:4: [list.properties] {problem}" in str(caught.value)


def test_properties_in_another_form() -> None:
    start = "list:\n  url: https://lists.example.org/a\n  properties:"
    with pytest.raises(ConfigurationError, match=r"3: .list. properties: is not a mapping; write"):
        read(f"{start} hw_disk_bus=scsi\n")
    lines = "".join(f"    hw_{number}: x\n" for number in range(65))
    with pytest.raises(ConfigurationError, match=r"3: .list. properties: has 65 properties; an im"):
        read(f"{start}\n{lines}")
    with pytest.raises(ConfigurationError, match=r"5: .*: is set twice, in capital and small"):
        read(f"{start}\n    hw_a: x\n    HW_a: y\n")


PUBLIC = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
"""
"""The generator of P-256 as a key."""
GENERATOR = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296


def signed(*lines: str) -> list[RegistrySettings]:
    """Read a source of the type ``oci`` with more lines."""
    start = "site:\n  type: oci\n  project: site\n  registry_host: r.example.org\n  vos: [ops]\n"
    registries, _, warnings = read(start + "".join(f"{line}\n" for line in lines))
    assert warnings == ()
    return registries


def test_signing_keys_of_a_source_or_of_all(tmp_path: Path) -> None:
    files = [tmp_path / "one.pub", tmp_path / "two.pub"]
    for path in files:
        path.write_text(PUBLIC)
    both = ", ".join(map(str, files))
    (found,) = signed(f"  signing_key: [{both}]")
    assert [key.origin for key in found.signing_keys] == files
    assert found.signing_keys[0].key.public_numbers().x == GENERATOR
    (found,) = signed("harbor:", f"  signing_key: {files[1]}")
    assert [key.origin for key in found.signing_keys] == files[1:]
    (found,) = signed(f"  signing_key: {files[0]}", "harbor:", f"  signing_key: {files[1]}")
    assert [key.origin for key in found.signing_keys] == files[:1]
    (found,) = signed()
    assert found.signing_keys == ()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("  signing_key: FILE", "[site] signing_key: FILE: holds no public key in PEM; write the"),
        ("  signing_key: FILE.no", "[site] signing_key: FILE.no: "),
        ("  signing_key: keys/a.pub", "[site] signing_key: must be an absolute path, not 'keys/a"),
        ("  signing_key:", "[site] signing_key: is empty; write the file of a key, or remove it"),
        (
            "  singing_key: FILE",
            "[site] singing_key: unknown option; did you mean signing_key?",
        ),
        (
            "  signing_keys: FILE",
            "[site] signing_keys: unknown option; did you mean signing_key?",
        ),
    ],
)
def test_signing_keys_that_cannot_be_used(tmp_path: Path, line: str, problem: str) -> None:
    """A misspelled option is an error too: without it, unsigned images would be taken."""
    file = tmp_path / "key.pub"
    file.write_text("no key")
    with pytest.raises(ConfigurationError) as caught:
        signed(line.replace("FILE", str(file)))
    assert f"{FILE}:6: {problem.replace('FILE', str(file))}" in str(caught.value)


def test_a_signing_key_is_not_for_lists() -> None:
    with pytest.raises(ConfigurationError, match="signing_key: is for registries: a list is sign"):
        read("list:\n  url: https://lists.example.org/a\n  signing_key: /k.pub\n")


def test_an_endorser_needs_both_names() -> None:
    with pytest.raises(ConfigurationError, match="dn: is set without ca; set both or none"):
        read("list:\n  url: https://lists.example.org/a\n  endorser: {dn: /CN=one}\n")


def test_unknown_keys_are_reported() -> None:
    text = "a:\n  url: https://lists.example.org/a\n  urll: x\n"
    (warning,) = read(text)[2]
    assert str(warning).startswith(f"{FILE}:3: [a] urll: unknown option")


def test_accounts_are_read_by_host(tmp_path: Path) -> None:
    """Robots of Harbor have a dollar sign in their name; a secret may have colons."""
    file = tmp_path / "registry.auth"
    file.write_text("# robots\n\nregistry.example.org robot$site:s3cret:with colon\nb:5000 c:d\n")
    accounts = registry_account.read(file)
    assert {host: (one.user, one.secret) for host, one in accounts.items()} == {
        "registry.example.org": ("robot$site", "s3cret:with colon"),
        "b:5000": ("c", "d"),
    }
    assert accounts["b:5000"].origin == f"{file}:4"
    assert "s3cret" not in repr(accounts)


@pytest.mark.parametrize("line", ["robot$site:secret", "host user", "host :secret", "a/b c:d"])
def test_accounts_of_another_form(tmp_path: Path, line: str) -> None:
    file = tmp_path / "registry.auth"
    file.write_text(f"\n{line}\n")
    with pytest.raises(ConfigurationError, match=f"{file}:2: is not HOST USER:SECRET"):
        registry_account.read(file)

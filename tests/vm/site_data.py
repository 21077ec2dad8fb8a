"""The user data that a document shows, with the values of a site of the test bed."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping

import yaml

from tests.documents import HOW_TO
from tests.testbed import Testbed
from tests.testbed.layout import SERVICES
from tests.vm.machine import HOST

PAGE = HOW_TO / "machine-image.md"
AUTHORITY = "/etc/ssl/certs/example-cloud.pem"
_EXAMPLE = re.compile(r"^```yaml\n(#cloud-config\n.*?)^```$", re.MULTILINE | re.DOTALL)
_SOURCE = "CLOUD ldap://localhost:2171/GLUE2GroupID=cloud,o=glue"
_GRID = "/etc/grid-security/certificates"
_ENTRY = "  - path: {path}\n    permissions: '{mode}'\n    content: |\n"


def example() -> str:
    """Return the document of the page."""
    (found,) = _EXAMPLE.findall(PAGE.read_text())
    return str(found)


def filled(values: Mapping[str, str], *, files: Mapping[str, str], commands: Iterable[str]) -> str:
    """Return the document with values for its words, further files, and commands at each boot.

    A value of several lines gets the indentation of its word.
    """
    words = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    # In one pass: a certificate may have the letters of another word.
    pattern = re.compile(rf"^( *)(.*?)({words})", re.MULTILINE)
    found = {match[3] for match in pattern.finditer(example())}
    assert found == set(values), set(values) ^ found
    text = pattern.sub(lambda match: _indented(match, values[match[3]]), example())
    more = "".join(
        _ENTRY.format(path=path, mode="0644") + textwrap.indent(content, " " * 6)
        for path, content in files.items()
    )
    text = text.replace("write_files:\n", f"write_files:\n{more}", 1)
    if run := [["sh", "-c", line] for line in commands]:  # cloud-init refuses an empty list
        text += yaml.safe_dump({"bootcmd": run})
    assert yaml.safe_load(text)
    return text


def _indented(found: re.Match[str], value: str) -> str:
    first, *rest = value.splitlines()
    return "\n".join([f"{found[1]}{found[2]}{first}", *(f"{found[1]}{line}" for line in rest)])


def of_site(bed: Testbed, *, queue: str) -> str:
    """Return the user data of a site that works with the cloud and the broker of the test bed."""
    seed = bed.seed()
    credential = bed.host_credential("sender")
    broker = f"{bed.broker.host}:{bed.broker.tls_port}"
    accounts = {name: seed.accounts[name] for name in ("accounting", "information")}
    projects = {one.vo: one.id for one in seed.projects.values() if one.vo}
    values = {
        "CERTIFICATE": credential.certificate.read_text(),
        "KEY": credential.key.read_text(),
        "profile: egi": f"profile: private\nbroker: {broker}\nqueue: {queue}",
        "SITE-NAME": "TEST-SITE",
        "https://keystone.example.org:5000/v3": bed.keystone_url,
        "/etc/ssl/certs/ca-certificates.crt": AUTHORITY,
        "vo.example.org: PROJECT-ID": "\n".join(f"{vo}: {one}" for vo, one in projects.items()),
        **{
            f"{{name: {name}, password: PASSWORD}}": (
                f"{{name: {one.name}, password: {json.dumps(one.password)}}}"
            )
            for name, one in accounts.items()
        },
        "bdii.example.org": "fedcloud.example.org",
        "admins@example.org": "admins@example.net",
    }
    anchors = {
        f"{_GRID}/{path.name}": path.read_text()
        for path in sorted(bed.ca_directory.iterdir())
        if path.is_file()
    }
    ports = [bed.layout.port(name) for name in SERVICES if name != "broker"]
    files = {AUTHORITY: bed.ca_file.read_text(), **anchors}
    return filled(values, files=files, commands=reach([*ports, bed.broker.tls_port]))


def reach(ports: Iterable[int]) -> list[str]:
    """Return commands by which ports of the machine's loopback are those of the host's.

    The catalog of the test bed has addresses of the loopback, and its containers are to use them.
    """
    listed = ", ".join(map(str, ports))
    rules = f"""
        table ip bed
        delete table ip bed
        table ip bed {{
          chain output {{
            type nat hook output priority -100;
            ip daddr 127.0.0.1 tcp dport {{ {listed} }} dnat to {HOST}
          }}
          chain postrouting {{
            type nat hook postrouting priority 100;
            ip daddr {HOST} masquerade
          }}
        }}
    """
    return [
        "sysctl -q -w net.ipv4.conf.all.route_localnet=1",
        f"nft -f - <<'END'\n{textwrap.dedent(rules)}END",
        "sed -i 's/^FEDCLOUD_NETWORK=.*/FEDCLOUD_NETWORK=host/' /etc/fedcloud/appliance.env",
        f"echo {_SOURCE} >/etc/sitebdii/site-urls.conf",
    ]


def line_of(text: str, words: str) -> int:
    """Return the number of the line that has some words."""
    (found,) = [number for number, line in enumerate(text.splitlines(), start=1) if words in line]
    return found

"""The egress rules of the site's BDII, as iptables keeps them, in a network namespace."""

from __future__ import annotations

import contextlib
import ctypes
import io
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from appliance.admin import command
from appliance.admin.firewall import targets
from appliance.admin.firewall.targets import Target
from appliance.core.config import document
from appliance.core.run.layout import Layout
from tests.simulators import docker_engine
from tests.unit import backup_site
from tests.unit.test_upgrade_health import machine

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
APPLIANCE = Path(sys.executable).with_name("appliance")
_CHAIN = "FEDCLOUD-BDII"
_NEW_NET = 0x40000000  # CLONE_NEWNET, for setns(2)
_URLS = """\
# NAME URL
CLOUD ldap://cloudbdii:2170/GLUE2GroupID=cloud,o=glue
A ldap://192.0.2.9:2171/o=glue
B ldap://[2001:db8::9]:2170/o=glue
nonsense
"""


class Space:
    """A network namespace, and a site whose commands run in it."""

    def __init__(self, root: Path, pid: int) -> None:
        self.root, self._pid, self._enter = root, pid, ["nsenter", "--net", "--target", str(pid)]

    def run(self, *words: str | Path, expect: int = 0) -> str:
        done = subprocess.run([*self._enter, *words], capture_output=True, text=True, check=False)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def firewall(self, verb: str, *, expect: int = 0) -> str:
        """Run the command in a thread of this process that has entered the namespace."""
        output, found = io.StringIO(), []

        def work() -> None:
            with open(f"/proc/{self._pid}/ns/net") as namespace:
                assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NEW_NET) == 0
            found.append(command.main(["firewall", verb, "--root", str(self.root)]))

        thread = threading.Thread(target=work)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            thread.start()
            thread.join()
        assert found == [expect], output.getvalue()
        return output.getvalue()

    def rules(self, program: str = "iptables") -> list[str]:
        return self.run(program, "-S").splitlines()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A host with rules of the engine and of its administrator."""
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as process:
        try:
            here = Path("/proc/self/ns/net").readlink()
            while Path(f"/proc/{process.pid}/ns/net").readlink() == here:
                pass
            space = Space(tmp_path, process.pid)
            for name in ("bridge", "host"):
                path = f"etc/fedcloud/networks/{name}.yml"
                space.write(path, (TOP / path).read_text())
            space.write("etc/sitebdii/site-urls.conf", _URLS)
            space.write("etc/fedcloud/appliance.yaml", f"engine:\n  socket: {tmp_path}/none\n")
            for line in (
                "-N DOCKER-USER",
                "-A FORWARD -j DOCKER-USER",
                "-A DOCKER-USER -s 198.51.100.7 -j DROP",
                "-A DOCKER-USER -j RETURN",
                "-A INPUT -p tcp --dport 22 -j ACCEPT",
            ):
                space.run("iptables", *line.split())
            yield space
        finally:
            process.kill()


def ours(rules: list[str]) -> list[str]:
    return [rule for rule in rules if _CHAIN in rule]


def test_only_the_resource_bdiis_may_be_connected_to(space: Space) -> None:
    """F-H15: the BDIIs of site-urls.conf, IPv4 and IPv6, and replies; DNS only for names."""
    before = space.rules(), space.rules("ip6tables")
    assert "ldap://192.0.2.9:2171, ldap://[2001:db8::9]:2170" in space.firewall("up")
    assert ours(space.rules()) == [
        f"-N {_CHAIN}",
        f"-A INPUT -i fedcloud-pub -j {_CHAIN}",
        f"-A INPUT -i fedcloud-ldap -j {_CHAIN}",
        f"-A DOCKER-USER -i fedcloud-pub -j {_CHAIN}",
        f"-A {_CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        (
            f"-A {_CHAIN} -p tcp -m conntrack --ctorigdst 192.0.2.9 --ctorigdstport 2171 -m "
            "comment "
            '--comment "ldap://192.0.2.9:2171" -j RETURN'
        ),
        f"-A {_CHAIN} -j REJECT --reject-with icmp-admin-prohibited",
    ]
    six = ours(space.rules("ip6tables"))
    assert f"-A FORWARD -i fedcloud-pub -j {_CHAIN}" in six  # the engine keeps no rules of IPv6
    assert [rule for rule in six if "--ctorigdst " in rule] == [
        (
            f"-A {_CHAIN} -p tcp -m conntrack --ctorigdst 2001:db8::9 --ctorigdstport 2170 -m "
            "comment "
            '--comment "ldap://[2001:db8::9]:2170" -j RETURN'
        )
    ]
    assert [rule for rule in space.rules() if rule not in ours(space.rules())] == before[0]
    assert f"{_CHAIN}: removed" in space.firewall("down")
    assert (space.rules(), space.rules("ip6tables")) == before


def test_it_is_idempotent_and_repairs_what_others_changed(space: Space) -> None:
    """F-H15: flushed, overtaken and doubled rules are repaired; other rules keep their order."""
    space.firewall("up")
    wanted = space.rules()
    assert space.firewall("up") == ""
    assert space.rules() == wanted
    for harm in (
        "-F DOCKER-USER",
        "-F INPUT",
        f"-F {_CHAIN}",
        f"-D {_CHAIN} 3",
        f"-A DOCKER-USER -i fedcloud-pub -j {_CHAIN}",
        f"-I FORWARD -i fedcloud-pub -j {_CHAIN}",
    ):
        space.run("iptables", *harm.split())
        assert _CHAIN in space.firewall("up"), harm
        assert ours(space.rules()) == ours(wanted), harm
    space.run("iptables", "-I", "DOCKER-USER", "-s", "198.51.100.8", "-j", "ACCEPT")
    space.firewall("up")
    hook = [rule for rule in space.rules() if rule.startswith("-A DOCKER-USER")]
    assert hook == [
        f"-A DOCKER-USER -i fedcloud-pub -j {_CHAIN}",
        "-A DOCKER-USER -s 198.51.100.8/32 -j ACCEPT",
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "etc/fedcloud/appliance.env",
            "FEDCLOUD_NETWORK=host\n",
            "it uses the network of the host",
        ),
        (
            "etc/fedcloud/appliance.yaml",
            "firewall: {bdii_egress: false}\n",
            "bdii_egress is false in",
        ),
        (
            "etc/fedcloud/appliance.yaml",
            "flows: {information: off}\n",
            "the flow information is off",
        ),
        (
            "etc/fedcloud/networks/bridge.yml",
            "services: {sitebdii: {networks: [bdii]}}\n",
            "gives it other networks than ldap and public; write networks: [ldap, public]",
        ),
    ],
)
def test_where_it_does_not_apply_the_chain_is_removed(
    space: Space, name: str, text: str, words: str
) -> None:
    """F-H15: the host's network, the administrator's word, networks of an earlier release."""
    before = space.rules()
    space.firewall("up")
    space.write(name, text)
    said = space.firewall("up")
    assert words in said
    assert f"{_CHAIN}: removed" in said
    assert space.rules() == before


def test_the_chain_is_there_while_the_public_bdii_runs(space: Space) -> None:
    """F-H15: a restart of the unit keeps the chain; the timer repairs it only if the BDII runs."""
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as engine,
    ):
        space.write("etc/fedcloud/appliance.yaml", f"engine:\n  socket: {engine.socket}\n")
        assert space.firewall("repair") == ""
        assert ours(space.rules()) == []
        labels = {
            "com.docker.compose.project": "fedcloud",
            "com.docker.compose.service": "sitebdii",
        }
        engine.add("fedcloud_sitebdii_1", labels=labels)
        space.firewall("repair")
        wanted = space.rules()
        assert ours(wanted)
        assert "sitebdii runs: the chain FEDCLOUD-BDII stays" in space.firewall("down")
        assert space.rules() == wanted
    assert "removed" in space.firewall("repair")  # with the engine went its containers
    assert ours(space.rules()) == []


@pytest.mark.parametrize("state", ["activating", "active", "reloading", "failed"])
def test_the_timer_keeps_the_chain_of_a_bdii_that_is_about_to_run(
    state: str, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit puts the chain in place minutes before its containers run."""
    there = machine(tmp_path / "bin", bdii=state)
    monkeypatch.setattr("appliance.admin.firewall.control.Machine", lambda: there)
    space.firewall("up")
    wanted = ours(space.rules())
    space.firewall("repair")
    assert ours(space.rules()) == ([] if state == "failed" else wanted)


def test_a_host_that_is_being_changed_keeps_its_chain(space: Space) -> None:
    """R18: units that an installation starts put the chain in place; the timer leaves it alone."""
    with backup_site.held(space.root / "run/fedcloud/install.lock"):
        space.firewall("up")
        wanted = ours(space.rules())
        assert wanted
        said = space.firewall("repair")
        assert "firewall: not repaired: the appliance is being changed" in said
        assert ours(space.rules()) == wanted
    assert "removed" in space.firewall("repair")


def test_without_iptables_there_is_a_line(space: Space) -> None:
    line = shlex.join([str(APPLIANCE), "firewall", "up", "--root", str(space.root)])
    hidden = f"mount -t tmpfs none /usr/sbin && exec {line}"
    said = space.run("unshare", "--mount", "sh", "-c", hidden, expect=3)
    assert said.startswith(
        "appliance: iptables: is not installed; apt-get install iptables, or set firewall: bdii_e"
    )


def test_a_name_is_looked_up_and_its_address_kept_while_it_cannot_be(space: Space) -> None:
    """F-H15: with names, the DNS servers of the containers may be asked, and no others."""
    space.write("etc/sitebdii/site-urls.conf", "A ldap://bdii.example.org:2170/o=glue\n")
    space.write(
        "etc/resolv.conf", "nameserver 127.0.0.1\nnameserver 192.0.2.53\nnameserver fd00::53\n"
    )
    hosts = space.root / "hosts"
    looked_up = (
        "mount --bind "
        + shlex.quote(str(hosts))
        + " /etc/hosts && exec "
        + shlex.join([str(APPLIANCE), "firewall", "up", "--root", str(space.root)])
    )
    seen = []
    for text in ("192.0.2.11 bdii.example.org\n", "", "192.0.2.12 bdii.example.org\n"):
        hosts.write_text(text)
        space.run("unshare", "--mount", "sh", "-c", looked_up)
        seen.append([rule for rule in ours(space.rules()) if " -j RETURN" in rule][1:])
    dns = [
        f"-A {_CHAIN} -d 192.0.2.53/32 -p {name} -m {name} --dport 53 -j RETURN"
        for name in ("udp", "tcp")
    ]
    assert [rules[1:] for rules in seen] == [dns] * 3
    assert [rules[0].split()[7] for rules in seen] == ["192.0.2.11", "192.0.2.11", "192.0.2.12"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ["8.8.8.8", "8.8.4.4"]),
        ({"etc/resolv.conf": "nameserver 192.0.2.1\noptions x\n"}, ["192.0.2.1"]),
        (
            {
                "etc/resolv.conf": "nameserver 127.0.0.53\n",
                "run/systemd/resolve/resolv.conf": "nameserver 192.0.2.2\nnameserver\n"
                "nameserver x\n",
            },
            ["192.0.2.2"],
        ),
        (
            {
                "etc/docker/daemon.json": '{"dns": ["192.0.2.3"]}',
                "etc/resolv.conf": "nameserver 192.0.2.1\n",
            },
            ["192.0.2.3"],
        ),
        (
            {"etc/docker/daemon.json": "broken", "etc/resolv.conf": "nameserver ::1\n"},
            ["8.8.8.8", "8.8.4.4"],
        ),
    ],
)
def test_the_dns_servers_are_those_that_the_engine_hands_on(
    tmp_path: Path, files: Mapping[str, str], expected: list[str]
) -> None:
    """As Docker documents it: its own setting, the host's servers without loopback, Google's."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert targets.resolvers(Layout(tmp_path)) == expected


def test_targets_are_where_the_bdii_reads_them(tmp_path: Path) -> None:
    """BDII_SITE_URLS may name another file; the shipped one names a container of ours alone."""
    etc = tmp_path / "etc/sitebdii"
    etc.mkdir(parents=True)
    (etc / "site-urls.conf").write_text((TOP / "etc/sitebdii/site-urls.conf").read_text())
    (etc / "bdii.conf").write_text((TOP / "etc/sitebdii/bdii.conf").read_text())
    assert targets.read(Layout(tmp_path)) == []
    (etc / "bdii.conf").write_text("BDII_SITE_URLS=/etc/sitebdii/other.conf\n")
    (etc / "other.conf").write_text("X ldap://b.example.org:1/mds-vo-name=resource,o=grid\n")
    assert targets.read(Layout(tmp_path)) == [Target("b.example.org", 1)]
    assert document.read_text(etc / "other.conf")

"""A machine of the image federates the test bed's cloud by its user data alone; then the manual's
steps on it, by hand. It boots by BIOS.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.bdii_service import parse
from tests.e2e.images_frontend import make_disks, sha512
from tests.e2e.ssm_site import Site as Repository
from tests.e2e.vm_site import IMAGES_PROJECT, IMAGES_VO
from tests.simulators import image_server
from tests.simulators.image_lists import image, image_id, image_list, sign
from tests.testbed import Testbed
from tests.testbed.patience import until
from tests.testbed.pki import AUTHORITY_DN, HOST_DN
from tests.vm import site_data
from tests.vm.machine import HOST, LDAP, Hardware, VirtualMachine, switched_on

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.cloud,
    pytest.mark.broker,
    pytest.mark.root,
    pytest.mark.timeout(2400),
]

QUEUE = "/queue/image.machine"
NEXT = "Next: appliance status"
"""The last line of a start, on the console."""
_ANSWERED = 0


@dataclass(frozen=True, slots=True)
class FederatedMachine:
    """The machine, and the test bed that it federates."""

    machine: VirtualMachine
    bed: Testbed
    user_data: str

    def entries(self) -> set[str]:
        """Return the names that a client on another host finds."""
        url = f"ldap://127.0.0.1:{self.machine.ports[LDAP]}"
        command = ["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", url, "-b", "o=glue"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return set(parse(done.stdout)) if done.returncode == _ANSWERED else set()

    def shares(self) -> set[str]:
        """Return the names of the VOs' shares."""
        return {dn for dn in self.entries() if dn.startswith("GLUE2ShareID=")}

    def vos(self) -> set[str]:
        """Return the VOs of the cloud."""
        return {one.vo for one in self.bed.seed().projects.values() if one.vo}

    def repository(self, directory: Path) -> Repository:
        """Return a repository that takes messages from the queue."""
        broker = self.bed.broker
        hosts = f"{broker.host}:{broker.tls_port}"
        return Repository.create(directory, broker.trust, hosts=hosts, queue=QUEUE)


@pytest.fixture(scope="module")
def site(
    image: Path, testbed: Testbed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FederatedMachine]:
    directory = tmp_path_factory.mktemp("site")
    volume = directory / "volume.raw"
    with volume.open("wb") as file:
        file.truncate(4 * 2**30)
    hardware = Hardware(disk="24G", volumes=(volume,), reaches_host=True)
    machine = VirtualMachine(directory, image, hardware)
    user_data = site_data.of_site(testbed, queue=QUEUE)
    machine.give(user_data)
    with switched_on(machine):
        yield FederatedMachine(machine, testbed, user_data)


def test_user_data_alone_sends_the_first_record(site: FederatedMachine, tmp_path: Path) -> None:
    """R02, R03: nobody has logged in; the document is the one that the page shows."""
    site.machine.await_text(NEXT, "Nothing is started", "Not configured", "user data:")
    said = site.machine.console
    assert NEXT in said, said[-4000:]
    repository = site.repository(tmp_path)
    assert repository.run("ssmreceive", "--idle-exit", "20").returncode == 0  # all of them
    assert "APEL-cloud-message" in repository.elements()[0]["body"]


def test_secrets_of_the_user_data_are_for_root_alone(site: FederatedMachine) -> None:
    """They are on no console and in no log, and containers cannot ask for them again."""
    site.machine.await_login()
    accounts = site.bed.seed().accounts
    passwords = {accounts[name].password for name in ("accounting", "information")}
    key = site.bed.host_credential("sender").key.read_text().splitlines()[1]
    for secret in (*passwords, key):
        assert secret not in site.machine.console
        looked = "journalctl --no-pager -o cat; cat /var/log/*.log /var/log/*/*"
        found = site.machine.run(f"({looked}) 2>/dev/null | grep -cF -- '{secret}'", expect=None)
        assert found.stdout.strip() == "0"
        files = "/var/lib/cloud /run/cloud-init /etc /var/lib/fedcloud"
        found = site.machine.run(f"grep -rlF -- '{secret}' {files} | xargs -r stat -c '%a %n'")
        for line in found.stdout.splitlines():
            assert line.split()[0][-1] == "0", line
    asked = "setpriv --reuid 1999 --clear-groups curl -sm 20 http://169.254.169.254/"
    assert site.machine.run(asked, expect=7).stdout == ""  # refused at once, see curl(1)


def test_ldapsearch_from_outside(site: FederatedMachine) -> None:
    """R03: the whole cloud is published, also after a stop and a start by hand."""
    wanted = len(site.vos())
    assert until(lambda: len(site.shares()) == wanted, seconds=900), site.entries()
    site.machine.run("systemctl stop bdii")
    assert site.entries() == set()
    site.machine.run("systemctl start bdii")
    assert "GLUE2DomainID=TEST-SITE,o=glue" in site.entries()


def test_nobody_logs_in_with_a_password(site: FederatedMachine) -> None:
    """Root is locked; only the key of the cloud opens the machine."""
    for user in ("root", "debian"):
        assert site.machine.run(f"passwd --status {user}").stdout.split()[1] in ("L", "LK")
    shown = site.machine.run("sshd -T").stdout.splitlines()
    wanted = {"passwordauthentication no", "permitrootlogin no", "kbdinteractiveauthentication no"}
    assert wanted <= set(shown)
    port = site.machine.ports[22]
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    options += ["-o", "BatchMode=yes", "-o", "PubkeyAuthentication=no", "-p", str(port)]
    for user in ("root", "debian"):
        done = subprocess.run(
            ["ssh", *options, f"{user}@127.0.0.1", "true"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Permission denied (publickey)" in done.stderr


def test_the_disk_has_grown_and_the_volume_is_mounted(site: FederatedMachine) -> None:
    sizes = site.machine.run("findmnt -bno SIZE /; findmnt -bno SIZE /image_data").stdout.split()
    assert int(sizes[0]) > 20 * 10**9
    assert 3 * 10**9 < int(sizes[1]) < 5 * 10**9
    assert site.machine.run("stat -c %U:%a /image_data").stdout == "fedcloud:750\n"


def test_the_message_of_the_day_has_the_lights(site: FederatedMachine) -> None:
    """On the console before the prompt, and in what pam_motd(8) shows."""
    site.machine.await_command("grep -q '^accounting ' /run/motd.d/fedcloud")
    message = site.machine.run("cat /run/motd.d/fedcloud").stdout
    assert message.startswith("EGI fedcloud appliance ")
    assert max(map(len, message.splitlines())) <= 80
    lights = next(line for line in message.splitlines() if line.startswith("accounting "))
    site.machine.await_text(lights)


def test_cron_delivers_records(site: FederatedMachine, tmp_path: Path) -> None:
    """R03: its tables start the jobs each minute here."""
    machine = site.machine
    machine.run("systemctl is-active cron && rm -rf /var/spool/caso/* /var/lib/fedcloud/caso/*")
    machine.run(
        "sed -i -E 's/^[0-9]+ [^ ]+ \\* \\* \\* root/* * * * * root/' /etc/cron.d/{caso,ssmsend}"
    )
    repository = site.repository(tmp_path)
    with repository.start("ssmreceive", "--count", "1") as receiver:
        assert receiver.wait(timeout=1500) == 0
    assert "APEL-cloud-message" in repository.elements()[0]["body"]
    commands = machine.run("journalctl --no-pager -o cat -t CRON").stdout
    for script, log in (("caso-extract", "caso"), ("ssm-send", "ssm")):
        assert f"(root) CMD (/usr/local/bin/{script}.sh >> /var/log/{log}.log 2>&1)" in commands
    machine.run("rm /etc/cron.d/caso /etc/cron.d/ssmsend")


def test_images_arrive_in_glance(site: FederatedMachine, tmp_path: Path) -> None:
    """R03, R36: the manual's lines are edited by hand, and the service is started."""
    machine, bed = site.machine, site.bed
    account = bed.seed().accounts["images"]
    lines = {
        124: f"username = {account.name}",
        127: f"password = {account.password}",
        130: "user_domain_name = Default",
        136: f"auth_url = {bed.keystone_url}",
    }
    edits = " ".join(f"-e '{number}c {text}'" for number, text in lines.items())
    project = bed.seed().projects[IMAGES_PROJECT].id
    machine.run("appliance flows --on images")
    machine.run(f"sed -i {edits} /etc/cloudkeeper/cloudkeeper-os.conf")
    machine.run(f"""echo '{{"{IMAGES_VO}": {{"projects": ["{project}"]}}}}' >/etc/voms.json""")
    machine.run("systemctl start cloudkeeper-os")
    content = make_disks(tmp_path)["one.qcow2"]
    with image_server.serve(bed.host_credential("lists")) as web:
        port = web.base.rpartition(":")[2]
        rule = f"ip daddr 127.0.0.1 tcp dport {port} dnat to {HOST}"
        machine.run(f"nft insert rule ip bed output {rule}")
        entry = image(1, uri=web.put("/one.qcow2", content), content=content, hv__format="QCOW2")
        dn = f"{HOST_DN}/CN=endorser.example.org"
        document = image_list([entry], dn=dn, ca=AUTHORITY_DN, vo=IMAGES_VO)
        web.put("/image.list", sign(document, bed.host_credential("endorser")))
        machine.run(f"echo '{web.url('/image.list')}' >/etc/cloudkeeper/image-lists.conf")
        said = machine.run("/usr/local/bin/cloudkeeper.sh")
    found = bed.admin().get("image", f"/v2/images?APPLIANCE_ID={image_id(1)}&visibility=all")
    (made,) = found["images"]
    assert (made["status"], made["owner"]) == ("active", project), said
    assert made["os_hash_value"] == sha512(content)


@pytest.mark.parametrize(
    "program", ["caso", "ssmsend", "cloudbdii", "sitebdii", "cloudkeeper", "cloudkeeper-os"]
)
def test_the_check_finds_no_error(site: FederatedMachine, program: str) -> None:
    """R03: one at a time, since an emulated processor starts six in more than a check waits."""
    said = site.machine.run(f"appliance check --offline {program}", expect=None).stdout
    errors = [line for line in said.splitlines() if re.match(r"C\d\d\S* +error ", line)]
    assert [line for line in errors if not line.startswith("C08")] == [], said


def test_a_reboot_brings_everything_back(site: FederatedMachine) -> None:
    """Without the volume, which is reported; what user data has done once is not repeated."""
    machine, shares = site.machine, site.shares()
    machine.run("sed -i s/TEST-SITE/OTHER-SITE/ /etc/caso/caso.conf")
    machine.hardware = replace(machine.hardware, volumes=())
    machine.reboot()
    assert until(lambda: site.shares() == shares, seconds=900), machine.console[-4000:]
    machine.await_text("at an earlier boot")
    assert "OTHER-SITE" in machine.run("grep ^site_name /etc/caso/caso.conf").stdout
    # The lists of the authorities that the image has are on the internet.
    assert machine.failed_units() <= {"fedcloud-job@fetch-crl.service"}
    said = machine.run("appliance check --offline --only C02", expect=None).stdout
    assert "the volume that was mounted here is missing" in said

"""OpenStack's object store, Swift, in four processes beside an instance's Keystone.

    with serve(directory, testbed) as swift:
        swift.users, swift.url

It is not one of the instance's services, because few tests need it. Its catalog entry is removed at
the end of the block. One device in a directory is enough; memcached is missing, which it accepts.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.core.run.errors import Unavailable
from tests.testbed import catalog, secrets
from tests.testbed.api import KEYSTONE, Api
from tests.testbed.configuration import REGION, Configuration
from tests.testbed.layout import HOST, environment
from tests.testbed.testbed import Testbed

_BACKENDS = ("account", "container", "object")
_SECONDS = 120
_AUTHTOKEN = "keystonemiddleware.auth_token:filter_factory"
_RINGS = """
import json, sys
from swift.common.ring import RingBuilder
directory, ports = sys.argv[1], json.loads(sys.argv[2])
for name, port in ports.items():
    builder = RingBuilder(1, 1, 1)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1",
                     "weight": 1, "replication_ip": "127.0.0.1", "replication_port": port})
    builder.rebalance()
    builder.get_ring().save(f"{directory}/{name}.ring.gz")
"""


@dataclass(frozen=True, slots=True)
class SwiftService:
    """The running service. ``url`` ends in the account of a project, ``%(project_id)s``."""

    url: str
    processes: dict[str, subprocess.Popen[bytes]]
    directory: Path


@contextlib.contextmanager
def serve(directory: Path, testbed: Testbed) -> Iterator[SwiftService]:
    """Run Swift with its data in a directory until the end of the block; Keystone must be up."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "devices/d1").mkdir(parents=True)
    ports = dict(zip((*_BACKENDS, "proxy"), _free_ports(len(_BACKENDS) + 1), strict=True))
    admin = testbed.admin()
    url = f"https://{HOST}:{ports['proxy']}/v1/AUTH_%(project_id)s"
    _configure(directory, testbed, ports)
    service = _register(admin, testbed, url)
    started = SwiftService(url, {}, directory)
    try:
        for name in ports:
            _start(started, name)
        for name, port in ports.items():
            _wait(started, name, port, testbed.ca_file)
        yield started
    finally:
        for process in started.processes.values():
            process.kill()
        for process in started.processes.values():
            process.wait()
        admin.call("DELETE", KEYSTONE, f"/services/{service}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _configure(directory: Path, testbed: Testbed, ports: dict[str, int]) -> None:
    """Write the files of all four servers, and the rings that name one device."""
    (directory / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = tests\n"
        "[storage-policy:0]\nname = default\ndefault = yes\n"
    )
    for name in _BACKENDS:
        (directory / f"{name}.conf").write_text(
            _default(directory, ports[name])
            + f"devices = {directory / 'devices'}\nmount_check = false\n"
            + f"[pipeline:main]\npipeline = {name}-server\n"
            + f"[app:{name}-server]\nuse = egg:swift#{name}\n"
        )
    credential = testbed.trust.endpoints()
    check = Configuration(testbed.layout, testbed.ca_file)._token_check("swift")
    secrets.write_private(
        directory / "proxy.conf",
        _default(directory, ports["proxy"])
        + f"cert_file = {credential.certificate}\nkey_file = {credential.key}\n"
        + "[pipeline:main]\npipeline = catch_errors cache authtoken keystoneauth proxy-server\n"
        + "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        + "[filter:catch_errors]\nuse = egg:swift#catch_errors\n"
        + "[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:9\n"
        + "[filter:keystoneauth]\nuse = egg:swift#keystoneauth\noperator_roles = member\n"
        + f"[filter:authtoken]\npaste.filter_factory = {_AUTHTOKEN}\n"
        + "delay_auth_decision = true\n"
        + "".join(f"{option} = {value}\n" for option, value in check.items()),
    )
    storage = {name: ports[name] for name in _BACKENDS}
    words = ["-c", _RINGS, str(directory), json.dumps(storage)]
    subprocess.run([environment() / "bin/python", *words], check=True)


def _default(directory: Path, port: int) -> str:
    return (
        f"[DEFAULT]\nbind_ip = {HOST}\nbind_port = {port}\nworkers = 0\n"
        f"user = {getpass.getuser()}\nswift_dir = {directory}\n"
        f"log_address = {directory / 'no-syslog'}\n"
    )


def _register(admin: Api, testbed: Testbed, url: str) -> str:
    """Create Swift's account and its entry in the catalog; return the id of the service."""
    catalog.register(admin, testbed.layout, services=())  # the project of services' accounts
    password = secrets.password(testbed.layout.secrets, "swift")
    users = admin.get(KEYSTONE, "/users?name=swift")["users"]
    user = {"name": "swift", "domain_id": "default", "password": password}
    made = users[0] if users else admin.post(KEYSTONE, "/users", {"user": user})["user"]
    project = admin.get(KEYSTONE, "/projects?name=service")["projects"][0]["id"]
    for role in admin.get(KEYSTONE, "/roles")["roles"]:
        if role["name"] in ("service", "admin"):
            place = f"/projects/{project}/users/{made['id']}/roles/{role['id']}"
            admin.put(KEYSTONE, place)
    service = {"name": "swift", "type": "object-store"}
    created = str(admin.post(KEYSTONE, "/services", {"service": service})["service"]["id"])
    endpoint = {"service_id": created, "interface": "public", "region_id": REGION, "url": url}
    admin.post(KEYSTONE, "/endpoints", {"endpoint": endpoint})
    return created


def _start(service: SwiftService, name: str) -> None:
    program = environment() / f"bin/swift-{name}-server"
    with (service.directory / f"{name}.log").open("wb") as log:
        service.processes[name] = subprocess.Popen(
            [environment() / "bin/python", program, service.directory / f"{name}.conf", "verbose"],
            stdout=log,
            stderr=log,
            cwd=service.directory,
            env={"PYTHONWARNINGS": "ignore", "PATH": "/usr/bin:/bin"},
        )


def _wait(service: SwiftService, name: str, port: int, authority: Path) -> None:
    end = time.monotonic() + _SECONDS
    context = ssl.create_default_context(cafile=str(authority))
    while time.monotonic() < end and service.processes[name].poll() is None:
        with contextlib.suppress(OSError):
            connection: http.client.HTTPConnection
            if name == "proxy":
                connection = http.client.HTTPSConnection(HOST, port, timeout=30, context=context)
            else:
                connection = http.client.HTTPConnection(HOST, port, timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", "/healthcheck")
                connection.getresponse()
            return
        time.sleep(0.05)
    log = service.directory / f"{name}.log"
    raise Unavailable(f"swift {name}", "did not come up", log.read_text()[-2000:])

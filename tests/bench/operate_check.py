"""Sites that `appliance check` is measured on: one in order, and one whose every endpoint hangs."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.simulators import leading_proxy, openstack
from tests.simulators.ams_service import AMS
from tests.simulators.gocdb import Gocdb, Service
from tests.simulators.information_service import InformationService
from tests.simulators.openstack import Cloud
from tests.simulators.probed_cloud import ProbedCloud, mapping, network
from tests.testbed import Authority
from tests.testbed.pki import HOST_DN
from tests.unit.test_check_as_egi_beside import RULE, SENDERS, published
from tests.unit.test_check_beside import lay_out

_TOPIC, _TOKEN = "eu-egi-cloud-accounting", "t0ken-47"
Site = tuple[Path, dict[str, str]]
"""A root directory, and variables of the environment that lead to the services."""


@contextlib.contextmanager
def healthy(directory: Path) -> Iterator[Site]:
    """Yield a site of cASO and SSM whose cloud, AMS and services of EGI answer as they should."""
    probed = ProbedCloud(
        networks=[network("n", owner="ops")], mappings=[mapping(RULE)], groups={"g": ["ops"]}
    )
    authority = Authority.create(directory / "ca", key="ec")
    own = authority.issue(
        "services.example.net", hosts=["127.0.0.1", "goc.egi.eu", "is.cloud.egi.eu"], key="ec"
    )
    with contextlib.ExitStack() as stack:
        made = Cloud(projects=("ops",), servers=200, deleted=0, fault=probed.answer)
        cloud = stack.enter_context(openstack.serving(made))
        ams = stack.enter_context(AMS(own, authority.certificate))
        ams.create(_TOPIC)
        ams.tokens.add(_TOKEN)
        dn = f"{HOST_DN}/CN=host.example.net"
        services = [
            Service("1G0", "SITE", f"{cloud.url}/v3"),
            Service("2G0", "SITE", "", kind=SENDERS, dn=dn),
        ]
        gocdb = stack.enter_context(Gocdb(services).serve(own))
        documents = {"x.json": published(f"{cloud.url}/v3")}
        egi = stack.enter_context(InformationService(documents).serve(own))
        root = lay_out(directory / "site", url=cloud.url, port=ams.port, authority=authority)
        path = root / "etc/caso/caso.conf"
        path.write_text(path.read_text().replace("= one", "= ops").replace("= VO", "= name"))
        places = {"goc.egi.eu": gocdb.url, "is.cloud.egi.eu": egi.url}
        ports = {name: int(url.split(":")[2].partition("/")[0]) for name, url in places.items()}
        proxy, _ = stack.enter_context(leading_proxy.serving(ports))
        trusted = root / "etc/fedcloud/appliance.env"
        trusted.parent.mkdir(parents=True)
        trusted.write_text(f"FEDCLOUD_CA_BUNDLE={authority.certificate}\n")
        yield root, {"https_proxy": proxy, "no_proxy": "127.0.0.1"}


@contextlib.contextmanager
def hanging(directory: Path) -> Iterator[Site]:
    """Yield the same site, whose every connection is accepted and never answered."""
    kept: list[socket.socket] = []
    authority = Authority.create(directory / "ca", key="ec")
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        port = server.getsockname()[1]
        root = lay_out(
            directory / "site", url=f"http://127.0.0.1:{port}", port=port, authority=authority
        )
        yield root, {"https_proxy": f"http://127.0.0.1:{port}", "no_proxy": "127.0.0.1"}
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()

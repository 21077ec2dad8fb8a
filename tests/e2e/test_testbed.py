"""The test bed: TLS that verifies, accounts that only read, a broker that keeps messages."""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import CLOUD_SERVICES, Credential, Seed, Testbed
from tests.testbed.api import (
    KEYSTONE,
    NEUTRON,
    NOVA,
    Api,
    ApiError,
    application_credential_auth,
    password_auth,
)
from tests.testbed.broker import Broker

EPOCH = "1970-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def seed(testbed: Testbed) -> Seed:
    return testbed.seed()


def door(
    testbed: Testbed, account: str, *, project: str | None = None, system: bool = False
) -> Api:
    seed = testbed.seed()
    auth = password_auth(
        testbed.keystone_url,
        account,
        seed.accounts[account].password,
        project_id=seed.projects[project].id if project else None,
        system=system,
    )
    return Api(auth, ca_file=testbed.ca_file)


def tls_handshake(port: int, *options: str | Path) -> str:
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{port}",
        "-verify_return_error",
        "-brief",
    ]
    shown = subprocess.run(
        [*command, *map(str, options)], input="", capture_output=True, text=True, check=False
    )
    return shown.stdout + shown.stderr


@pytest.mark.cloud
@pytest.mark.parametrize("service", CLOUD_SERVICES)
@pytest.mark.parametrize("name", [("-verify_ip", "127.0.0.1"), ("-verify_hostname", "localhost")])
def test_endpoint_has_a_certificate_of_the_private_authority(
    testbed: Testbed, service: str, name: tuple[str, str]
) -> None:
    port = testbed.layout.port(service)
    assert "Verification: OK" in tls_handshake(port, "-CAfile", testbed.ca_file, *name)
    assert "Verification: OK" not in tls_handshake(port, "-CApath", testbed.ca_directory, *name)


@pytest.mark.cloud
def test_reader_sees_all_servers_of_its_project_deleted_ones_too(
    testbed: Testbed, seed: Seed
) -> None:
    shown = door(testbed, "accounting", project="vo-fedcloud").get(
        NOVA, f"/servers/detail?changes-since={EPOCH}"
    )
    with contextlib.closing(
        sqlite3.connect(f"file:{testbed.nova_database}?mode=ro", uri=True)
    ) as database:
        rows = database.execute(
            "SELECT uuid, deleted FROM instances WHERE project_id = ?",
            [seed.projects["vo-fedcloud"].id],
        ).fetchall()
    assert {(server["id"], server["status"] == "DELETED") for server in shown["servers"]} == {
        (server, deleted != 0) for server, deleted in rows
    }


@pytest.mark.cloud
@pytest.mark.parametrize("project", ["vo-fedcloud", "vo-ops", "vo-biomed"])
def test_servers_are_in_the_state_that_the_seed_names(
    testbed: Testbed, seed: Seed, project: str
) -> None:
    shown = door(testbed, "accounting", project=project).get(
        NOVA, f"/servers/detail?changes-since={EPOCH}"
    )
    statuses = {server["id"]: server["status"] for server in shown["servers"]}
    planted = [server for server in seed.servers.values() if server.project == project]
    assert {server.id: server.status for server in planted} == {
        server.id: statuses.get(server.id) for server in planted
    }


@pytest.mark.cloud
def test_reader_cannot_change_anything(testbed: Testbed, seed: Seed) -> None:
    accounting = door(testbed, "accounting", project="vo-fedcloud")
    with pytest.raises(ApiError) as refused:
        accounting.call("DELETE", NOVA, f"/servers/{seed.servers['vo-fedcloud-0'].id}")
    assert refused.value.status_code == 403


@pytest.mark.cloud
def test_system_reader_finds_projects_by_tag_and_users_by_id(testbed: Testbed, seed: Seed) -> None:
    system = door(testbed, "accounting", system=True)
    tagged = system.get(KEYSTONE, "/projects?tags=caso")["projects"]
    assert {project["name"]: project["VO"] for project in tagged} == {
        "vo-fedcloud": "fedcloud.egi.eu",
        "vo-ops": "ops",
        "vo-biomed": "biomed",
    }
    user = seed.users["vo-biomed-user1"]
    assert system.get(KEYSTONE, f"/users/{user.id}")["user"]["name"] == user.name


@pytest.mark.cloud
def test_account_without_a_scope_learns_its_projects(testbed: Testbed) -> None:
    unscoped = door(testbed, "accounting")
    answer = unscoped.session.get(f"{testbed.keystone_url}/auth/projects").json()
    assert {
        project["name"]: (project["VO"], project["tags"]) for project in answer["projects"]
    } == {
        "vo-fedcloud": ("fedcloud.egi.eu", ["caso", "egi"]),
        "vo-ops": ("ops", ["caso", "egi"]),
        "vo-biomed": ("biomed", ["caso"]),
    }


@pytest.mark.cloud
def test_application_credential_reads_its_project(testbed: Testbed, seed: Seed) -> None:
    credential = seed.application_credential
    auth = application_credential_auth(testbed.keystone_url, credential.id, credential.secret)
    application = Api(auth, ca_file=testbed.ca_file)
    assert application.project_id == seed.projects[credential.project].id
    assert len(application.get(NOVA, "/servers")["servers"]) == sum(
        server.project == credential.project and server.status != "DELETED"
        for server in seed.servers.values()
    )


@pytest.mark.cloud
def test_floating_ips_are_seen_by_neutron_and_in_the_servers_addresses(
    testbed: Testbed, seed: Seed
) -> None:
    accounting = door(testbed, "accounting", project="vo-fedcloud")
    planted = {ip.address: ip.server for ip in seed.floating_ips if ip.project == "vo-fedcloud"}
    listed = accounting.get(NEUTRON, "/v2.0/floatingips")["floatingips"]
    assert {ip["floating_ip_address"] for ip in listed} == set(planted)
    for address, server in planted.items():
        if server:
            shown = accounting.get(NOVA, f"/servers/{seed.servers[server].id}")["server"][
                "addresses"
            ]
            floating = [
                each["addr"]
                for network in shown.values()
                for each in network
                if each["OS-EXT-IPS:type"] == "floating"
            ]
            assert floating == [address]


@pytest.fixture
def history(testbed: Testbed) -> Iterator[Testbed]:
    testbed.clear_bulk()
    testbed.bulk(500, project="vo-ops", days=30, running=20)
    yield testbed
    assert testbed.clear_bulk() == 500


@pytest.mark.cloud
def test_history_is_served_by_nova(history: Testbed, seed: Seed) -> None:
    accounting = door(history, "accounting", project="vo-ops")
    shown = accounting.get(NOVA, f"/servers/detail?changes-since={EPOCH}&limit=1000")["servers"]
    invented = [server for server in shown if server["name"].startswith("bulk-")]
    assert len(invented) == 500
    assert sum(server["status"] == "ACTIVE" for server in invented) == 100
    assert sum(server["status"] == "DELETED" for server in invented) == 400


@pytest.mark.cloud
def test_dead_region_is_shown_when_asked_for(testbed: Testbed) -> None:
    def regions() -> set[str]:
        session = door(testbed, "accounting", project="vo-ops").session
        catalog = session.get(f"{testbed.keystone_url}/auth/catalog").json()["catalog"]
        return {endpoint["region_id"] for service in catalog for endpoint in service["endpoints"]}

    assert regions() == {"RegionOne"}
    testbed.show_second_region(shown=True)
    try:
        assert regions() == {"RegionOne", "RegionTwo"}
    finally:
        testbed.show_second_region(shown=False)


@pytest.mark.cloud
def test_secrets_are_for_their_owner_only(testbed: Testbed) -> None:
    state = testbed.layout.state
    private = [
        state / "seed.json",
        *(state / "secrets").iterdir(),
        *(state / "etc").rglob("*.conf"),
    ]
    assert len(private) > len(CLOUD_SERVICES)
    assert {path.stat().st_mode & 0o077 for path in private} == {0}


class Stomp:
    """STOMP 1.2 with nothing but a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(5)
        self.send("CONNECT", "accept-version:1.2", "host:localhost")
        assert self.receive().startswith("CONNECTED\n")

    def send(self, command: str, *headers: str, body: str = "") -> None:
        self.connection.sendall("\n".join([command, *headers, "", body]).encode() + b"\0")

    def receive(self) -> str:
        frame = b""
        while not frame.strip(b"\n").endswith(b"\0"):
            data = self.connection.recv(4096)
            if not data:
                raise ConnectionResetError(frame)
            frame += data
        return frame.strip(b"\n\0").decode()

    def publish(self, queue: str, body: str) -> None:
        self.send(
            "SEND", f"destination:/queue/{queue}", "persistent:true", f"receipt:{body}", body=body
        )
        assert re.search(f"^receipt-id:{body}$", self.receive(), re.MULTILINE)

    def take(self, queue: str, count: int) -> list[str]:
        self.send(
            "SUBSCRIBE",
            "id:1",
            "ack:client-individual",
            f"destination:/queue/{queue}",
            "activemq.prefetchSize:1",
        )
        bodies = []
        for _ in range(count):
            head, _, body = self.receive().partition("\n\n")
            bodies.append(body)
            found = re.search("^ack:(.*)$", head, re.MULTILINE)
            assert found
            self.send("ACK", f"id:{found[1]}")
        return bodies


@contextlib.contextmanager
def plain(broker: Broker) -> Iterator[Stomp]:
    with socket.create_connection(("127.0.0.1", broker.plain_port)) as connection:
        yield Stomp(connection)


@contextlib.contextmanager
def secure(testbed: Testbed, client: Credential | None) -> Iterator[Stomp]:
    context = ssl.create_default_context(capath=str(testbed.ca_directory))
    if client:
        context.load_cert_chain(client.certificate, client.key)
    address = ("127.0.0.1", testbed.broker.tls_port)
    with (
        socket.create_connection(address) as raw,
        context.wrap_socket(raw, server_hostname=testbed.broker.host) as connection,
    ):
        yield Stomp(connection)


@pytest.mark.broker
def test_broker_lets_in_clients_of_the_grid_only(instance: Testbed, broker: Broker) -> None:
    with secure(instance, instance.host_credential("sender")):
        pass
    with pytest.raises(OSError, match=r"(?i)certificate"), secure(instance, None):
        pass


@pytest.mark.broker
def test_persistent_messages_and_their_copies_survive_a_kill(
    instance: Testbed, broker: Broker
) -> None:
    broker.forget()
    sent = [f"message-{number}" for number in range(5)]
    with secure(instance, instance.host_credential("sender")) as sender:
        for body in sent:
            sender.publish("accounting", body)
        broker.kill()
    assert not broker.is_running()
    broker.start()
    for queue in ("accounting", "accounting.copy"):
        with plain(broker) as receiver:
            assert receiver.take(queue, len(sent)) == sent


@pytest.mark.broker
def test_forgetting_empties_the_queues(broker: Broker) -> None:
    with plain(broker) as sender:
        sender.publish("accounting", "old")
    broker.forget()
    with plain(broker) as client:
        client.publish("accounting", "new")
        assert client.take("accounting", 1) == ["new"]

"""The OpenStack services: how each gets its schema, is started, and shows that it answers."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from appliance.core.run.errors import LocalFailure, Unavailable
from tests.testbed import secrets
from tests.testbed.configuration import REGION, Configuration
from tests.testbed.layout import HOST, PLUGINS, Layout, environment
from tests.testbed.processes import Process, Records, require_free
from tests.testbed.trust import Trust

_MODULES = {
    "keystone": "keystone.wsgi.api",
    "glance": "glance.wsgi.api",
    "placement": "placement.wsgi.api",
    "nova": "testbed_nova",
    "neutron": "neutron.wsgi.api",
    "cinder": "testbed_cinder",
}
_THREADS = {"placement": 1}
"""Placement reads in a second transaction when requests meet, which SQLite cannot serve."""
_MANAGEMENT = {
    "keystone": "keystone.cmd.manage",
    "glance": "glance.cmd.manage",
    "placement": "placement.cmd.manage",
    "nova": "nova.cmd.manage",
    "cinder": "cinder.cmd.manage",
}
_FILES = {"glance": ("glance-api.conf",), "neutron": ("neutron.conf", "ml2_conf.ini")}


@dataclass(frozen=True, slots=True)
class Services:
    """The six services of one instance, by name."""

    layout: Layout
    trust: Trust

    def find(self, service: str) -> Process | None:
        """Return the living process of a service."""
        return Records(self.layout.run).find(service)

    def runs(self, service: str) -> bool:
        """Tell whether a service is there and answers."""
        return self.find(service) is not None and self.answers(service)

    def configure(self, service: str) -> None:
        """Write a service's configuration."""
        Configuration(self.layout, self.trust.cloud.certificate).write(service)

    def has_schema(self, service: str) -> bool:
        """Tell whether a service's tables have been created."""
        return self._schema_mark(service).exists()

    def create_schema(self, service: str) -> None:
        """Create a service's tables, from nothing."""
        self._drop_databases(service)
        if service == "neutron":
            arguments = ["neutron", f"sqlite:///{self.layout.database('neutron')}"]
        else:
            arguments = [_MANAGEMENT[service], json.dumps(self._management_commands(service))]
        self._run(
            [*self._python("testbed_schema.py"), *arguments],
            log=self.layout.log / f"{service}.schema.log",
        )
        mark = self._schema_mark(service)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def start(self, service: str) -> None:
        """Start a service, and return when it answers.

        :raises Unavailable: it does not come up
        """
        records = Records(self.layout.run)
        records.stop([service])  # one that lives and does not answer
        require_free(self.layout.port(service), service)
        credential = self.trust.endpoints()
        log = self.layout.log / f"{service}.server.log"
        options = {
            "module": _MODULES[service],
            "bind": f"{HOST}:{self.layout.port(service)}",
            "threads": _THREADS.get(service, 8),
            "certificate": str(credential.certificate),
            "key": str(credential.key),
            "log": str(log),
            "access_log": str(self.layout.access_log(service)),
            "arguments": self._configuration_arguments(service) if service != "keystone" else [],
        }
        records.start(
            service,
            command=[*self._python("testbed_serve.py"), json.dumps(options)],
            output=log,
            variables=self._variables(),
        )
        remedy = f"see {log} and {service}.log beside it"
        records.await_ready(service, ready=lambda: self.answers(service), remedy=remedy)

    def answers(self, service: str) -> bool:
        """Tell whether a service answers a request over TLS."""
        context = ssl.create_default_context(cafile=str(self.trust.cloud.certificate))
        connection = http.client.HTTPSConnection(
            HOST, self.layout.port(service), timeout=30, context=context
        )
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < http.client.INTERNAL_SERVER_ERROR
        except OSError:
            return False
        finally:
            connection.close()

    def _schema_mark(self, service: str) -> Path:
        return self.layout.done / f"schema-{service}"

    def _management_commands(self, service: str) -> list[list[str]]:
        files = self._configuration_arguments(service)
        match service:
            case "keystone":
                owner = ("--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid()))
                url = self.layout.url("keystone")
                catalog = [
                    f"--bootstrap-{kind}-url={url}" for kind in ("admin", "internal", "public")
                ]
                return [
                    [*files, "db_sync"],
                    [*files, "fernet_setup", *owner],
                    [*files, "credential_setup", *owner],
                    [*files, "bootstrap", *catalog, "--bootstrap-region-id", REGION],
                ]
            case "glance":
                return [[*files, "db_sync"]]
            case "nova":
                cell0 = f"sqlite:///{self.layout.database('nova_cell0')}"
                return [
                    [*files, "api_db", "sync"],
                    [*files, "cell_v2", "map_cell0", "--database_connection", cell0],
                    [*files, "cell_v2", "create_cell", "--name", "cell1"],
                    [*files, "db", "sync"],
                ]
            case _:
                return [[*files, "db", "sync"]]

    def _configuration_arguments(self, service: str) -> list[str]:
        directory = self.layout.configuration(service)
        files = _FILES.get(service, (f"{service}.conf",))
        return [argument for name in files for argument in ("--config-file", str(directory / name))]

    def _drop_databases(self, service: str) -> None:
        """Remove what an interrupted run left half made."""
        for name in (service, "nova_api", "nova_cell0") if service == "nova" else (service,):
            for path in self.layout.database(name).parent.glob(f"{name}.sqlite*"):
                path.unlink()

    def _variables(self) -> dict[str, str]:
        directories = {
            f"OS_{service.upper()}_CONFIG_DIR": str(self.layout.configuration(service))
            for service in _MODULES
        }
        return directories | {
            "OS_NEUTRON_CONFIG_FILES": ";".join(_FILES["neutron"]),
            "OS_CINDER_DISABLE_EVENTLET_PATCHING": "1",
            "OS_BOOTSTRAP_PASSWORD": secrets.password(self.layout.secrets, "admin"),
            "PYTHONPATH": str(PLUGINS),
            "PYTHONWARNINGS": "ignore",
            "PATH": f"{environment() / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
        }

    def _python(self, program: str) -> list[str]:
        python = environment() / "bin/python"
        if not python.exists():
            raise LocalFailure(
                environment(),
                "no environment with the services",
                "run scripts/test once, it makes one",
            )
        return [str(python), str(PLUGINS / program)]

    def _run(self, command: list[str], *, log: Path) -> None:
        with log.open("ab") as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, env=self._variables(), check=False
            )
        if done.returncode:
            raise Unavailable(
                Path(command[1]).name, f"{command[2]} ended with {done.returncode}", f"see {log}"
            )

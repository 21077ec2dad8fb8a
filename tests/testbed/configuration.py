"""The configuration files of the OpenStack services.

Options that are not obvious say why. Everything else is what an installation guide would set.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import secrets
from tests.testbed.layout import HOST, Layout, environment

Sections = Mapping[str, Mapping[str, object]]

REGION = "RegionOne"
COMPUTE_HOST = "compute1"
_TRANSPORT = "fake://"
"""oslo.messaging inside of one process."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Writes the files of one instance; ``ca_file`` is what the services believe each other by."""

    layout: Layout
    ca_file: Path

    def write(self, service: str) -> None:
        """Write a service's files and make its directories."""
        files: dict[str, Sections] = getattr(self, f"_{service}")()
        directory = self.layout.configuration(service)
        for path in (
            directory,
            self.layout.data(service),
            self.layout.log,
            self.layout.database(service).parent,
        ):
            path.mkdir(parents=True, exist_ok=True)
        for name, sections in files.items():
            secrets.write_private(directory / name, _ini(sections))

    def _keystone(self) -> dict[str, Sections]:
        keys = self.layout.configuration("keystone")
        return {
            "keystone.conf": {
                "DEFAULT": self._default("keystone")
                | {"public_endpoint": self.layout.url("keystone").removesuffix("/v3")},
                "database": self._database("keystone"),
                "token": {"provider": "fernet", "expiration": 14400},
                "fernet_tokens": {"key_repository": keys / "fernet-keys"},
                "fernet_receipts": {"key_repository": keys / "fernet-receipts"},
                "credential": {"key_repository": keys / "credential-keys"},
                "cache": {"enabled": True, "backend": "dogpile.cache.memory"},
                # bcrypt at its lowest cost: the passwords are random and live for a test
                "identity": {"password_hash_rounds": 4},
            }
        }

    def _glance(self) -> dict[str, Sections]:
        data = self.layout.data("glance")
        for name in ("images", "staging", "tasks"):
            (data / name).mkdir(parents=True, exist_ok=True)
        return {
            "glance-api.conf": {
                "DEFAULT": self._default("glance")
                | {
                    "enabled_backends": "fs:file",
                    "use_keystone_limits": False,
                    "worker_self_reference_url": self.layout.url("glance"),
                },
                "glance_store": {"default_backend": "fs"},
                "fs": {"filesystem_store_datadir": data / "images"},
                "os_glance_staging_store": {"filesystem_store_datadir": data / "staging"},
                "os_glance_tasks_store": {"filesystem_store_datadir": data / "tasks"},
                "database": self._database("glance"),
                "keystone_authtoken": self._token_check("glance"),
                "paste_deploy": {
                    "flavor": "keystone",
                    "config_file": environment() / "etc/glance/glance-api-paste.ini",
                },
                "oslo_concurrency": self._locks("glance"),
            }
        }

    def _placement(self) -> dict[str, Sections]:
        return {
            "placement.conf": {
                "DEFAULT": self._default("placement"),
                "api": {"auth_strategy": "keystone"},
                "placement_database": self._database("placement"),
                "keystone_authtoken": self._token_check("placement"),
            }
        }

    def _nova(self) -> dict[str, Sections]:
        # Nova reads its paste file from its configuration directory, whatever
        # [wsgi]api_paste_config says.
        directory = self.layout.configuration("nova")
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(environment() / "etc/nova/api-paste.ini", directory)
        (self.layout.data("nova") / "instances").mkdir(parents=True, exist_ok=True)
        account = self._account("nova")
        return {
            "nova.conf": {
                "DEFAULT": self._default("nova")
                | {
                    "state_path": self.layout.data("nova"),
                    "my_ip": HOST,
                    "host": COMPUTE_HOST,
                    "transport_url": _TRANSPORT,
                    "concurrency_backend": "threading",
                    "compute_driver": "fake.FakeDriverWithoutFakeNodes",
                    "allow_resize_to_same_host": True,
                    # The fake driver forgets its servers at a restart; nobody shall conclude that
                    # they were stopped.
                    "sync_power_state_interval": -1,
                    "resume_guests_state_on_host_boot": False,
                    "vif_plugging_is_fatal": False,
                    "vif_plugging_timeout": 0,
                },
                "api": {"auth_strategy": "keystone", "max_limit": 1000},
                "api_database": self._database("nova_api"),
                "database": self._database("nova"),
                "conductor": {"workers": 1},
                "scheduler": {"workers": 1},
                "quota": dict.fromkeys(
                    ("instances", "cores", "ram", "server_groups", "key_pairs"), -1
                ),
                "keystone_authtoken": self._token_check("nova"),
                "service_user": account | {"send_service_user_token": True},
                "keystone": account,
                "placement": self._account("placement"),
                "glance": self._account("glance"),
                "neutron": self._account("neutron") | {"default_floating_pool": "public"},
                "cinder": self._account("cinder") | {"os_region_name": REGION},
                "vnc": {"enabled": False},
                "spice": {"enabled": False},
                "filter_scheduler": {"track_instance_changes": False},
                "oslo_concurrency": self._locks("nova"),
                "cache": {"enabled": True, "backend": "dogpile.cache.memory"},
            }
        }

    def _neutron(self) -> dict[str, Sections]:
        return {
            "neutron.conf": {
                "DEFAULT": self._default("neutron")
                | {
                    "state_path": self.layout.data("neutron"),
                    "core_plugin": "ml2",
                    "service_plugins": "router",
                    "transport_url": _TRANSPORT,
                    "bind_host": HOST,
                    "api_paste_config": environment() / "etc/neutron/api-paste.ini",
                    "auth_strategy": "keystone",
                    "rpc_workers": 1,
                    "rpc_state_report_workers": 0,
                    "dhcp_agent_notification": False,
                    # Otherwise the addresses that Nova shows never include a floating IP.
                    "notify_nova_on_port_status_changes": True,
                    "notify_nova_on_port_data_changes": True,
                },
                "database": self._database("neutron"),
                "keystone_authtoken": self._token_check("neutron"),
                "nova": self._account("nova"),
                "placement": self._account("placement"),
                "oslo_concurrency": self._locks("neutron"),
            },
            "ml2_conf.ini": {
                "ml2": {
                    "type_drivers": "flat,vxlan,local",
                    "tenant_network_types": "vxlan",
                    "mechanism_drivers": "testbed",
                    "extension_drivers": "port_security",
                },
                "ml2_type_flat": {"flat_networks": "physnet1"},
                "ml2_type_vxlan": {"vni_ranges": "1:20000"},
                "securitygroup": {"enable_security_group": True},
            },
        }

    def _cinder(self) -> dict[str, Sections]:
        defaults = environment() / "etc/cinder"
        return {
            "cinder.conf": {
                "DEFAULT": self._default("cinder")
                | {
                    "state_path": self.layout.data("cinder"),
                    "transport_url": _TRANSPORT,
                    "my_ip": HOST,
                    "auth_strategy": "keystone",
                    "api_paste_config": defaults / "api-paste.ini",
                    "resource_query_filters_file": defaults / "resource_filters.json",
                    "enabled_backends": "paper",
                    "default_volume_type": "__DEFAULT__",
                    "glance_ca_certificates_file": self.ca_file,
                    # Its default is to wait for a minute for the volume service, which starts after
                    # it in this process.
                    "scheduler_driver_init_wait_time": 1,
                },
                "paper": {
                    "volume_driver": "testbed_volume.PaperVolumes",
                    "volume_backend_name": "paper",
                },
                "database": self._database("cinder"),
                "keystone_authtoken": self._token_check("cinder"),
                "service_user": self._account("cinder") | {"send_service_user_token": True},
                "oslo_concurrency": self._locks("cinder"),
            }
        }

    def _default(self, service: str) -> dict[str, object]:
        return {"log_file": self.layout.log / f"{service}.log"}

    def _database(self, name: str) -> dict[str, object]:
        # Connections beyond the pool's size would be opened anew for each request.
        return {"connection": f"sqlite:///{self.layout.database(name)}", "max_pool_size": 20}

    def _locks(self, service: str) -> dict[str, object]:
        return {"lock_path": self.layout.data(service) / "locks"}

    def _account(self, service: str) -> dict[str, object]:
        return {
            "auth_type": "v3password",
            "auth_url": self.layout.url("keystone"),
            "cafile": self.ca_file,
            "username": service,
            "password": secrets.password(self.layout.secrets, service),
            "user_domain_name": "Default",
            "project_name": "service",
            "project_domain_name": "Default",
            "region_name": REGION,
        }

    def _token_check(self, service: str) -> dict[str, object]:
        return self._account(service) | {
            "www_authenticate_uri": self.layout.url("keystone"),
            "service_token_roles": "service",
            "service_token_roles_required": True,
        }


def _ini(sections: Sections) -> str:
    blocks = (
        "\n".join([f"[{section}]", *(f"{option} = {value}" for option, value in options.items())])
        for section, options in sections.items()
    )
    return "\n\n".join(blocks) + "\n"

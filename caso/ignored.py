"""Options and flags of cASO, and of the libraries beneath it, that are accepted and ignored."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.config import oslo
from appliance.core.config.settings import Settings

_MESSENGERS = ("ssm", "ssmv4", "noop", "logstash", "greendigit_cim", "prometheus")

IGNORED: Mapping[str, tuple[str, ...]] = {
    "DEFAULT": (
        *oslo.LOG_OPTIONS,
        *["config_source", "shell_completion", "migrate_projects"],
    ),
    # All options of all plugins of keystoneauth: a plugin reads its own, and the others are kept
    # in the files for a change of plugin.
    "keystone_auth": (
        *[
            "auth_type",
            "auth_plugin",
            "auth_section",
            "auth_url",
            "collect_timing",
            "split_loggers",
        ],
        *[
            "system_scope",
            "tls_ciphers",
            "tls_min_version",
            "domain_id",
            "domain_name",
            "project_id",
        ],
        *["project_name", "tenant_id", "tenant_name", "project_domain_id", "project_domain_name"],
        *[
            "trust_id",
            "default_domain_id",
            "default_domain_name",
            "password",
            "user_id",
            "username",
        ],
        *["user_name", "user_domain_id", "user_domain_name", "application_credential_id"],
        *["application_credential_name", "application_credential_secret"],
    ),
    "accelerator": ("type_key", "vendor_key", "model_key", "number_key"),
    "ssm": ("output_path", "max_size"),
    "logstash": ("host", "port"),
    "prometheus": (
        *["prometheus_endpoint", "prometheus_metric_name", "vm_uuid_label_name", "labels"],
        *["prometheus_step_seconds", "prometheus_verify_ssl", "cpu_normalization_factor"],
    ),
    "greendigit_cim": ("base_url", "email", "password", "verify_ssl"),
    "oslo_concurrency": ("lock_path", "disable_process_locking"),
    **{f"messenger_{name}": ("record_types",) for name in _MESSENGERS},
}
"""Options by section. Those of them that this version does read are read elsewhere all the same."""

IGNORED_FLAGS = ("log-config-append", "log-config", "log-date-format", "syslog-log-facility")
"""Flags with a value that cASO has from oslo.log."""

IGNORED_SWITCHES = ("use-syslog", "use-journal", "watch-log-file", "shell-completion")
"""Flags without a value; each has a twin with ``no`` before it."""


def accept(settings: Settings) -> None:
    """Accept these options."""
    for section, options in IGNORED.items():
        settings.accept(section, options)

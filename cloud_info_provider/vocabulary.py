"""The names that the configuration may use: options of accounts and of shares."""

from __future__ import annotations

# Options of the account that have a flag ``--os-…``; each authentication plugin takes its own.
ACCOUNT_FLAGS = (
    "auth_type",
    "auth_url",
    "username",
    "user_id",
    "password",
    "user_domain_id",
    "user_domain_name",
    "project_id",
    "project_name",
    "project_domain_id",
    "project_domain_name",
    "tenant_id",
    "tenant_name",
    "default_domain_id",
    "default_domain_name",
    "domain_id",
    "domain_name",
    "trust_id",
    "token",
    "application_credential_id",
    "application_credential_name",
    "application_credential_secret",
    "identity_provider",
    "protocol",
    "access_token",
    "client_id",
    "client_secret",
    "discovery_endpoint",
    "region",
    "region_name",
    "interface",
    "cacert",
    "cert",
    "key",
)

# Options of a share that are published unchanged.
SHARE_TEXTS = (
    "sla",
    "network_info",
    "default_network_type",
    "public_network_name",
    "private_network_name",
    "private_network_cidr",
    "instance_max_cpu",
    "instance_max_ram",
    "instance_max_accelerators",
)

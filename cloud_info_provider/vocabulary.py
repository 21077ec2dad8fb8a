"""Words of the configuration that only need to be known: options without effect, and GLUE's vocabularies."""

from __future__ import annotations

ACCOUNT_FLAGS = (
    *(
        "auth_type",
        "auth_url",
        "username",
        "user_id",
        "password",
        "user_domain_id",
        "user_domain_name",
    ),
    *(
        "project_id",
        "project_name",
        "project_domain_id",
        "project_domain_name",
        "tenant_id",
        "tenant_name",
    ),
    *("default_domain_id", "default_domain_name", "domain_id", "domain_name", "trust_id", "token"),
    *("application_credential_id", "application_credential_name", "application_credential_secret"),
    *(
        "identity_provider",
        "protocol",
        "access_token",
        "client_id",
        "client_secret",
        "discovery_endpoint",
    ),
    *("region", "region_name", "interface", "cacert", "cert", "key"),
)
"""Options of the account that have a flag ``--os-…``; the plugin takes those that are its own."""

SHARE_TEXTS = (
    *("sla", "network_info", "default_network_type", "public_network_name", "private_network_name"),
    *("private_network_cidr", "instance_max_cpu", "instance_max_ram", "instance_max_accelerators"),
)
"""Options of a share that are published as they are."""

QUALITY_LEVELS = ("development", "pre-production", "production", "testing")

CAPABILITIES = frozenset(
    (
        *(
            "data.access.flatfiles",
            "data.access.relational",
            "data.access.sessiondir",
            "data.access.stageindir",
        ),
        *(
            "data.access.stageoutdir",
            "data.access.xml",
            "data.management.replica",
            "data.management.storage",
        ),
        *(
            "data.management.transfer",
            "data.naming.resolver",
            "data.naming.scheme",
            "data.transfer",
        ),
        *(
            "data.transfer.cepull.ftp",
            "data.transfer.cepush.srm",
            "executionmanagement.candidatesetgenerator",
        ),
        *("executionmanagement.dynamicvmdeploy", "executionmanagement.executionandplanning"),
        *("executionmanagement.jobdescription", "executionmanagement.jobexecution"),
        *(
            "executionmanagement.jobmanager",
            "executionmanagement.reservation",
            "information.discovery",
        ),
        *(
            "information.logging",
            "information.model",
            "information.monitoring",
            "information.provenance",
        ),
        *("information.publication", "security.accounting", "security.attributeauthority"),
        *(
            "security.authentication",
            "security.authorization",
            "security.credentialstorage",
            "security.delegation",
        ),
        *("security.identitymapping"),
    )
)
"""Capability_t of GLUE 2.0 (GFD.147, appendix B.1)."""

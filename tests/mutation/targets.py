"""Which modules are mutated, and which tests are to notice.

Tests that need a service of the test bed are left out: a mutant must be judged in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SHORT = ("-m", "not matrix")
"""Options of pytest that leave long matrices out."""


@dataclass(frozen=True, slots=True)
class Target:
    """Modules of one purpose (patterns below the checkout) and the paths of their tests.

    Tests that end quickly come first.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]

    def sources(self) -> list[Path]:
        """Return the modules, relative to the checkout, sorted."""
        found = {path for pattern in self.modules for path in TOP.glob(pattern)}
        return sorted(path.relative_to(TOP) for path in found if path.name != "__init__.py")


TARGETS = {
    "trust": Target(
        ("appliance/core/trust/*.py",),
        (
            "tests/unit/test_ca_directory.py",
            "tests/unit/test_certificates.py",
            "tests/unit/test_distinguished_name.py",
            "tests/unit/test_revocation.py",
            "tests/unit/test_signing_policy.py",
            "tests/unit/test_smime.py",
            "tests/unit/test_tls_peers.py",
            "tests/property/test_smime_properties.py",
            "tests/interop/test_smime_openssl.py",
            "tests/interop/test_pkits.py",
            "tests/interop/test_refusals.py",
            "tests/interop/test_signer_usage.py",
        ),
    ),
    "spool": Target(
        ("appliance/core/spool.py",),
        (
            "tests/unit/test_spool.py",
            "tests/property/test_spool_properties.py",
            "tests/interop/test_ssm_claims.py",
        ),
    ),
    "journal": Target(
        ("appliance/core/usage_messages.py", "ssm/sending/sent_*.py", "ssm/destinations.py"),
        (
            "tests/unit/test_usage_messages.py",
            "tests/unit/test_sent_journal_keys.py",
            "tests/property/test_usage_messages_properties.py",
            "tests/unit/test_ssm_destinations.py",
            "tests/unit/test_ssm_sent_journal.py",
        ),
    ),
    "ledger": Target(
        ("caso/ledger/*.py", "caso/lanes.py", "caso/windows.py"),
        (
            "tests/unit/test_ledger.py",
            "tests/unit/test_ledger_windows.py",
            "tests/unit/test_ledger_sightings.py",
            "tests/unit/test_ledger_retention.py",
            "tests/unit/test_ledger_file.py",
            "tests/unit/test_resized_servers.py",
            "tests/unit/test_vanished.py",
            "tests/unit/test_volume_source.py",
            "tests/unit/test_lanes.py",
            "tests/unit/test_extraction_windows.py",
            "tests/property/test_ledger_properties.py",
        ),
    ),
    "records": Target(
        ("caso/kinds/months.py", "caso/kinds/cloud.py"),
        (
            "tests/unit/test_months.py",
            "tests/unit/test_records.py",
            "tests/unit/test_nova_records.py",
            "tests/property/test_months_properties.py",
        ),
    ),
    "plans": Target(
        ("bdii/plan.py", "bdii/sources/last_good.py", "cloudkeeper/frontend/plan.py"),
        (
            "tests/property/test_bdii_plan_properties.py",
            "tests/unit/test_bdii_plan.py",
            "tests/unit/test_bdii_last_good.py",
            "tests/unit/test_bdii_sources.py",
            "tests/unit/test_image_plan.py",
        ),
    ),
    "registered": Target(
        ("appliance/core/gocdb.py",),
        ("tests/unit/test_check_registered.py", "tests/unit/test_check_gocdb.py"),
    ),
    "information": Target(
        (
            "cloud_info_provider/conversion.py",
            "cloud_info_provider/formats/glue21json.py",
            "cloud_info_provider/gocdb.py",
        ),
        (
            "tests/wire/test_glue21json_golden.py",
            "tests/unit/test_glue21json.py",
            "tests/unit/test_conversion.py",
            "tests/unit/test_reading.py",
            "tests/unit/test_endpoint_lookup.py",
        ),
    ),
    "formats": Target(
        ("cloudkeeper/formats/*.py",),
        (
            "tests/unit/test_image_boundaries.py",
            "tests/unit/test_image_marks.py",
            "tests/unit/test_image_formats.py",
            "tests/unit/test_image_conversion.py",
            "tests/unit/test_image_stream.py",
            "tests/interop/test_image_matrix.py",
        ),
    ),
}

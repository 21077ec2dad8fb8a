"""A site whose only provider this is, with a storage: under slapd's schema and the EGI profile."""

import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.core import ldif
from appliance.core.glue import profile
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider import reading
from cloud_info_provider.formats import selection
from tests.interop import egi_profile
from tests.unit.test_provider_options import FULL, STORAGE, environment
from tests.unit.test_provider_settings import load

__all__ = ["environment"]

pytestmark = pytest.mark.programs("slapd")

# glue-validator's vocabularies of 2013 have no clouds and no storage of clouds (docs/adr/0053).
VOCABULARY = {
    ("W037", "GLUE2ServiceType", "IaaS"),
    ("W037", "GLUE2ServiceType", "STaaS"),
    ("W037", "GLUE2EndpointInterfaceName", "OpenStack"),
    ("W037", "GLUE2EndpointInterfaceName", "CDMI"),
}
TRUE = {
    # everybody may read a BDII
    ("I095", "GLUE2PolicyUserDomainForeignKey", "missing"),
}


def printed(root: Path, text: str) -> str:
    flags = ("--middleware", "static", "--full-bdii-ldif")
    configuration = load(root, *flags, rc=None, text=text)
    cloud = reading.read(configuration, Layout(root), RunRecord("x", is_kept=False))
    return selection.renderer("glue")(cloud).text


def test_slapd_takes_the_tree_and_the_profile_has_no_finding_but_known_ones(
    tmp_path: Path,
) -> None:
    text = (FULL + STORAGE).replace("total_cores: 8", "total_cores: 96")
    text = text.replace("total_ram: 16", "total_ram: 512").replace("Cirros", "Ubuntu")
    dated = re.sub(
        r"^objectClass: GLUE2Entity$",
        "objectClass: GLUE2Entity\nGLUE2EntityCreationTime: 2026-11-22T07:00:00Z",
        printed(tmp_path / "site", text),
        flags=re.MULTILINE,
    )
    stored = egi_profile.load(dated, tmp_path / "slapd")
    kinds = [kind for attributes in stored.values() for kind in attributes["objectClass"]]
    assert (kinds.count("GLUE2StorageService"), kinds.count("GLUE2AdminDomain")) == (1, 1)
    found = egi_profile.findings(stored)
    assert {(each.code, each.attribute, each.value) for each in found} == VOCABULARY | TRUE
    # and ours, which also knows the rules of storage
    tree = [dataclasses.replace(each, line=0) for each in ldif.parse(dated.encode())]
    ours = profile.findings(tree, now=datetime(2026, 11, 30, tzinfo=UTC))
    assert {each.code for each in ours} == {"W037", "I095"}


def test_odd_names_of_a_storage_are_escaped(tmp_path: Path) -> None:
    name = 'Ünï, "x"; <1>+#  two'
    text = f"{FULL}{STORAGE}".replace("storage:\n", f"storage:\n    service_name: '{name}'\n", 1)
    text = text.replace("api_version: 1.0.1", "api_version: '1, \"a\"  b'")
    stored = egi_profile.load(printed(tmp_path / "site", text), tmp_path / "slapd")
    (service,) = (one for one in stored.values() if "GLUE2StorageService" in one["objectClass"])
    assert service["GLUE2ServiceID"] == [f"{' '.join(name.split())}_cloud.storage"]
    endpoints = [one for one in stored.values() if "GLUE2StorageEndpoint" in one["objectClass"]]
    assert all('_CDMI_1, "a" b_' in one["GLUE2EndpointID"][0] for one in endpoints)
    assert len(endpoints) == 2

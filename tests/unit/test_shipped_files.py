"""The shipped files keep the line numbers that the appliance's manual names."""

import re
from pathlib import Path

import pytest

ETC = Path(__file__).parents[2] / "etc"

CASO = {
    1: r"\[DEFAULT\]", 3: "messengers = ", 12: "site_name =", 16: r"#service_name = \$site_name", 20: "projects =",
    22: r"\[keystone_auth\]", 29: "auth_type = v3password", 32: "auth_url =", 35: "#project_name",
    38: "#project_domain_name", 41: "#username", 44: "#user_domain_name", 47: "#password", 50: "#user_domain_id",
    57: "#auth_section", 61: "#cafile", 64: "#certfile", 67: "#keyfile", 70: "#insecure = false", 73: "#timeout",
    76: "#domain_id", 79: "#domain_name", 83: "#project_id", 86: "#project_domain_id", 89: "#trust_id",
    94: "#default_domain_id", 99: "#default_domain_name", 102: "#user_id",
}  # fmt: skip


@pytest.mark.parametrize(("number", "pattern"), CASO.items())
def test_the_manual_s_lines_of_caso_conf(number: int, pattern: str) -> None:
    line = (ETC / "caso" / "caso.conf").read_text().splitlines()[number - 1]
    assert re.match(pattern, line), line

"""What an hourly run of accounting asks for, counted: figures of decisions 33 and 63."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.bench.accounting_simulated import OURS, Service, Shape, Site, serving
from tests.bench.usage import run


class HourlySite:
    """A site after its first run."""

    def __init__(self, shape: Shape, service: Service) -> None:
        self.service = service
        self.shape = shape
        self.site = Site(OURS, service, shape)
        self.first = run(self.site.argv)
        self.site.records()

    def hour(self) -> tuple[int, set[tuple[str, str]]]:
        """Run for an hour; return the number of requests, and the servers with their projects."""
        self.site.an_hour_ago()
        self.service.counted()
        run(self.site.argv)
        found = Counter((one["VMUUID"], one["LocalGroupId"]) for one in self.site.records())
        # In the first hour of a month, a server has a record of each of two months.
        assert len(set(found.values())) == 1
        return self.service.counted().total(), set(found)

    def living(self) -> set[tuple[str, str]]:
        """Return the servers that the cloud has, with their projects."""
        cloud = self.shape.cloud()
        return {
            (one["id"], name)
            for name in cloud.projects
            for one in cloud.all_servers(name)
            if one["status"] != "DELETED"
        }


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[HourlySite]:
    shape: Shape = request.param
    with serving(shape) as service:
        made = HourlySite(shape, service)
        yield made
        shutil.rmtree(made.site.root)


_MOST_MEMORY = 70.0
"""MiB of a first run, which reads details and names."""
_MANY = Shape(100, 50, extractors="nova,cinder,neutron")


@pytest.mark.parametrize("site", [_MANY], indirect=True)
def test_many_projects_of_a_reader(site: HourlySite) -> None:
    """A token, usage, addresses, volumes of each project; four to Keystone; one refusal a day."""
    assert site.hour() == (205, site.living())
    assert site.hour() == (204, site.living())


@pytest.mark.parametrize("site", [replace(_MANY, is_administrator=True)], indirect=True)
def test_many_projects_of_an_administrator(site: HourlySite) -> None:
    """A 25th of the 3 981 requests of cASO 5.2.2 is 159."""
    assert site.hour() == (155, site.living())


@pytest.mark.parametrize("site", [Shape(10, 2, extractors="nova,cinder,neutron")], indirect=True)
def test_a_run_loads_no_client_library_and_keeps_what_it_has_loaded(site: HourlySite) -> None:
    """Decision 33: novaclient alone costs more CPU than the rest of a run of a small site."""
    text = (
        "import gc, sys; from caso.cmds.extract import main; status = main();"
        "clients = {'novaclient', 'glanceclient', 'keystoneclient', 'oslo_utils'};"
        "late = gc.get_freeze_count() > 30_000;"
        "print(status, sorted(clients & sys.modules.keys()), late)"
    )
    site.site.an_hour_ago()
    shown = subprocess.run(
        [sys.executable, "-c", text, *site.site.argv[1:]], capture_output=True, check=True
    )
    assert shown.stdout.decode().splitlines()[-1] == "0 [] True"


@pytest.mark.parametrize("site", [Shape(10, 2)], indirect=True)
def test_a_run_loads_the_kinds_and_the_messenger_of_its_site(site: HourlySite) -> None:
    """Decision 82: start-up is a quarter of an hourly run."""
    text = (
        "import sys; from caso.cmds.extract import main; status = main();"
        "kinds = {'storage', 'ip', 'accelerator'}; messengers = {'noop', 'logstash', 'waiting'};"
        "late = {f'caso.kinds.{one}' for one in kinds}"
        " | {f'caso.messengers.{one}' for one in messengers} | {'caso.sources.accelerators'};"
        "print(status, sorted(late & sys.modules.keys()))"
    )
    site.site.an_hour_ago()
    shown = subprocess.run(
        [sys.executable, "-c", text, *site.site.argv[1:]], capture_output=True, check=True
    )
    assert shown.stdout.decode().splitlines()[-1] == "0 []"


@pytest.mark.parametrize("site", [Shape(8000, 4)], indirect=True)
def test_large_projects(site: HourlySite) -> None:
    """A token, addresses and two pages of usage for each project, and no details.

    Memory holds a page of each project, so it is the same for 100 000 servers.
    """
    assert site.first.memory <= _MOST_MEMORY
    assert site.hour() == (4 + 4 * 4, site.living())

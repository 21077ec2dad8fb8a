"""The entries that a site takes from the BDIIs below it."""

import pytest

from appliance.core.ldif import Entry
from bdii import tree
from bdii.service import collect
from bdii.site import pull
from bdii.site.settings import Site
from bdii.sources.model import SourceAnswer

SITE = "TEST-SITE"
DOMAIN = "GLUE2DomainID=TEST-SITE,o=glue"


@pytest.mark.parametrize(
    ("dn", "moved"),
    [
        ("GLUE2GroupID=cloud,o=glue", f"GLUE2GroupID=cloud,{DOMAIN}"),
        ("GLUE2GroupID=cloud , O = Glue ", f"GLUE2GroupID=cloud ,{DOMAIN}"),
        (r"GLUE2DomainID=OTHER,o=gl\75e", f"glue2domainid=OTHER,{DOMAIN}"),
        (
            r"GLUE2GroupID=a\,o=glue,o=\67lue",
            rf"glue2groupid=a\,o\=glue,{DOMAIN}".replace(r"\=", "="),
        ),
        (
            "GLUE2GroupID=x,GLUE2DomainID=test-site,o=glue",
            f"GLUE2GroupID=x,GLUE2DomainID=test-site,{DOMAIN}",
        ),
        (f"GLUE2GroupID=x,{DOMAIN}", None),
        (r"GLUE2GroupID=x,GLUE2DomainID=TEST\2DSITE,o=glue", None),
        ("o=glue", None),
        ("o=grid", "o=grid"),
        ("no name", "no name"),
    ],
)
def test_every_spelling_of_the_suffix_is_moved_below_the_site_s_domain(
    dn: str, moved: str | None
) -> None:
    assert [entry.dn for entry in pull.below(SITE, [Entry(dn, {})])] == (
        [] if moved is None else [moved]
    )


def test_a_source_that_names_another_site_is_reported() -> None:
    key = "GLUE2ServiceAdminDomainForeignKey"
    services = [
        Entry(f"GLUE2ServiceID={number},{DOMAIN}", {"objectClass": ("GLUE2Service",), key: (name,)})
        for number, name in enumerate((SITE, "OTHER", "OTHER"))
    ]
    site = Site(SITE, "", "", "", "", named_in="/etc/sitebdii/site.cfg:3")
    (line,) = collect._of_other_sites(SourceAnswer("site/CLOUD", tree.of(services)[0]), site)
    assert line == (
        "/etc/sitebdii/site.cfg:3: SITE_NAME is 'TEST-SITE', but the services of site/CLOUD name "
        "the site OTHER; write the name in GOCDB here and as site.name in openstack.yaml there"
    )
    assert collect._of_other_sites(SourceAnswer("site/CLOUD", tree.of(services[:1])[0]), site) == []
    assert collect._of_other_sites(SourceAnswer("site/CLOUD", None), site) == []

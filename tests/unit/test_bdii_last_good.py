"""The last good data of a failing source, entry by entry."""

from datetime import UTC, datetime, timedelta

from appliance.core import ldif
from bdii import tree
from bdii.sources.last_good import LastGood, advance, publishable

EARLIER = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SERVICE = "GLUE2ServiceID=s,o=glue"


Made = tuple[str, dict[str, tuple[str, ...]]]


def made(*entries: Made) -> dict[tree.Dn, ldif.Entry]:
    found, problems = tree.of(ldif.Entry(dn, attributes) for dn, attributes in entries)
    assert not problems
    return found


def image(name: str, *vos: str, **more: tuple[str, ...]) -> Made:
    attributes = {"objectClass": ("GLUE2ApplicationEnvironment",), **more}
    if vos:
        attributes["GLUE2EntityOtherInfo"] = tuple(f"VO={vo}" for vo in vos)
    return f"GLUE2ApplicationEnvironmentID={name},{SERVICE}", attributes


SERVICE_ENTRY: Made = (SERVICE, {"objectClass": ("GLUE2Service",)})


def names(found: tree.Tree) -> set[str]:
    return {dn.partition(",")[0].partition("=")[2] for dn in found}


def info(found: tree.Tree, name: str) -> set[str]:
    (entry,) = [
        entry
        for dn, entry in found.items()
        if dn.startswith(f"glue2applicationenvironmentid={name},")
    ]
    return set(entry.get("GLUE2EntityOtherInfo"))


def after(old: tree.Tree, new: tree.Tree, *failed: str) -> LastGood:
    return advance(LastGood(old, EARLIER), new, failed=failed, now=NOW)


def test_a_complete_answer_replaces_everything() -> None:
    last = after(made(SERVICE_ENTRY, image("old", "a")), made(SERVICE_ENTRY, image("new", "b")))
    assert names(last.tree) == {"s", "new"}
    assert publishable(last, now=NOW, expiry=DAY) is last.tree


def test_only_what_belongs_to_the_failed_vo_stays() -> None:
    old = made(
        SERVICE_ENTRY, image("a", "a"), image("b", "b"), image("both", "a", "b"), image("none")
    )
    last = after(old, made(SERVICE_ENTRY, image("new", "a")), "b")
    assert names(last.tree) == {"s", "new", "b", "both"}
    assert info(last.tree, "both") == {"VO=b"}, "VO a answered, and did not name it"
    shown = publishable(last, now=NOW, expiry=DAY)
    assert info(shown, "b") == {"VO=b", "Stale=TRUE", "CollectedAt=2026-11-24T10:00:00Z"}
    assert info(shown, "new") == {"VO=a"}


def test_a_shared_entry_keeps_the_mark_of_the_failed_vo_and_is_not_stale() -> None:
    old = made(SERVICE_ENTRY, image("both", "a", "b"))
    last = after(old, made(SERVICE_ENTRY, image("both", "a", AppName=("newer",))), "b")
    shown = publishable(last, now=NOW, expiry=DAY)
    assert info(shown, "both") == {"VO=a", "VO=b"}
    (entry,) = [entry for entry in shown.values() if "AppName" in entry.attributes]
    assert entry.get("AppName") == ("newer",)


def test_entries_below_and_entries_named_by_those_that_stay_stay_too() -> None:
    share = f"GLUE2ShareID=share,{SERVICE}"
    old = made(
        SERVICE_ENTRY,
        (
            share,
            {
                "objectClass": ("GLUE2Share",),
                "GLUE2EntityOtherInfo": ("VO=b",),
                "GLUE2ShareResourceForeignKey": ("flavor",),
            },
        ),
        (f"GLUE2PolicyID=policy,{share}", {"objectClass": ("GLUE2MappingPolicy",)}),
        (f"GLUE2ResourceID=flavor,{SERVICE}", {"objectClass": ("GLUE2ExecutionEnvironment",)}),
        (f"GLUE2ResourceID=other,{SERVICE}", {"objectClass": ("GLUE2ExecutionEnvironment",)}),
    )
    last = after(old, made(SERVICE_ENTRY), "b")
    assert names(last.tree) == {"s", "share", "policy", "flavor"}


def test_a_policy_keeps_the_rule_of_the_failed_vo() -> None:
    def policy(*rules: str) -> Made:
        return f"GLUE2PolicyID=p,{SERVICE}", {
            "objectClass": ("GLUE2AccessPolicy",),
            "GLUE2PolicyRule": rules,
        }

    last = after(
        made(SERVICE_ENTRY, policy("VO:a", "VO:b")), made(SERVICE_ENTRY, policy("VO:a")), "b"
    )
    rules = [
        entry.get("GLUE2PolicyRule") for entry in last.tree.values() if entry.get("GLUE2PolicyRule")
    ]
    assert rules == [("VO:a", "VO:b")]


def test_the_time_of_a_vo_that_keeps_failing_is_that_of_its_last_answer() -> None:
    tree_ = made(SERVICE_ENTRY, image("b", "b"))
    first = advance(LastGood(tree_, EARLIER), made(SERVICE_ENTRY), failed={"b"}, now=NOW)
    second = advance(first, made(SERVICE_ENTRY), failed={"b"}, now=NOW + timedelta(hours=1))
    assert second.failed == {"b": EARLIER}
    assert names(publishable(second, now=NOW, expiry=timedelta(hours=2))) == {"s", "b"}
    assert names(publishable(second, now=NOW, expiry=timedelta(minutes=119))) == {"s"}


def test_an_entity_without_a_creation_time_gets_one_and_keeps_it() -> None:
    group: Made = (f"GLUE2GroupID=g,{SERVICE}", {"objectClass": ("GLUE2Group",)})
    first = advance(None, made(SERVICE_ENTRY, group), failed=(), now=EARLIER)
    second = advance(first, made(SERVICE_ENTRY, group, image("new")), failed=(), now=NOW)
    times = {
        dn.partition(",")[0]: entry.get("GLUE2EntityCreationTime")
        for dn, entry in second.tree.items()
    }
    assert times == {
        "glue2serviceid=s": ("2026-11-24T10:00:00Z",),
        "glue2groupid=g": (),
        "glue2applicationenvironmentid=new": ("2026-11-24T12:00:00Z",),
    }


def test_creation_time_changes_only_with_content() -> None:
    old = made(
        image("b", GLUE2EntityCreationTime=("1",)),
        image("c", GLUE2EntityCreationTime=("1",)),
    )
    new = made(
        image("b", GLUE2EntityCreationTime=("2",)),
        image("c", GLUE2EntityCreationTime=("2",), AppName=("x",)),
    )
    last = after(old, new)
    times = {dn[30:31]: entry.get("GLUE2EntityCreationTime") for dn, entry in last.tree.items()}
    assert times == {"b": ("1",), "c": ("2",)}


def test_marks_of_a_bdii_below_keep_their_older_time() -> None:
    attributes: dict[str, tuple[str, ...]] = {
        "objectClass": ("GLUE2Endpoint",),
        "GLUE2EndpointHealthState": ("ok",),
    }
    stale = {
        **attributes,
        "GLUE2EntityOtherInfo": ("Stale=TRUE", "CollectedAt=2026-01-01T00:00:00Z"),
    }
    last = LastGood(
        made((f"GLUE2EndpointID=e,{SERVICE}", stale), (f"GLUE2EndpointID=f,{SERVICE}", attributes)),
        EARLIER,
        is_silent=True,
    )
    shown = {
        dn.partition(",")[0][-1]: entry
        for dn, entry in publishable(last, now=NOW, expiry=DAY).items()
    }
    assert shown["e"].get("GLUE2EntityOtherInfo") == stale["GLUE2EntityOtherInfo"]
    assert shown["f"].get("GLUE2EndpointHealthState") == ("unknown",)
    assert shown["f"].get("GLUE2EndpointHealthStateInfo") == (
        "the source of this information has not answered since 2026-11-24T10:00:00Z",
    )

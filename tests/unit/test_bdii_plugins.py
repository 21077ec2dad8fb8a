"""Plugins: real programs that read the tree and print modifications, good and bad."""

import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from appliance.core import ldif
from appliance.core.run.errors import LocalFailure
from bdii import tree
from bdii.service.collect import modify
from bdii.service.plugin_memory import PluginMemory
from bdii.settings import BdiiSettings
from bdii.sources import plugins
from bdii.sources.model import LdifSource
from bdii.sources.plugins import Edit, Edited
from bdii.tree import Tree

DN = "GLUE2ServiceID=s,o=glue"
WANTED = tree.of(
    ldif.parse(
        b"dn: o=glue\nobjectClass: organization\no: glue\n\n"
        b"dn: GLUE2ServiceID=s,o=glue\nobjectClass: GLUE2Service\nGLUE2ServiceID: s\n"
        b"GLUE2ServiceType: t\nGLUE2ServiceCapability: one\nGLUE2ServiceCapability: two\n\n"
    )
)[0]


def plugin(directory: Path, script: str, name: str = "p") -> LdifSource:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    limit, seconds = 100_000, timedelta(seconds=5)
    return LdifSource(f"plugin/{name}", [program], is_program=True, timeout=seconds, limit=limit)


def edited(*found: LdifSource, before: Edited | None = None) -> Edited:
    printed = before.printed if before else {}
    return plugins.edit(WANTED, found, before=printed, scratch=None, stop=threading.Event())


def prints(directory: Path, text: str, name: str = "p") -> LdifSource:
    (directory / f"{name}.txt").write_text(text)
    return plugin(directory, f"cat {directory}/{name}.txt", name)


def service(found: Tree) -> dict[str, tuple[str, ...]]:
    return dict(found[tree.normal(DN)].attributes)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (
            "GLUE2ServiceType: other\nGLUE2ServiceStatusInfo: new\n",
            {"GLUE2ServiceType": ("other",), "GLUE2ServiceStatusInfo": ("new",)},
        ),
        ("GLUE2ServiceType:: w6k=\n", {"GLUE2ServiceType": ("é",)}),
        (
            "changetype: modify\nreplace: GLUE2ServiceType\nGLUE2ServiceType: a long\n  value\n",
            {"GLUE2ServiceType": ("a long value",)},
        ),
        (
            (
                "changetype: modify\nadd: GLUE2ServiceCapability\n"
                "GLUE2ServiceCapability: two\nGLUE2ServiceCapability: three\n-\n"
                "delete: glue2servicetype\n-\n"
            ),
            {"GLUE2ServiceCapability": ("one", "two", "three"), "GLUE2ServiceType": ()},
        ),
        (
            "ChangeType: MODIFY\ndelete: GLUE2ServiceCapability\nGLUE2ServiceCapability: one\n-\n",
            {"GLUE2ServiceCapability": ("two",)},
        ),
        ("changetype: modify\nreplace: GLUE2ServiceType\n-\n", {"GLUE2ServiceType": ()}),
        ("changetype: modify\ndelete: GLUE2ServiceStatusInfo\n", {}),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_modifications(
    tmp_path: Path, text: str, changed: dict[str, tuple[str, ...]], end: str
) -> None:
    whole = f"# remark\ndn: glue2serviceid = s,\n  o=glue\n{text}\n".replace("\n", end)
    done = edited(prints(tmp_path, whole))
    assert done.problems == ()
    expected = {**service(WANTED), **changed}
    assert service(done.wanted) == {name: values for name, values in expected.items() if values}


def test_a_plugin_reads_the_tree_as_those_before_it_left_it(tmp_path: Path) -> None:
    first = prints(tmp_path, f"dn: {DN}\nGLUE2ServiceType: first\n", "a")
    second = plugin(tmp_path, "sed -n 's/^dn: G/dn: G/p; s/ServiceType: first/ServiceType: 2nd/p'")
    assert service(edited(first, second).wanted)["GLUE2ServiceType"] == ("2nd",)


def test_the_whole_tree_is_given_also_to_one_that_reads_nothing(tmp_path: Path) -> None:
    reads = plugin(tmp_path, f"cat >{tmp_path}/seen", "a")
    silent = plugin(tmp_path, "exit 0", "b")
    assert edited(reads, silent) == Edited(WANTED, {"plugin/a": [], "plugin/b": []})
    assert tree.of(ldif.parse((tmp_path / "seen").read_bytes()))[0] == WANTED


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo oops >&2; exit 3", "plugin/p: failed with status 3: oops"),
        ("kill -9 $$", "plugin/p: failed with signal SIGKILL"),
        ("yes", "plugin/p: printed more than 0 MB (BDII_SOURCE_LIMIT)"),
    ],
)
def test_a_plugin_that_fails_keeps_what_it_printed_last(
    tmp_path: Path, script: str, words: str
) -> None:
    good = edited(prints(tmp_path, f"dn: {DN}\nGLUE2ServiceType: kept\n"))
    bad = edited(plugin(tmp_path, script), before=good)
    assert bad.problems == (words,)
    assert service(bad.wanted)["GLUE2ServiceType"] == ("kept",)
    assert bad.printed == good.printed
    assert edited(plugin(tmp_path, script)).wanted == WANTED  # and has nothing at first
    assert edited(before=good) == Edited(WANTED)  # a plugin that was removed has nothing left


def test_a_missing_directory_keeps_what_was_printed_last(tmp_path: Path) -> None:
    """A file system that is not mounted must not publish the entries without the changes."""
    directory = tmp_path / "plugins"
    chosen = cast(
        "BdiiSettings",
        SimpleNamespace(
            plugin_directory=directory, read_timeout=timedelta(seconds=5), source_limit=100_000
        ),
    )

    def run(before: Edited | None = None) -> Edited:
        printed = before.printed if before else {}
        return modify(chosen, WANTED, before=printed, scratch=None, stop=threading.Event())

    assert run() == Edited(WANTED)  # not in use
    directory.mkdir()
    program = plugin(directory, f"printf 'dn: {DN}\\nGLUE2ServiceType: kept\\n'").command[0]
    first = run()
    assert first.problems == ()
    directory.rename(tmp_path / "away")
    missing = run(first)
    assert service(missing.wanted)["GLUE2ServiceType"] == ("kept",)
    assert missing.printed == first.printed
    words = "no such file or directory; make it, empty if no plugin is wanted any more"
    assert missing.problems == (f"directory {directory}: {words}",)
    directory.mkdir()
    assert run(missing) == Edited(WANTED)
    # A plugin that cannot be used fails like one that ends with an error.
    (directory / Path(program).name).symlink_to(tmp_path / "nothing")
    broken = run(first)
    assert service(broken.wanted)["GLUE2ServiceType"] == ("kept",)
    assert broken.printed == first.printed
    assert broken.problems[0].startswith(f"{directory}/p: skipped: ")


def test_one_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    found = plugin(tmp_path, "")
    (tmp_path / "p").chmod(0o644)
    assert edited(found).problems == (f"plugin/p: is not executable; run chmod +x {tmp_path}/p",)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            "dn: GLUE2ServiceID=x,o=glue\na: b",
            "glue2serviceid=x,o=glue: no source gives this entry",
        ),
        (f"dn: {DN}\nchangetype: delete", "changetype 'delete' where only modify is supported"),
        (f"dn: {DN}\nchangetype: modify\nmove: a", "'move' where add, replace or delete is"),
        (f"dn: {DN}\nchangetype: modify\nadd: a", "not a modification of a"),
        (f"dn: {DN}\nchangetype: modify\nadd: a\nb: c", "not a modification of a"),
        (f"dn: {DN}\nchangetype: modify\nreplace: objectClass", "has no objectClass, skipped"),
        (f"dn: {DN}\nGLUE2ServiceID: t", "its name needs GLUE2ServiceID: s, skipped"),
        (
            f"dn: {DN}\nchangetype: modify\ndelete: glue2serviceid",
            "its name needs GLUE2ServiceID: s, skipped",
        ),
        ("changetype: modify\nadd: a\na: b", "line 1: the record has no dn:"),
        ("what is this", "line 1: neither 'attribute: value' nor a comment"),
        ("dn: nonsense\na: b", "nonsense"),
        (f"dn: {DN}\nchangetype: modify\nadd: a\na:: ***", "line 4: a: the value is not base64"),
    ],
)
def test_a_wrong_record_is_one_line_and_others_count(
    tmp_path: Path, record: str, words: str
) -> None:
    done = edited(prints(tmp_path, f"{record}\n\ndn: {DN}\nGLUE2ServiceType: good\n"))
    (line,) = done.problems
    assert line.startswith("plugin/p: ")
    assert words in line
    if "skipped" not in words:  # the same entry: all of it or nothing
        assert service(done.wanted)["GLUE2ServiceType"] == ("good",)


def test_modifications_are_kept_on_disk(tmp_path: Path) -> None:
    memory = PluginMemory(tmp_path)
    memory.keep({})
    assert not (tmp_path / "plugins.json").exists()
    found = {"plugin/p": [Edit(tree.normal(DN), "add", "a", ("é", "x"), 3)]}
    memory.keep(found)
    assert PluginMemory(tmp_path).edits == found


@pytest.mark.parametrize("content", ["", "[]", '{"p": 1}', '{"p": [[1]]}', "[" * 100_000])
def test_a_damaged_memory_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "plugins.json").write_text(content)
    assert PluginMemory(tmp_path).edits == {}
    assert "plugins.json: cannot be read" in caplog.text


def test_a_memory_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "plugins.json").mkdir()
    with pytest.raises(LocalFailure):
        PluginMemory(tmp_path).keep({"p": []})

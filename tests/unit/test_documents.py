"""The documents: links lead somewhere, commands are ones that there are, paths are of this tree."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pytest

from appliance.admin import command
from appliance.admin.inventory import JOBS
from appliance.core.run import cli
from caso.kinds.registry import KINDS
from tests import documents
from tests.bench import readme
from tests.documents import TOP

PAGES = documents.pages()
NAMES = [str(path.relative_to(TOP)) for path in PAGES]
FOREIGN = {
    *("apparmor_parser", "apt-get", "cat", "chmod", "cp", "echo", "find", "git", "ip6tables"),
    *("iptables", "ldapsearch"),
    *(
        "ln",
        "ls",
        "mv",
        "openssl",
        "rm",
        "sha256sum",
        "sort",
        "tar",
        "touch",
        "update-ca-certificates",
        "userdel",
        "xargs",
    ),
}
"""Programs that are not ours."""
DOCKER = {("images",), ("rmi",), ("network", "ls"), ("network", "rm")}
SYSTEMCTL = {
    *("daemon-reload", "disable", "enable", "reload", "restart", "start", "stop"),
}
OF_THE_SYSTEM = ("/etc/apparmor.d/", "/usr/local/share/ca-certificates/", "/srv/")


@functools.cache
def shipped_paths() -> frozenset[str]:
    """Return the paths that an installation makes, as this tree says."""
    found = {f"/{path}" for path in _below("etc")}
    for folder, target in (
        ("systemd", "/etc/systemd/system"),
        ("deploy/native/systemd", "/etc/systemd/system"),
        ("deploy/native/tmpfiles.d", "/etc/tmpfiles.d"),
        ("deploy/native/logrotate.d", "/etc/logrotate.d"),
        ("deploy/native/provider", "/var/lib/bdii/gip/provider"),
        ("deploy/native/libexec", "/usr/local/lib/fedcloud"),
        ("bin", "/usr/local/bin"),
    ):
        found |= {f"{target}/{Path(name).relative_to(folder)}" for name in _below(folder)}
    found |= {f"/etc/cron.d/{job.cron}" for job in JOBS.values()}
    for name in (*_below("etc/tmpfiles.d"), *_below("deploy/native/tmpfiles.d")):
        found |= set(re.findall(r"^[df] (\S+)", (TOP / name).read_text(), re.MULTILINE))
    places = ("/usr/local/bin/appliance", "/opt/fedcloud/current", "/var/lib/fedcloud/version")
    newest = "/etc/cloudkeeper-os/cloudkeeper-os.conf"
    copied = "/etc/apel/sender.d/storage.cfg"  # from the example beside it
    return frozenset({*found, *places, newest, copied, "/opt/fedcloud/VERSION/bin/appliance"})


def _below(folder: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", folder], cwd=TOP, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_begins_with_its_reader(name: str) -> None:
    """Behind the title, and perhaps a comment, the first words say who the page is for."""
    text = re.sub(r"<!--.*?-->\n*", "", (TOP / name).read_text())
    assert re.match(r"# \S.*\n\nFor ", text), text[:200]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    page = TOP / name
    for target in documents.links(page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in documents.anchors(linked.read_text()), target


def test_every_document_is_in_the_index() -> None:
    index = TOP / "docs/README.md"
    listed = {(index.parent / target).resolve() for target in documents.links(index.read_text())}
    apart = {index, *(TOP / "docs/reference").glob("*.md")}
    assert {path for path in PAGES if path not in apart} - listed == {
        TOP / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")
    } - listed


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name.partition("-")[0] for path in (TOP / "docs/adr").glob("*.md")]
    assert len(set(numbers)) == len(numbers)
    for path in (TOP / "docs/adr").glob("*.md"):
        number = int(path.name.partition("-")[0])
        assert path.read_text().startswith(f"# {number}. "), path.name


def test_figures_of_the_monitoring_page_are_ones_that_programs_count() -> None:
    """Each name, with ``images_`` before those of a kind of change, is a text of the product.

    Those of kinds of records have blanks for underscores.
    """
    page = (documents.HOW_TO / "monitor.md").read_text()
    table = page.partition("| program | figures |")[2].partition("\n\n")[0]
    figures = [row.split(" | ")[1] for row in table.splitlines() if row.startswith("| `")]
    names = re.findall(r"`([a-z_]+)`", " ".join(figures))
    assert len(names) > 50
    sources = "\n".join(
        (TOP / name).read_text()
        for package in ("appliance", "bdii", "caso", "cloud_info_provider", "cloudkeeper", "ssm")
        for name in _below(package)
        if name.endswith(".py")
    )
    kinds = {kind.things.replace(" ", "_") for kind in KINDS.values()}
    assert kinds <= set(names)
    unknown = [name for name in names if f'"{name}"' not in sources and name not in kinds]
    assert [name for name in unknown if f'"{name.removeprefix("images_")}"' not in sources] == []


def test_each_top_level_entry_is_explained() -> None:
    """But for files whose names say it: README.md, LICENSE, pyproject.toml and the like."""
    entries = {name.partition("/")[0] for name in _below(".")}
    table = "".join(
        row for row in (TOP / "CONTRIBUTING.md").read_text().splitlines() if row.startswith("| `")
    )
    obvious = {
        *(".editorconfig", ".gitignore", ".pre-commit-config.yaml", "LICENSE", "pyproject.toml"),
        *("README.md", "SECURITY.md", "CONTRIBUTING.md"),
    }
    assert {name for name in entries - obvious if f"`{name}" not in table} == set()


def test_lines_are_at_most_100_columns() -> None:
    """Except rows of tables."""
    long = [
        f"{path.relative_to(TOP)}:{number}"
        for path in (*TOP.glob("docs/**/*.md"), *TOP.glob("*.md"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > 100 and not line.startswith("|")
    ]
    assert long == []


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_tables_have_a_header(name: str) -> None:
    """An empty line ends a table: rows after it are shown as text."""
    lines = ["", *(TOP / name).read_text().splitlines(), ""]
    orphans = [
        line
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False)
        if line.startswith("|") and not before.startswith("|") and not re.match(r"\| ?:?-", after)
    ]
    assert orphans == []


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_a_page_are_ones_that_there_are(name: str) -> None:
    """Verbs and flags of ours are parsed, units and files are shipped."""
    for block in readme.blocks((TOP / name).read_text()):
        for line in block.commands() if block.is_on_host else ():
            for words in documents.words(line):
                check_command(words)


def check_command(words: list[str]) -> None:
    program, *rest = words
    match Path(program).name:
        case "appliance":
            cli.parser(command.program()).parse_args(rest)
        case "systemctl":
            check_systemctl(rest)
        case "docker":
            assert any(tuple(rest[: len(verb)]) == verb for verb in DOCKER), words
        case "install" | "build" as script:
            check_flags(script, rest)
        case other:
            assert other in FOREIGN, words
    check_paths(words)


def check_systemctl(words: list[str]) -> None:
    verb, *units = [word for word in words if word != "--now"]
    assert verb in SYSTEMCTL
    for unit in units:
        name = unit if "." in unit else f"{unit}.service"
        assert f"/etc/systemd/system/{name}" in shipped_paths(), unit


def check_flags(script: str, words: list[str]) -> None:
    shown = subprocess.run(
        [TOP / "scripts" / script, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(word in shown for word in words if word.startswith("--")), words


def check_paths(words: list[str]) -> None:
    """Check that each absolute path is, contains or matches one that an installation makes."""
    for word in words:
        places = ("/etc/", "/opt/", "/var/", "/usr/local/", "/run/")
        if word.startswith(places) and " " not in word:
            path = word.replace("OLD-VERSION", "VERSION").removesuffix("/")
            if path.startswith(OF_THE_SYSTEM):
                continue
            pattern = re.escape(path).replace(r"\*", "[^/]*")
            if path.endswith("]*"):  # versions
                continue
            known = shipped_paths()
            records = path.startswith("/var/lib/fedcloud/runs/") and str(Path(path).parent) in known
            assert records or any(re.match(rf"{pattern}(/|$)", one) for one in known), word


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md", "docs/releasing.md"])
def test_paths_of_this_tree_exist(name: str) -> None:
    """What is in backquotes and begins with a name of this tree is a file or folder of it."""
    text = re.sub(r"```.*?```", "", (TOP / name).read_text(), flags=re.DOTALL)
    top = {path.name for path in TOP.iterdir()} - {".cache", "dist"}  # made by scripts
    for word in re.findall(r"`([\w./-]+)`", text):
        if "/" in word and word.partition("/")[0] in top:
            assert (TOP / word).exists(), word

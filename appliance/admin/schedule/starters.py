"""Search for lines that start jobs on this host, other than the appliance's tables and timers.

The search covers all tables of cron and anacron, users' tables, the directories of run-parts, jobs
of at, the services that systemd's timers start, and files of configuration management, which would
write such a line again. A script that a command calls is searched, too, but not what it calls.

A line counts if one of its commands names a program of a job, runs an image or container of a job,
or is ``appliance run JOB``. Commands that only read (`grep`, `tail`, `test` …), comments, targets
of redirections, and runs with ``--dry-run`` or ``--help`` do not count.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.inventory import JOBS
from appliance.admin.schedule import tables
from appliance.core import files
from appliance.core.run.layout import Layout

_WRAPPERS = {
    "caso-extract.sh": "caso",
    "ssm-send.sh": "ssmsend",
    "cloudkeeper.sh": "cloudkeeper",
} | {"cloud-info.sh": "cloud-info"}
_PROGRAMS = {
    "caso-extract": "caso",
    "ssmsend": "ssmsend",
    "cloud-info-provider-service": "cloud-info",
} | _WRAPPERS
# Of two jobs of one service, the first: what a foreign line has in mind is not known.
_SERVICES = {job.service: job.name for job in reversed(JOBS.values()) if job.service}
_OURS = "/usr/local/bin/"
_IMAGE = re.compile(r"(?:^|/)egifedcloud/([a-z-]+)(?:[:@]|$)")
_JOB_UNIT = re.compile(r"fedcloud-job@([a-z-]+)(?:\.service)?$")
_ENGINES = {"docker", "podman", "nerdctl", "docker-compose", "podman-compose"}
_READ_ONLY = {
    *(
        "[",
        "[[",
        ":",
        "awk",
        "cat",
        "cd",
        "chmod",
        "chown",
        "cp",
        "cut",
        "echo",
        "egrep",
        "false",
        "fgrep",
        "find",
    ),
    *(
        "grep",
        "gzip",
        "head",
        "journalctl",
        "kill",
        "killall",
        "less",
        "ln",
        "logger",
        "logrotate",
        "ls",
        "mail",
    ),
    *(
        "mailx",
        "md5sum",
        "mkdir",
        "more",
        "mv",
        "pgrep",
        "pidof",
        "pkill",
        "printf",
        "rm",
        "rsync",
        "sed",
    ),
    *("sha256sum", "sort", "stat", "tail", "tar", "test", "touch", "true", "wc", "which", "zgrep"),
}
_BEFORE_A_COMMAND = {
    "!",
    "{",
    "if",
    "then",
    "else",
    "elif",
    "while",
    "until",
    "do",
    "time",
    "exec",
    "sudo",
    "nohup",
}
_HARMLESS_FLAGS = {"--dry-run", "--dry_run", "--check-config", "--help", "--version"}
_SEPARATOR = re.compile(r"[();&|\n]+")
_REDIRECTION = re.compile(r"[<>&]*[<>][<>&]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_MANAGED = re.compile(
    r"#\s*(Ansible|Puppet Name|Chef Name|SALT_CRON_IDENTIFIER)\b:?", re.IGNORECASE
)
_COMMAND_OF_MANAGEMENT = re.compile(
    r"""\b(?:command|cmd|job|shell|name)['"]?\s*(?:=>|[:=])\s*(.*)"""
)
_MENTION = re.compile("caso|ssm|cloud-info|cloudkeeper|appliance|fedcloud")
_LARGEST = 2**18  # bytes of a file that may be a script or a table
_MOST = 2000  # files of configuration management
_DEPTH = 3  # shells within shells


@dataclass(frozen=True, slots=True)
class Starter:
    """A line that starts a job; ``is_wrapped`` if it uses the appliance's own command."""

    path: Path
    line: int
    job: str
    is_wrapped: bool
    note: str = ""


def others(layout: Layout) -> Iterator[Starter]:
    """Yield the lines that start a job, other than those of `appliance schedule`; once per job."""
    yield from _tables(layout)
    yield from _users_tables(layout)
    yield from _anacron(layout)
    for place in ("cron.hourly", "cron.daily", "cron.weekly", "cron.monthly"):
        yield from _scripts(layout.path(f"/etc/{place}"))
    for place in ("/var/spool/cron/atjobs", "/var/spool/at"):
        yield from _scripts(layout.path(place))
    yield from _units(layout)
    yield from _management(layout)


# --------------------------------------------------------------------------------------------------
# places


def _tables(layout: Layout) -> Iterator[Starter]:
    own = {layout.path("/etc/cron.d") / job.cron: job.name for job in JOBS.values()}
    for path in (*_files(layout.path("/etc/cron.d")), layout.path("/etc/crontab")):
        for found in _table(path, layout, has_user=True):
            if own.get(path) == found.job and found.is_wrapped:
                continue
            if path.parent.name == "cron.d" and list(tables.problems(path)):
                continue  # cron ignores this table; state.ignored() reports it
            yield found


def _users_tables(layout: Layout) -> Iterator[Starter]:
    spool = layout.path("/var/spool/cron")
    # Debian's, Red Hat's and SUSE's directory of users' tables.
    for path in (*_files(spool / "crontabs"), *_files(spool), *_files(spool / "tabs")):
        yield from _table(path, layout, has_user=False)


def _table(path: Path, layout: Layout, *, has_user: bool) -> Iterator[Starter]:
    lines = _read(path)
    if not any(lines):
        return
    for line in tables.lines(path, has_user=has_user):
        before = lines[line.number - 2] if line.number > 1 else ""
        managed = _MANAGED.match(before.strip())
        note = f", written by configuration management ({managed[1]})" if managed else ""
        command = f"{line.user} {line.command}" if line.user.startswith("/") else line.command
        for job, is_wrapped, through in _started(re.sub(r"\\%", "%", command), layout):
            yield Starter(path, line.number, job, is_wrapped, note + through)


def _anacron(layout: Layout) -> Iterator[Starter]:
    path = layout.path("/etc/anacrontab")
    for number, text in enumerate(_read(path), start=1):
        words = text.split(maxsplit=3)
        is_setting = text.lstrip().startswith("#") or _ASSIGNMENT.match(text)
        if len(words) == 4 and not is_setting:  # noqa: PLR2004  period, delay, name, command
            for job, is_wrapped, through in _started(words[3], layout):
                yield Starter(path, number, job, is_wrapped, through)


def _scripts(directory: Path) -> Iterator[Starter]:
    for path in _files(directory):
        for number, text in enumerate(_read(path), start=1):
            for job, is_wrapped in _commands(text):
                yield Starter(path, number, job, is_wrapped)


def _units(layout: Layout) -> Iterator[Starter]:
    """Yield commands of services that timers start, other than the appliance's own units."""
    places = (
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
    )
    for place in (*places, "/etc/systemd/user", "/root/.config/systemd/user"):
        directory = layout.path(place)
        timers = [
            path
            for path in _files(directory)
            if path.suffix == ".timer" and "fedcloud-job@" not in path.name
        ]
        for timer in timers:
            # A timer starts the service of its own name unless it has Unit=.
            named = [re.match(r"\s*Unit\s*=\s*(\S+)", text) for text in _read(timer)]
            service = next((match[1] for match in named if match), f"{timer.stem}.service")
            if match := _JOB_UNIT.match(service):
                yield Starter(timer, _line_of(timer, "Unit"), match[1], is_wrapped=True)
                continue
            path = next(
                (one for place in places if (one := layout.path(place) / service).is_file()),
                directory / service,
            )
            yield from _unit(path, layout, note=f", started by {timer.name}")


def _unit(path: Path, layout: Layout, *, note: str) -> Iterator[Starter]:
    for number, text in enumerate(_read(path), start=1):
        if match := re.match(r"\s*Exec(?:Start|StartPre|StartPost)\s*=\s*[-@:+!]*(.*)", text):
            for job, is_wrapped, through in _started(match[1], layout):
                yield Starter(path, number, job, is_wrapped, note + through)


def _management(layout: Layout) -> Iterator[Starter]:
    """Yield lines of Puppet, Ansible and Salt on this host that name a command."""
    for path, number, text in managed_lines(layout):
        match = _COMMAND_OF_MANAGEMENT.search(text.partition(" #")[0])
        if match and not text.lstrip().startswith("#"):
            for job, is_wrapped in _commands(match[1].strip().rstrip(",").strip("'\"")):
                yield Starter(path, number, job, is_wrapped, ", by configuration management")


def managed_lines(layout: Layout) -> Iterator[tuple[Path, int, str]]:
    """Yield the lines of Puppet, Ansible and Salt on this host: path, number and text."""
    places = (
        "/etc/puppet",
        "/etc/puppetlabs/code",
        "/etc/ansible",
        "/root/.ansible/pull",
        "/srv/salt",
    )
    left = _MOST
    for place in places:
        for path in sorted(layout.path(place).rglob("*")):
            if path.suffix not in (".pp", ".yml", ".yaml", ".sls"):
                continue
            left -= 1
            if left < 0:
                return
            for number, text in enumerate(_read(path), start=1):
                yield path, number, text


def _files(directory: Path) -> list[Path]:
    return [
        path
        for path in sorted(directory.glob("*"))
        if path.is_file() and not path.name.endswith(".fedcloud-new")
    ]


def _line_of(path: Path, key: str) -> int:
    return next(
        (
            number
            for number, text in enumerate(_read(path), start=1)
            if text.strip().startswith(key)
        ),
        0,
    )


def _read(path: Path) -> list[str]:
    """Return the lines of a file; none if it is too large or not a regular file.

    Raises:
        PermissionError: The file cannot be read.

    """
    try:
        data = files.read_regular(path, limit=_LARGEST, follow=True)
    except PermissionError:
        raise
    except (OSError, ValueError):  # removed meanwhile, too large for a table, or not a file
        return []
    return data.decode(errors="surrogateescape").splitlines()


# --------------------------------------------------------------------------------------------------
# commands


def _started(command: str, layout: Layout) -> Iterator[tuple[str, bool, str]]:
    """Yield the jobs that a command starts, itself or through the script that it calls."""
    own = list(_commands(command))
    yield from ((job, is_wrapped, "") for job, is_wrapped in own)
    if own:
        return
    for words in _simple(command):
        if not words or Path(words[0]).name in _READ_ONLY:
            continue
        for word in words:
            path = layout.path(word) if word.startswith("/") else None
            if path is None or not path.is_file() or not _is_script(path):
                continue
            found = dict.fromkeys(pair for text in _read(path) for pair in _commands(text))
            yield from ((job, is_wrapped, f", by way of {word}") for job, is_wrapped in found)


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _commands(text: str, depth: int = 0) -> Iterator[tuple[str, bool]]:
    """Yield the jobs that a line of shell starts, and whether with the appliance's command."""
    # Most lines end here: splitting a line takes a hundred times as long as this search.
    if not _MENTION.search(text):
        return
    for words in _simple(text):
        if not words or Path(words[0]).name in _READ_ONLY or _HARMLESS_FLAGS & set(words):
            continue
        # A word with blanks may be a command line for a shell, as in sh -c "…".
        nested = [word for word in words if re.search(r"\s", word)]
        if depth < _DEPTH:
            for word in nested:
                yield from _commands(word, depth + 1)
        if found := _started_by([word for word in words if word not in nested]):
            yield found


def _simple(text: str) -> Iterator[list[str]]:
    """Yield the words of each simple command, without redirections and shell keywords."""
    words: list[str] = []
    is_target = False
    for word in [*_split(text), ";"]:
        if is_target:
            is_target = False
        elif _REDIRECTION.fullmatch(word):
            is_target = True
        elif _SEPARATOR.fullmatch(word):
            yield words
            words = []
        elif words or not (_ASSIGNMENT.match(word) or word in _BEFORE_A_COMMAND):
            words.append(word)


def _split(text: str) -> Sequence[str]:
    # punctuation_chars makes ; & | < > ( ) words of their own, as in a shell.
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    try:
        return list(lexer)
    except ValueError:  # an unclosed quote, which a later line closes
        return re.sub(r"(^|\s)#.*", "", text).replace("'", " ").replace('"', " ").split()


def _started_by(words: Sequence[str]) -> tuple[str, bool] | None:
    for at, word in enumerate(words):
        name, rest = Path(word).name, words[at + 1 :]
        if name in _PROGRAMS:
            if _is_verb(_PROGRAMS[name], rest[:1]):
                return None
            return _PROGRAMS[name], name in _WRAPPERS and word == f"{_OURS}{name}"
        if name == "appliance" and rest[:1] == ["run"] and len(rest) > 1 and rest[1] in JOBS:
            arguments = rest[rest.index("--") + 1 :] if "--" in rest else []
            return None if _is_verb(rest[1], arguments[:1]) else (rest[1], True)
        # As an argument of another command the word may be a path, a user or an image.
        if name == "cloudkeeper" and (rest[:1] == ["sync"] or (at == 0 and not rest)):
            return "cloudkeeper", False
        if (
            name == "systemctl"
            and (unit := next(filter(None, map(_JOB_UNIT.match, rest)), None))
            and "start" in rest
        ):
            return unit[1], True
        if name in _ENGINES and (job := _in_container(rest)):
            return job, False
    return None


def _is_verb(job: str, words: Sequence[str]) -> bool:
    """Check whether a line calls for a verb of the program, which is not the job."""
    return any(word in JOBS[job].verbs for word in words)


def _in_container(words: Sequence[str]) -> str:
    """Return the job that a container command runs, by program, image or container name."""
    for word in words:
        if _PROGRAMS.get(Path(word).name):
            return _PROGRAMS[Path(word).name]
    if "run" in words or "create" in words:
        images = [match[1] for word in words if (match := _IMAGE.search(word))]
        named = [word for word in words if word in _SERVICES]
        return next((_SERVICES[name] for name in (*images, *named) if name in _SERVICES), "")
    if {"start", "restart"} & set(words):
        return next((_SERVICES[word] for word in words if word in _SERVICES), "")
    return ""

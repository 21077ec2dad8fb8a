"""A stand-in for Compose v5: its command line as its manual has it, and nothing behind it.

    install(path)     a program that takes v5's flags alone, and notes how it was called
    install(path, version="5.0.1", status=3)

The words of each call follow one another in ``PATH.calls``, as a JSON list a line. What v5 does not
know it refuses as v5 does: with status 16 and ``unknown flag`` or ``unknown docker command``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
_PROGRAM = """#!{python}
import json, sys
calls, version, status = {calls!r}, {version!r}, {status!r}
with_value = {{"--ansi", "--env-file", "--file", "-f", "--parallel", "--profile", "--progress",
              "--project-directory", "--project-name", "-p"}}
alone = {{"--all-resources", "--compatibility", "--dry-run"}}
verbs = {{
    "up": ({{"--attach", "--exit-code-from", "--no-attach", "--pull", "--scale", "-t", "--timeout",
            "--wait-timeout"}},
           {{"--abort-on-container-exit", "--abort-on-container-failure", "--always-recreate-deps",
            "--build", "-d", "--detach", "--force-recreate", "--menu", "--no-build", "--no-color",
            "--no-deps", "--no-log-prefix", "--no-recreate", "--no-start", "--quiet-pull",
            "--remove-orphans", "-V", "--timestamps", "--wait", "-w", "-y"}}),
    "run": ({{"--cap-add", "--cap-drop", "-e", "--env", "--entrypoint", "-l", "--label", "--name",
             "-p", "--publish", "--pull", "-u", "--user", "-v", "--volume", "-w", "--workdir"}},
            {{"--build", "-d", "--detach", "-i", "-T", "--no-TTY", "--no-deps", "-q", "--quiet",
             "--quiet-build", "--quiet-pull", "--remove-orphans", "--rm", "--service-ports",
             "--use-aliases"}}),
    "rm": (set(), {{"-f", "--force", "-s", "--stop", "-v", "--volumes"}}),
    "stop": ({{"-t", "--timeout"}}, set()),
    "kill": ({{"-s", "--signal"}}, {{"--remove-orphans"}}),
    "version": ({{"-f", "--format"}}, {{"--short"}}),
}}

def flags(words, valued, bare):
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word.partition("=")[0] in valued:
            if "=" not in word:
                words.pop(0)
        elif word not in bare:
            sys.exit(refuse("unknown flag: " + word))

def refuse(text):
    print(text, file=sys.stderr)
    return 16

words = sys.argv[1:]
with open(calls, "a") as file:
    print(json.dumps(words), file=file)
flags(words, with_value, alone)
verb = words.pop(0) if words else ""
if verb not in verbs:
    sys.exit(refuse('unknown docker command: "compose ' + verb + '"'))
flags(words, *verbs[verb])
if verb == "version":
    print(version)
    sys.exit(0)
sys.exit(status)
"""


def install(path: Path, *, version: str = "5.0.1", status: int = 0) -> None:
    """Write the program; it ends with ``status`` when its command line is right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _PROGRAM.format(
        python=sys.executable, calls=str(_calls(path)), version=version, status=status
    )
    path.write_text(text)
    path.chmod(0o755)


def calls(path: Path) -> list[list[str]]:
    """Return the words of each call, in order."""
    lines = _calls(path).read_text().splitlines() if _calls(path).exists() else []
    return [json.loads(line) for line in lines]


def _calls(path: Path) -> Path:
    return path.with_name(f"{path.name}.calls")

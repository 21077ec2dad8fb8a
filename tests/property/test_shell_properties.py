"""Our reader of shell variables against /bin/sh and against the container tools."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from appliance.core.config import shell
from appliance.core.run.errors import ConfigurationError
from tests.property.examples import examples

PATH = Path("openstack.rc")
NAMES = ("A", "B", "OS_X")

plain = st.text(st.sampled_from("ab09_-./,@%+=:#*?[]{}!^~é"), min_size=1, max_size=6)
inside = st.text(st.sampled_from("ab $`\"\\'#\t&;|<>()~é"), max_size=6)
single = inside.map(lambda text: "'" + text.replace("'", "") + "'")
double = inside.map(lambda text: '"' + "".join(f"\\{c}" if c in '$`"\\' else c for c in text) + '"')
escaped = st.sampled_from(["\\ ", "\\$", "\\'", '\\"', "\\\\", "\\#", "\\a", "\\\n", "\\&", "\\`"])
values = st.lists(plain | single | double | escaped, max_size=4).map("".join)
assignments = st.tuples(
    st.sampled_from(["", "export ", "export  "]), st.sampled_from(NAMES), values
)
lines = assignments.map(lambda parts: f"{parts[0]}{parts[1]}={parts[2]}") | st.sampled_from(
    ["", "# A=no", "  #", "export A", "B=1;", " A=x # note"]
)

# Letters that spell no command, and everything that a shell cares about.
anything = st.text(st.sampled_from("AB=ab \n\t'\"\\$`(){}&|;<>#~:*?!0-"), max_size=24)


def sourced(text: str) -> dict[str, str] | None:
    """Return the variables of sh after reading the file; None if it fails or runs something."""
    ask = "".join(f"printf '%s\\0' \"${{{name}-unset}}\" 2>&3\n" for name in NAMES)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "rc").write_text(text, encoding="utf-8")
        shown = subprocess.run(
            ["/bin/sh", "-e", "-c", f"exec 3>&2\n. ./rc\n{ask}"],
            cwd=directory,
            env={"PATH": "/nonexistent", "HOME": "/home/of/somebody", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if shown.returncode or shown.stderr or os.listdir(directory) != ["rc"]:
            return None
    found = shown.stdout.decode().split("\0")[:-1]
    return {name: value for name, value in zip(NAMES, found, strict=True) if value != "unset"}


def parsed(text: str) -> dict[str, str] | None:
    try:
        document = shell.parse(PATH, text)
    except ConfigurationError:
        return None
    entries = document.sections.get("DEFAULT", {})
    for name, entry in entries.items():
        assert f"{name}=" in text.splitlines()[entry.line - 1]
    return {name: entry.text for name, entry in entries.items() if name in NAMES}


def means_something_else(text: str) -> bool:
    """Check whether ours may refuse a text of sh: a tilde, or a second assignment."""
    return "~" in text or any(text.count(f"{name}=") > 1 for name in NAMES)


@settings(max_examples=examples(100))
@given(st.lists(lines, max_size=6).map("\n".join))
def test_assignments_mean_what_sh_exports(text: str) -> None:
    ours = parsed(text)
    if ours is None:
        assert means_something_else(text)
    else:
        assert ours == sourced(text)


@settings(max_examples=examples(200))
@given(anything)
@example("A=$(echo)")
@example("A=`b`")
@example("A=$B")
@example('A="$B"')
@example("A=a b")
@example('"A"=b')
@example('A"="b')
@example("A=~")
@example("A=a:~")
@example('A="a:~"b')
@example("A=\\")
def test_what_is_accepted_means_the_same_to_sh(text: str) -> None:
    """R26."""
    assume(not re.search(r"(^|[;\n])[\t ]*;", text))  # an empty command, over which sh stumbles
    ours = parsed(text)
    if ours is not None:
        assert ours == sourced(text)

"""Files for editors, git hooks and forges: they call our scripts, and download nothing."""

from __future__ import annotations

import configparser
import os
import tomllib
from pathlib import Path

import yaml

TOP = Path(__file__).parents[2]


def test_the_hooks_are_this_repository_s_own() -> None:
    read = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())
    assert [one["repo"] for one in read["repos"]] == ["local"]
    for hook in read["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert os.access(TOP / hook["entry"], os.X_OK)


def test_the_workflow_runs_what_every_ci_runs() -> None:
    read = yaml.safe_load((TOP / ".github/workflows/ci.yml").read_text())
    (job,) = read["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert os.access(TOP / ".ci/run", os.X_OK)
    assert read["permissions"] == {"contents": "read"}


def test_editors_break_lines_where_the_formatter_does() -> None:
    editor = configparser.ConfigParser()
    editor.read_string((TOP / ".editorconfig").read_text().replace("root = true", "[top]"))
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    assert editor["*"]["max_line_length"] == str(project["tool"]["ruff"]["line-length"])


def test_the_forms_have_a_name_and_a_purpose() -> None:
    forms = sorted((TOP / ".github/ISSUE_TEMPLATE").glob("*.md"))
    assert len(forms) == 2
    for form in forms:
        _, front, body = form.read_text().split("---\n", 2)
        assert {"name", "about"} <= yaml.safe_load(front).keys()
        assert body.strip()

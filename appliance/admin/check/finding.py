"""The row of each message of a program in the table of faults."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from appliance.core.run.errors import ApplianceError, Problem
from appliance.core.run.finding import Finding

# By words of the message, because the programs of other packages report nothing but text.
_RULES = (
    ("C50.c", r"names no BDII, so no cloud is published"),
    ("C61.b", r"anyone who can connect to grpc_port|is used without TLS, so any host"),
    ("C20.c", r"APPDB_TOKEN"),
    ("C20.a", r"placeholder '?SITE[-_]NAME"),
    ("C20.b", r"placeholder|the shipped example"),
    ("C21.b", r"belongs in \["),
    ("C21.c", r"deprecated"),
    ("C21.d", r"there is .* too; remove one|exists, and .* too"),
    ("C21.e", r"nothing is executed"),
    ("C21.a", r"unknown (option|section)"),
    ("C23.a", r"is not (JSON|YAML)"),
    ("C24.a", r"is a test queue"),
    ("C12.a", r"is this host's own; name the receiver's"),
    ("C22.a", r"write one name"),
    ("C30.b", r"the domain of the account"),
    ("C30.c", r"Keystone's version 2"),
    ("C10.d", r"expires within \d+ day"),
    ("C10.c", r"certificate.*(has expired|expired)"),
    ("C10.b", r"(does not belong|do not belong|no pair|not match)"),
    ("C40.b", r"not mounted in the container; write the shipped directory|nested|sub-directories"),
)
"""The row of each message, by a pattern; the first one that matches counts."""
_OTHERWISE = "C21"
_OF_2017 = {"C20.c": "C20.b", "C60.a": "C60"}
"""The rows about tokens of AppDB, and those that the faults have where AppDB is not used."""


def identify(option: str, text: str) -> str:
    """Return the id of the row in the table of faults for a message."""
    found = (row for row, pattern in _RULES if re.search(pattern, f"{option}: {text}"))
    return next(found, _OTHERWISE)


def in_profile(found: Finding, profile: str) -> Finding:
    """Return a finding with the row that it has in a federation."""
    row = found.identifier if profile == "2017" else _OF_2017.get(found.identifier)
    return replace(found, identifier=row) if row else found


def of_problem(problem: Problem, *, program: str = "") -> Finding:
    """Return the finding for a problem of a configuration."""
    row = identify(problem.option, problem.text)
    path = "" if problem.path == Path() else str(problem.path)
    return Finding(path, problem.line, problem.option, problem.text, row, program, problem.is_fatal)


def of_error(name: str, error: ApplianceError, *, identifier: str, tried: str = "") -> Finding:
    """Return the finding for an error that kept something from being checked."""
    path = error.subject if error.subject.startswith("/") else ""
    text = f"{error.cause}; {error.remedy}".rstrip("; ")
    text = text if path or not error.subject else f"{error.subject}: {text}"
    return Finding(path, 0, "", text, identifier, name, tried=tried)

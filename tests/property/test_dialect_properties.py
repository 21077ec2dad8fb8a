"""Our readers of two INI dialects beside the libraries that upstream reads them with."""

import configparser
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from appliance.core.config import document, ini, oslo
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError

PATH = Path("x.conf")
OPTIONS = ("alpha", "beta", "gamma_delta")
SECTIONS = ("DEFAULT", "keystone_auth", "ssm")

words = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_characters="$\\\x7f\x85\xa0\xad"), max_size=12
)
blanks = st.sampled_from(["", " ", "\t", "  "])
values = st.lists(words, max_size=3).map(" ".join).map(str.strip)
delimiters = st.tuples(blanks, st.sampled_from("=:"), blanks).map("".join)
assignments = st.tuples(st.sampled_from(OPTIONS), delimiters, values).map("".join)
noise = st.sampled_from(["", "# comment = no", "; [neither]", "#"])
bodies = st.lists(assignments | noise, max_size=8)
texts = st.lists(st.tuples(st.sampled_from(SECTIONS), bodies), min_size=1, max_size=4)


def render(sections: list[tuple[str, list[str]]]) -> str:
    return "\n".join(line for name, body in sections for line in [f"[{name}]", *body]) + "\n"


@settings(max_examples=150, deadline=None)
@given(texts)
def test_oslo_files_mean_what_oslo_config_reads(sections: list[tuple[str, list[str]]]) -> None:
    text = render(sections)
    conf = cfg.ConfigOpts()
    for section in SECTIONS:
        conf.register_opts([cfg.StrOpt(option) for option in OPTIONS], None if section == "DEFAULT" else section)
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        conf([], project="x", default_config_files=[file.name])
    parsed = oslo.parse(PATH, text)
    for section in SECTIONS:
        group = conf if section == "DEFAULT" else conf[section]
        for option in OPTIONS:
            entry = parsed.get(section, option)
            assert (entry.text if entry else None) == group[option]
            if entry:
                assert text.splitlines()[entry.line - 1].startswith(option)


@settings(max_examples=150, deadline=None)
@given(texts)
def test_ini_files_mean_what_configparser_reads(sections: list[tuple[str, list[str]]]) -> None:
    unique = {
        name: list({line.split("=")[0].split(":")[0].strip(): line for line in body}.values())
        for name, body in sections
    }
    text = render(list(unique.items()))
    theirs = configparser.RawConfigParser(default_section="-")
    theirs.read_string(text)
    ours = ini.parse(PATH, text)
    assert {name: {key: entry.text for key, entry in options.items()} for name, options in ours.sections.items()} == {
        name: dict(theirs.items(name)) for name in theirs.sections()
    }


references = st.lists(
    st.sampled_from(["$alpha", "${alpha}", "$ssm.beta", "$$", r"\$", "$5", "$", "x", "/", "$gamma_delta"]), max_size=5
).map("/".join)  # a name that no option has is an error there, and stays as it is here


@settings(max_examples=150, deadline=None)
@given(references, st.sampled_from(["", "plain", "$ssm.beta"]))
def test_references_resolve_as_in_oslo_config(value: str, alpha: str) -> None:
    text = f"[DEFAULT]\nbeta = >{value}<\nalpha = {alpha}\ngamma_delta = gd\n[ssm]\nbeta = two\n"
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.StrOpt(option) for option in OPTIONS])
    conf.register_opts([cfg.StrOpt("beta")], "ssm")
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        conf([], project="x", default_config_files=[file.name])
        read = Settings(document.read([Path(file.name)], oslo.parse), interpolate=oslo.interpolate)
        assert read.text("DEFAULT", "beta") == conf.beta


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_no_text_breaks_a_reader(text: str) -> None:
    for dialect in (ini.parse, oslo.parse):
        try:
            dialect(PATH, text)
        except ConfigurationError as error:  # either outcome is right
            assert all(0 < problem.line <= len(text.splitlines()) for problem in error.problems)  # noqa: PT017

"""Our readers of two INI dialects beside the libraries that upstream reads them with."""

import configparser
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from appliance.core.config import document, ini, oslo
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError
from tests.property.examples import examples

PATH = Path("x.conf")
OPTIONS = ("alpha", "beta", "gamma_delta")
SECTIONS = ("DEFAULT", "keystone_auth", "ssm")

# end a line for str.splitlines, not in files
separators = st.sampled_from("\x0b\x0c\x1c\x1e\x85\xa0\u2028\u2029")
words = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_characters="$\\\x7f\xad")
    | separators,
    max_size=12,
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


@settings(max_examples=examples(150))
@given(texts)
def test_oslo_files_mean_what_oslo_config_reads(sections: list[tuple[str, list[str]]]) -> None:
    text = render(sections)
    conf = cfg.ConfigOpts()
    for section in SECTIONS:
        conf.register_opts(
            [cfg.StrOpt(option) for option in OPTIONS], None if section == "DEFAULT" else section
        )
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        conf([], project="x", default_config_files=[file.name])
    if _sets_an_option_twice(sections):  # F-H6: oslo.config takes the last one without a word
        with pytest.raises(ConfigurationError, match="is set a second time"):
            oslo.parse(PATH, text)
        return
    parsed = oslo.parse(PATH, text)
    for section in SECTIONS:
        group = conf if section == "DEFAULT" else conf[section]
        for option in OPTIONS:
            entry = parsed.get(section, option)
            assert (entry.text if entry else None) == group[option]
            if entry:
                assert text.split("\n")[entry.line - 1].startswith(option)


def _sets_an_option_twice(sections: list[tuple[str, list[str]]]) -> bool:
    names = [
        (name, re.split("[=:]", line)[0].strip())
        for name, body in sections
        for line in body
        if line[:1] not in "#;"
    ]
    return len(names) > len(set(names))


@settings(max_examples=examples(150))
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
    assert {
        name: {key: entry.text for key, entry in options.items()}
        for name, options in ours.sections.items()
    } == {name: dict(theirs.items(name)) for name in theirs.sections()}


@pytest.mark.parametrize(
    "texts",
    [
        ["[SSM]\nalpha = x\n", ""],
        ["[ssm]\ngamma_delta = new\n", "[ssm]\nold_name = old, but in a later file\n"],
        ["[ssm]\nold_name = old\n", "[ssm]\ngamma_delta = new\n"],
        ["[ssm]\nold_name = old\ngamma_delta = new\n", ""],
        ["alpha = above every section\n[ssm]\n", ""],
        ["[ssm]\r\nalpha = a\r\n", "[ssm]\rgamma_delta = b\r"],
    ],
)
def test_several_files_and_older_names_as_in_oslo_config(tmp_path: Path, texts: list[str]) -> None:
    paths = [tmp_path / "a.conf", tmp_path / "b.conf"]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    conf = cfg.ConfigOpts()
    old = cfg.DeprecatedOpt("old_name", group="ssm")
    conf.register_opts(
        [cfg.StrOpt("alpha"), cfg.StrOpt("gamma_delta", deprecated_opts=[old])], "ssm"
    )
    try:
        conf([], project="x", default_config_files=list(map(str, paths)))
    except cfg.ConfigFileParseError:
        with pytest.raises(
            ConfigurationError, match=r"a\.conf:1: alpha: stands above the first section"
        ):
            document.read(paths, oslo.parse)
        return
    read = Settings(document.read(paths, oslo.parse))
    assert read.text("ssm", "alpha") == (conf.ssm.alpha or "")
    assert read.text("ssm", "gamma_delta", aliases=[("ssm", "old_name")]) == (
        conf.ssm.gamma_delta or ""
    )


references = st.lists(
    st.sampled_from(
        ["$alpha", "${alpha}", "$ssm.beta", "$$", r"\$", "$5", "$", "x", "/", "$gamma_delta"]
    ),
    max_size=5,
).map("/".join)  # a name that no option has is an error there, and stays as it is here


@settings(max_examples=examples(150))
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


@settings(max_examples=examples(300))
@given(st.text(max_size=80))
def test_no_text_breaks_a_reader(text: str) -> None:
    for dialect in (ini.parse, oslo.parse):
        try:
            dialect(PATH, text)
        except ConfigurationError as error:  # either outcome is right
            last = 1 + text.count("\n") + text.count("\r")
            assert all(0 < problem.line <= last for problem in error.problems)  # noqa: PT017

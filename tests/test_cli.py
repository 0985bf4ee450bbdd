"""The raw messages of tyro, the options library, for values it cannot parse: our shorter ones replace exactly these."""

import contextlib
import io
import re

import pytest
import tyro

from catdog import cli
from catdog.config.presets import PRESETS
from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError

RAW = {
    "a missing value": (["--epochs"], "Missing value for argument '--epochs'"),
    "no integer": (["--epochs", "x"], "invalid literal for int() with base 10: 'x'"),
    "an integer of 5000 digits": (["--epochs", "9" * 5000], "Exceeds the limit (4300 digits)"),
    "no number": (["--learning-rate", "x"], "could not convert string to float: 'x'"),
    "neither None nor an integer": (
        ["--limit-images", "x"],
        "no type matching {None}|INT could be instantiated from ['x'].",
    ),
    "neither None nor a number": (
        ["--max-cost", "x"],
        "no type matching {None}|FLOAT could be instantiated from ['x'].",
    ),
    "an unknown option": (["--epoch", "3"], "Unrecognized options: --epoch, 3"),
}


def raw_message(arguments: list[str]) -> str:
    """Return tyro's output without its frame."""
    printed = io.StringIO()
    with cli._wide_terminal(), contextlib.redirect_stderr(printed), pytest.raises(SystemExit):
        tyro.cli(SweepConfig, args=arguments, prog="sweep.py demo", default=PRESETS["demo"])
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", printed.getvalue()).split())


@pytest.mark.parametrize(("arguments", "words"), RAW.values(), ids=RAW.keys())
def test_the_library_still_prints_the_words_we_replace(arguments: list[str], words: str) -> None:
    assert words in raw_message(arguments)


def test_every_replacement_matches_a_raw_message() -> None:
    messages = [raw_message(arguments) for arguments, _ in RAW.values()]
    for pattern, _ in cli._PLAIN_WORDS:
        assert any(re.search(pattern, message) for message in messages), pattern


@pytest.mark.parametrize("arguments", [arguments for arguments, _ in RAW.values()], ids=RAW.keys())
def test_nothing_of_the_raw_message_is_left(arguments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        cli.parse_sweep(["demo", *arguments], "sweep.py")
    message = str(caught.value)
    assert message.startswith((arguments[0], "Unrecognized options: --epoch"))
    assert message.endswith("; see sweep.py demo --help")
    assert not re.search(r"literal|instantiated|could not convert|Exceeds|[│╭╰]|\n", message)

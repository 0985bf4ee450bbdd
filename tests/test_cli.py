"""The command line: tyro's raw messages, which ours replace; options given twice; numbers; the console."""

import contextlib
import io
import re
import sys

import pytest
import tyro

from catdog import cli
from catdog.config.presets import PRESETS
from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError, first_line
from catdog.formatting import NumbersTable

RAW = {
    "a missing value": (["--epochs"], "Missing value for argument '--epochs'"),
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
    with cli._wide_messages(), contextlib.redirect_stderr(printed), pytest.raises(SystemExit):
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


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--run", "A", "--run", "B"], "--run"),
        (["--run=A", "--run", "A"], "--run"),
        (["--data_root", "a", "--data-root=b"], "--data-root"),
        (["--variants", "se", "baseline", "--variants", "attention"], "--variants"),
        (["--flip", "--no-flip"], "--flip"),
        (["--dry-run", "--dry-run"], "--dry-run"),
    ],
)
def test_an_option_given_twice_is_refused(arguments: list[str], option: str) -> None:
    with pytest.raises(UserError, match=f"^{option}: given 2 times; keep one$"):
        cli.parse_sweep(["demo", *arguments], "sweep.py")


NOT_PLAIN = ["１２", "٣", "1_000", " 5", "5 ", "5\n", "", "0x10", "9" * 5000]


@pytest.mark.parametrize("text", NOT_PLAIN)
@pytest.mark.parametrize(
    "option", ["--epochs", "--learning-rate", "--limit-images", "--max-cost", "--seeds", "--variants"]
)
def test_a_number_is_written_in_one_way_everywhere(option: str, text: str) -> None:
    if option == "--learning-rate" and text == "9" * 5000:
        return  # a float: infinite, and out of range
    value = f"multi-attention:num_masks={text}" if option == "--variants" else text
    with pytest.raises(UserError):
        cli.parse_sweep(["demo", option, value], "sweep.py")


@pytest.mark.parametrize("text", ["5", "+5", "05"])
def test_plain_digits_are_a_number(text: str) -> None:
    config = cli.parse_sweep(["demo", "--epochs", text, "--limit-images", text, "--max-cost", text,
                              "--hourly-price", "1e-1"], "sweep.py")  # fmt: skip
    assert (config.recipe.epochs, config.recipe.limit_images, config.max_cost, config.hourly_price) == (5, 5, 5.0, 0.1)


def test_help_in_a_file_fits_a_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.parse_sweep(["--help"], "sweep.py")
    assert ended.value.code == 0
    assert 70 < max(map(len, capsys.readouterr().out.splitlines())) <= 100


def printed(*texts: str, encoding: str = "utf-8") -> str:
    """Return what a job's console, connected to a file of this encoding, prints."""
    before, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    try:
        console = cli.output_console()
        for text in texts:
            console.print(text, soft_wrap=True)
        console.print(NumbersTable({"name": texts, "n": ["± 1"] * len(texts)}, ()))
        assert isinstance(sys.stdout.buffer, io.BytesIO)
        return sys.stdout.buffer.getvalue().decode(encoding)
    finally:
        sys.stdout = before


def test_the_console_prints_markup_and_emoji_names_as_they_are() -> None:
    for text in ("m[/b]", "[red]x[/red]", ":smile:", "[link=http://x]y[/link]", "\\[x]"):
        assert printed(text).count(text) == 2


def test_the_console_shows_control_characters_instead_of_sending_them() -> None:
    shown = printed("a\x1b[31mb\nc\x9b\x7f\u202e\ud800")
    assert shown.count(r"a\u001b[31mb\nc\u009b\u007f\u202e\ud800") == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "shift_jis", "euc-jp"])
def test_the_console_writes_in_ascii_what_the_encoding_lacks(encoding: str) -> None:
    assert printed("85.00 – 3 → …", encoding=encoding).startswith(
        "85.00 - 3 -> ..." if encoding in ("ascii", "latin-1") else "85.00 - 3 → …"
    )
    assert "| " in printed("x", encoding=encoding), "the frame"


def test_the_first_line_of_a_message_is_its_first_words() -> None:
    assert first_line(RuntimeError("\n  Some tensors share memory\nand more")) == "Some tensors share memory"
    assert first_line(RuntimeError(" \n")) == "RuntimeError"

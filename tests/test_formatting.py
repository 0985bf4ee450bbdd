"""Text from elsewhere made harmless for a terminal and for Markdown; tables that fit a terminal of any width."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from catdog.formatting import NumbersTable, counted, format_p, markdown, markdown_code, printable, readable


def test_one_thing_is_singular() -> None:
    assert [counted(number, "class") for number in (0, 1, 2000)] == ["0 classes", "1 class", "2,000 classes"]


CONTROL = {"\x1b[31m": r"\u001b[31m", "a\nb\tc\r": r"a\nb\tc\r", "\x7f\x9b": r"\u007f\u009b", "\u202eabc": r"\u202eabc"}


@pytest.mark.parametrize("text", CONTROL)
def test_control_characters_are_shown(text: str) -> None:
    assert printable(text) == readable(text) == CONTROL[text]


@given(st.text())
def test_printable_text_is_one_line_that_utf_8_can_hold(text: str) -> None:
    shown = printable(text)
    assert len(shown.encode().decode().splitlines()) <= 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert printable(shown) == shown


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        "multi-attention:num_masks=8,lambda_divergence=1e-5",
        "Kätzchen 猫 🐈",
        "92.16 ± 0.33 → 5 %",
        "a*b (c)",
    ):
        assert markdown(text) == printable(text) == text
        assert markdown_code(text) == f"`{text}`"


@given(st.text(alphabet="ab <>|`\\[]()!&\n"))
def test_markdown_has_no_tag_no_cell_border_and_no_link_of_the_text(text: str) -> None:
    shown = markdown(text)
    assert "<" not in shown
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[|`\[\]]", shown), "each is escaped"


@given(st.text(alphabet="ab `<"))
def test_code_ends_only_at_its_fence(text: str) -> None:
    span = markdown_code(text)
    fence = re.match("`+", span)
    assert fence is not None
    inside = span[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inside)
    assert text in inside


NAMES = ["baseline", "attention", "multi-attention:num_masks=8,lambda_divergence=0.01"]
TABLE = NumbersTable(
    {
        "variant": NAMES,
        "n": ["30", "28 of 30", "30"],
        "Validation": ["92.16 ± 0.33"] * 3,
        "Test": ["89.54 ± 0.27"] * 3,
        "best run: Validation": ["92.93"] * 3,
        "its Test": ["89.42"] * 3,
    },
    optional=("best run: Validation", "its Test"),
)


@pytest.mark.parametrize("width", [30, 40, 50, 60, 65, 70, 80, 100, 140])
@pytest.mark.parametrize("has_frame", [True, False])
def test_no_number_is_split_at_any_width(width: int, has_frame: bool) -> None:
    output = io.StringIO()
    Console(file=output, width=width).print(NumbersTable(TABLE.columns, TABLE.optional, has_frame))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for number in ("28 of 30", "92.16 ± 0.33", "89.54 ± 0.27"):
        assert sum(number in line for line in lines) == (1 if "of" in number else 3)
    assert sum("baseline" in line for line in lines) == 1


def test_columns_are_left_out_from_the_end_before_the_table_becomes_lines() -> None:
    shown = {}
    for width in (140, 80, 70, 60, 40):
        output = io.StringIO()
        Console(file=output, width=width).print(TABLE)
        shown[width] = output.getvalue()
    assert "best run: Validation" in shown[140]
    assert "its" in shown[80]
    assert ("best run" in shown[70], "its" in shown[70]) == (True, False)
    assert "best run" not in shown[60]
    assert "best run: Validation 92.93" in shown[40], "a line of its own"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.083, "0.083"), (0.0004, "< 0.001"), (0.0497, "0.0497"), (0.0503, "0.0503"), (0.04996, "0.04996"),
        (0.05, "0.050"), (0.051, "0.051"), (1.0, "1.000"),
    ],
)  # fmt: skip
def test_a_p_value_shows_on_which_side_of_five_percent_it_lies(value: float, text: str) -> None:
    assert format_p(value) == text

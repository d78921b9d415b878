"""Params are validated strictly, and every error names its key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from vitrine.params import ParamsError, Section, read_section


class Rates(Section):
    epochs: Annotated[int, Field(ge=1)]
    learning_rate: float


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_valid_section_is_read_and_frozen(tmp_path: Path) -> None:
    params = read_section("rates", Rates, write(tmp_path, "rates: {epochs: 3, learning_rate: 1.0e-4}\nother: 1\n"))
    assert (params.epochs, params.learning_rate) == (3, 1e-4)
    with pytest.raises(ValidationError, match="frozen"):
        params.epochs = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("rates: {epochs: 0, learning_rate: 1.0}", ["rates.epochs: expected greater than or equal to 1; found 0"]),
        ("rates: {epochs: two, learning_rate: 1.0}", ["rates.epochs: expected a valid integer; found 'two'"]),
        ("rates: {epochs: 2.0, learning_rate: 1.0}", ["rates.epochs: expected a valid integer; found 2.0"]),
        ("rates: {epochs: 2, learning_rate: 1e-4}", ["rates.learning_rate", "found '1e-4'", "write 1.0e-4"]),
        ("rates: {epochs: 2, learning_rate: .nan}", ["rates.learning_rate: expected a finite number"]),
        ("rates: {epochs: 2}", ["rates.learning_rate: missing"]),
        (
            "rates: {epochs: 2, learning_rate: 1.0, lr: 1}",
            ["rates.lr: unknown key; expected one of epochs, learning_rate"],
        ),
        ("rates: {epochs: 0, lr: 1}", ["rates.epochs", "rates.learning_rate: missing", "rates.lr: unknown key"]),
        ("rates: 3", ["rates: expected a mapping with epochs, learning_rate; found 3"]),
        ("other: 3", ["section 'rates' is missing"]),
        ("", ["section 'rates' is missing"]),
        ("rates: [", ["not valid YAML"]),
    ],
)
def test_every_error_names_its_key(tmp_path: Path, text: str, faults: list[str]) -> None:
    with pytest.raises(ParamsError) as caught:
        read_section("rates", Rates, write(tmp_path, text))
    for fault in faults:
        assert fault in str(caught.value)


class Names(Section):
    masked: dict[str, list[str]]
    aliases: dict[str, dict[str, str]]


def test_text_that_yaml_reads_as_something_else_needs_quotes(tmp_path: Path) -> None:
    good = "names: {masked: {color: ['007', 'no']}, aliases: {color: {'38': '1'}}}"
    assert read_section("names", Names, write(tmp_path, good)).aliases == {"color": {"38": "1"}}
    with pytest.raises(ParamsError) as caught:
        read_section("names", Names, write(tmp_path, "names: {masked: {color: [007, no]}, aliases: {color: {38: x}}}"))
    for fault in ("masked.color.0: expected a valid string; found 7", "color.1: expected a valid string; found False"):
        assert f"{fault} (put it in quotes" in str(caught.value)
    assert "names.aliases.color.38: expected a valid string; found 38 (put it in quotes" in str(caught.value)


def test_a_missing_file_says_where_to_run_the_command(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="project's root"):
        read_section("rates", Rates, tmp_path / "params.yaml")

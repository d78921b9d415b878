"""Read one section of params.yaml into a frozen, strictly checked model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vitrine.errors import VitrineError


class ParamsError(VitrineError):
    """params.yaml is missing, malformed or has invalid values."""


class Section(BaseModel):
    """Base of every params section: unknown keys are errors, and values are never coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def read_section(name: str, section: type[SectionT], path: Path = Path("params.yaml")) -> SectionT:
    """Return section `name` of a params file.

    Raises:
        ParamsError: the file, the section or a key is missing, unknown, mistyped or out of range. Every fault is
            listed as `section.key: expected ...; found ...`.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found. Run the stage from the project's root: dvc repro") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(document, dict) or name not in document:
        raise ParamsError(f"{path}: section '{name}' is missing; expected a mapping with {_keys(section)}")
    values = document[name]
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: {name}: expected a mapping with {_keys(section)}; found {values!r}")
    try:
        return section.model_validate(values)
    except ValidationError as error:
        faults = [_fault(name, section, dict(fault)) for fault in error.errors()]
        raise ParamsError(f"{path}:\n" + "\n".join(f"  {fault}" for fault in faults)) from None


def _keys(section: type[Section]) -> str:
    return ", ".join(section.model_fields)


def _fault(name: str, section: type[Section], fault: dict[str, Any]) -> str:
    key = ".".join([name, *(str(part) for part in fault["loc"] if part != "[key]")])
    if fault["type"] == "missing":
        return f"{key}: missing; add it"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key; expected one of {_keys(section)}"
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    hint = ""
    if isinstance(fault["input"], str) and fault["type"] in ("float_type", "int_type"):
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)"
    if fault["type"] == "string_type" and not isinstance(fault["input"], (dict, list)):
        hint = " (put it in quotes: otherwise, YAML does not read 007, true and no as text)"
    return f"{key}: expected {expected}; found {fault['input']!r}{hint}"

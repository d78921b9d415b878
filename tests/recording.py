"""Record which params a script reads while it runs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from vitrine import params
from vitrine.params import Section, read_section


def keys_read(script: Path, *arguments: str) -> set[str]:
    """Run a script like `python SCRIPT ARGUMENTS`, and list the keys that its code reads, as file:section.key.

    Only reading a field as an attribute counts. Validating, copying, dumping or passing on a section does not.
    """
    read: set[str] = set()
    places: dict[type[Section], str] = {}

    def recording_read(name: str, section: type[Section], path: Path = Path("params.yaml")) -> Section:
        values = read_section(name, section, path)
        assert section not in places, f"{script} reads two sections as {section}"
        places[section] = f"{path.as_posix()}:{name}"
        return values

    def recording_get(self: Section, name: str) -> Any:
        kind = object.__getattribute__(self, "__class__")
        if kind in places and name in kind.model_fields:
            read.add(f"{places[kind]}.{name}")
        return object.__getattribute__(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(params, "read_section", recording_read)
        patch.setattr(Section, "__getattribute__", recording_get, raising=False)
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script), run_name="__main__")
    return read

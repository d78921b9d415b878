"""The recorder lists the params that a script reads, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from recording import keys_read

SCRIPT = """\
import sys
from pathlib import Path
from typing import Self
from pydantic import model_validator
from vitrine.params import Section, read_section

class Sizes(Section):
    width: int
    height: int
    depth: int
    passed_on: int

    @model_validator(mode="after")
    def check(self) -> Self:
        assert self.width and self.height and self.depth
        return self

    @property
    def area(self) -> int:
        return self.width * self.height

sizes = read_section("sizes", Sizes)
sizes.model_dump(), repr(sizes), sizes == sizes.model_copy()
if sys.argv[1] == "all":
    sizes.model_copy(update={"passed_on": 2}).depth
sizes.area
"""


def test_only_reading_a_key_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("sizes: {width: 1, height: 2, depth: 3, passed_on: 4}\n", encoding="utf-8")
    Path("script.py").write_text(SCRIPT, encoding="utf-8")
    assert keys_read(Path("script.py"), "some") == {"params.yaml:sizes.width", "params.yaml:sizes.height"}
    assert keys_read(Path("script.py"), "all") == {f"params.yaml:sizes.{key}" for key in ("width", "height", "depth")}

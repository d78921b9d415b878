"""Heat maps are shown only where they beat every control, and look the same on light and on colored photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from vitrine.artifacts import ArtifactError
from vitrine.inference.heatmaps import (
    ExplanationError,
    Verdict,
    check_shown,
    colorize,
    overlay,
    read_verdicts,
    reason_hidden,
    write_verdicts,
)
from vitrine.inference.runtimes import checkpoint_digest

BEATEN = {"random": (0.2, 0.1, 0.3), "gaussian": (0.1, 0.01, 0.2), "random_network": (0.3, 0.2, 0.4)}


@pytest.mark.parametrize(
    ("changes", "unbeaten"),
    [({}, []), ({"gaussian": (0.1, -0.01, 0.2)}, ["gaussian"]), ({"random": (0.1, 0.0, 0.2)}, ["random"])],
)
def test_every_control_has_to_be_beaten(changes: dict[str, tuple[float, float, float]], unbeaten: list[str]) -> None:
    verdict = Verdict("abc", {**BEATEN, **changes})
    assert verdict.unbeaten == unbeaten and verdict.shown == (not unbeaten)
    assert not Verdict("abc", {}).shown


def test_a_reason_names_the_unbeaten_controls_or_that_nothing_was_measured(
    project_folder: Path, tmp_path: Path
) -> None:
    models = shutil.copytree(project_folder / "models", tmp_path / "models")
    assert "has not been measured" in str(reason_hidden("deit", "class", models))
    digest = checkpoint_digest("deit", models)
    verdicts = {
        ("deit", "class"): Verdict(digest, BEATEN),
        ("deit", "color"): Verdict(digest, {**BEATEN, "gaussian": (0, -1, 1), "random": (0, -1, 1)}),
        ("deit", "material"): Verdict("of other models", BEATEN),
    }
    write_verdicts(models / "explanations.json", verdicts)
    assert read_verdicts(models) == verdicts
    assert reason_hidden("deit", "class", models) is None
    check_shown("deit", "class", models)
    with pytest.raises(
        ExplanationError, match=r"deit, color: .* more faithful than random maps or a spot in the center"
    ):
        check_shown("deit", "color", models)
    assert "of these models have not been measured" in str(reason_hidden("deit", "material", models))
    assert "of these models have not been measured" in str(reason_hidden("mobilevit", "class", models))
    (models / "explanations.json").write_text('{"deit": 1}')
    with pytest.raises(ArtifactError, match="not a valid verdict file"):
        reason_hidden("deit", "class", models)


def test_hot_regions_are_lighter_than_cold_ones_which_show_the_photograph_in_gray() -> None:
    lightness = colorize(np.linspace(0, 1, 9)[None])[0].astype(float) @ (0.3, 0.59, 0.11)
    assert (np.diff(lightness) > 0).all()
    photo = np.zeros((8, 12, 3), np.uint8)
    photo[..., 2] = 200
    heat = np.zeros((4, 6))
    heat[:, 5] = 1
    drawn = overlay(photo, heat).astype(int)
    assert drawn.shape == (8, 12, 3) and len(set(drawn[0, 0])) == 1  # gray
    assert drawn[:, -1, 0].min() > drawn[:, 0, 0].max() + 100

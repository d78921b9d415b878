"""Compare the weights of the best epoch with the moving average by grouped cross-validation, to choose the default.

Uses the train and val photographs of data/splits in five folds of whole items, two of which are evaluated. The next
fold is val, on which the best epoch is selected; the others are train. Both checkpoints come from the same run, so
the comparison is paired. Finished folds are kept in .resume/, so a killed run resumes. Prints a Markdown table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrine.artifacts import read_json, read_npy, read_npz, write_npz
from vitrine.data.splits import assign_folds
from vitrine.evaluation.scoring import compare, number_items
from vitrine.labels import LabelSpace, read_photo_table
from vitrine.learning.strategies import DeitParams, MobilevitParams, train
from vitrine.learning.training import TrainingData, TrainingParams
from vitrine.params import read_section
from vitrine.photos import Decoding

FOLDER = Path("data/splits")
SECTIONS: dict[str, type[DeitParams] | type[MobilevitParams]] = {"deit": DeitParams, "mobilevit": MobilevitParams}
NUM_FOLDS, SEED = 5, 13
NUM_JUDGED = 2
EPOCHS_FRACTION = 0.5
"""Fraction of the epochs in params.yaml, as in crossval/params.yaml, to halve the time."""


def logits_of_fold(name: str, data: TrainingData, judged: NDArray[np.int64], fold: int) -> dict[str, NDArray]:
    """Train one model and return logits of the evaluated photographs: `best.TASK`, `ema.TASK` (photos, labels)."""
    cache = Path(".resume") / f"checkpoints_{name}_{fold}.npz"
    if cache.is_file():
        return read_npz(cache)
    strategy = read_section(f"train_{name}", SECTIONS[name]).strategy().shortened(EPOCHS_FRACTION)
    params = read_section("training", TrainingParams).model_copy(update={"checkpoint": "best"})
    decoding, resume = Decoding(**read_json(FOLDER / "decoding.json")), cache.with_suffix(".safetensors")
    fitted = train(strategy, data, decoding, params, resume)
    model = fitted.model
    result = {f"best.{task}": logits for task, logits in model.infer(data.photos[judged])[0].items()}
    model.load_state_dict(fitted.average)
    result |= {f"ema.{task}": logits for task, logits in model.infer(data.photos[judged])[0].items()}
    write_npz(cache, result)
    resume.unlink(missing_ok=True)
    return result


def main() -> None:
    table, photos = read_photo_table(FOLDER / "photos.csv"), read_npy(FOLDER / "photos.npy")
    label_space = LabelSpace.from_json(read_json(FOLDER / "label_space.json"))
    codes, known = label_space.encode(table), np.flatnonzero(table["split"] != "test")
    items = number_items(table["instance_id"])[known]
    folds = assign_folds(table.iloc[known], NUM_FOLDS, SEED)
    logits: dict[str, list[dict[str, NDArray]]] = {name: [] for name in SECTIONS}
    for fold in range(NUM_JUDGED):
        judged, val = known[folds == fold], known[folds == (fold + 1) % NUM_FOLDS]
        data = TrainingData(label_space, photos, codes, np.setdiff1d(known, [*judged, *val]), val)
        for name, parts in logits.items():
            parts.append(logits_of_fold(name, data, judged, fold))
    rows = np.concatenate([np.flatnonzero(folds == fold) for fold in range(NUM_JUDGED)])
    print("| model | task | best | ema | ema minus best |\n| --- | --- | ---: | ---: | ---: |")
    for name, parts in logits.items():
        for task in label_space:
            best, ema = (np.concatenate([part[f"{kind}.{task}"] for part in parts]) for kind in ("best", "ema"))
            true = codes[task][known[rows]]
            right = (f"{100 * (scores.argmax(axis=1) == true)[true >= 0].mean():.1f} %" for scores in (best, ema))
            gain, low, high = (100 * value for value in list(compare(true, ema, best, items[rows]).values())[:3])
            print(f"| {name} | {task} | {' | '.join(right)} | {gain:+.1f} [{low:+.1f}, {high:+.1f}] |")


if __name__ == "__main__":
    main()

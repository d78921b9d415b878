"""Two processes train like one: the same gradients, bit-identical reruns, and one clear error if one dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import toy_distributed as toy
import yaml
from torch import distributed
from torch.nn import functional
from toy_training import SPACE, data, params, strategy

from vitrine.artifacts import read_json, read_npz, write_csv, write_json, write_npy
from vitrine.data.splits import training_table
from vitrine.learning import distributed as together
from vitrine.learning import training
from vitrine.learning.distributed import DistributedError, process_group, run_processes
from vitrine.learning.training import TrainingError, TrainingParams, fit
from vitrine.params import ParamsError, read_section

TESTS = Path(toy.__file__).parent
SEARCH_PATH = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])


def make_project(folder: Path) -> None:
    """Write the outputs of the split stage that training reads."""
    photos = data()
    table = pd.DataFrame(
        {
            "image_path": [f"{row}.png" for row in range(len(photos.photos))],
            "split": np.where(np.isin(np.arange(len(photos.photos)), photos.train), "train", "val"),
            **{task: np.array([*SPACE.labels[task], None])[photos.codes[task]] for task in SPACE},
        }
    )
    splits = folder / "data/splits"
    write_csv(splits / "training.csv", training_table(table, list(SPACE)))
    write_npy(splits / "photos.npy", photos.photos)
    write_json(splits / "label_space.json", SPACE.to_json())
    write_json(splits / "decoding.json", {"photo_size_px": 24, "max_megapixels": 50.0})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder where two processes ran everything that needs no process to be killed."""
    folder = tmp_path_factory.mktemp("two")
    for number in range(2):
        make_project(folder / str(number))
    run_processes(2, toy.exercise, folder)
    return folder


def ends(folder: Path) -> list[dict[str, object]]:
    return [read_json(folder / f"end-{number}.json") for number in range(2)]


# -- several processes --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", toy.CASES)
def test_gradients_equal_those_of_one_process_over_the_whole_batch(two: Path, name: str) -> None:
    found = read_npz(two / f"gradients-{list(toy.CASES).index(name)}.npz")
    expected = toy.gradients(*toy.CASES[name])
    # A tiny batch through 30 normalizations: even in one process, float32 differs by 8e-5 from float64.
    tolerance = 2e-4 if name == "batch normalization" else 1e-5
    assert set(found) == set(expected)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, atol=tolerance, err_msg=key)
    assert max(np.abs(each).max() for key, each in expected.items() if key.endswith("weight")) > 0.01


@pytest.mark.slow
def test_both_processes_end_with_the_same_weights_and_their_own_random_numbers(two: Path) -> None:
    first, second = ends(two)
    assert (first["digest"], first["epoch"]) == (second["digest"], second["epoch"])
    assert first["seed"] != second["seed"]


@pytest.mark.slow
def test_only_the_first_process_writes(two: Path) -> None:
    assert [path.name for path in two.glob("state-*")] == ["state-0"]
    first, second = (
        {path.relative_to(two / number).as_posix() for path in (two / number).rglob("*") if path.is_file()}
        for number in ("0", "1")
    )
    assert second == {path for path in first if path.startswith("data/")}
    outputs = {"models/toy/model.json", "models/toy/model.safetensors", "metrics/train/toy.json"}
    assert first - second == {*outputs, "plots/train_toy/history.csv"}


@pytest.mark.slow
def test_a_run_in_which_processes_were_killed_ends_in_the_same_bits(two: Path, tmp_path: Path) -> None:
    for victim, steps in ((1, 6), (0, 4)):  # in the second epoch of four, then in the third
        with pytest.raises(DistributedError, match=rf"process {victim} of 2 was killed by SIGKILL. Run again"):
            run_processes(2, toy.fit_once, tmp_path, victim, steps)
        assert [path.name for path in tmp_path.iterdir()] == ["state-0"]
    (tmp_path / "state-1").write_text("only the first process reads a state")
    run_processes(2, toy.fit_once, tmp_path)
    assert ends(tmp_path) == ends(two)


@pytest.mark.slow
def test_torchrun_starts_the_same_training(two: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": SEARCH_PATH,
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // 2)),
    }
    subprocess.run([*command, toy.__file__, str(tmp_path)], env=environment, check=True, capture_output=True)
    assert ends(tmp_path) == ends(two)


@pytest.mark.slow
def test_processes_exit_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = "import toy_distributed as toy; toy.start_and_sleep(PATH)".replace("PATH", repr(str(tmp_path)))
    starter = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": SEARCH_PATH})
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    starter.kill()
    starter.wait()
    wait_until(lambda: not any(Path(f"/proc/{path.name}/fd/0").is_symlink() for path in tmp_path.iterdir()))


def wait_until(done: Callable[[], bool], seconds: float = 120) -> None:
    start = time.monotonic()
    while not done():
        assert time.monotonic() - start < seconds
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("fault", r"\Athe photographs are gone\Z"),
        ("bug", r"\ATraceback(.|\n)*ZeroDivisionError: a bug"),
        ("stuck", r"\Aprocess 0 of 2: another process exited or did not respond(.|\n)*Timed out"),
    ],
)
def test_a_failing_process_stops_all_with_one_error(how: str, message: str) -> None:
    with pytest.raises(DistributedError, match=message):
        run_processes(2, toy.fail, how)


# -- one process --------------------------------------------------------------------------------------------------


def test_one_process_needs_no_group() -> None:
    states = []
    run_processes(1, lambda: states.append(distributed.is_initialized()))
    assert states == [False]


def test_a_group_of_one_process_changes_nothing(tmp_path: Path) -> None:
    alone = fit(toy.network(), data(), strategy(), params(), tmp_path / "alone")
    with process_group(0, 1, 0, f"file://{tmp_path}/meeting"):
        grouped = fit(toy.network(), data(), strategy(), params(), tmp_path / "grouped")
    assert toy.digest(alone) == toy.digest(grouped)
    assert not distributed.is_initialized()


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 4)])
@pytest.mark.parametrize("learned", [True, False])
def test_synchronized_batch_normalization_equals_pytorchs_in_one_process(shape: Sequence[int], learned: bool) -> None:
    torch.manual_seed(1)
    inputs = (3 + 2 * torch.randn(*shape)).requires_grad_()
    weight, bias = (torch.randn(3).requires_grad_() if learned else None for _ in range(2))
    results = []
    for context in (together.synchronized_batch_norm(), together._SynchronizedBatchNorm()):
        statistics = torch.zeros(3), torch.ones(3)
        with context:
            outputs = functional.batch_norm(inputs, *statistics, weight, bias, training=True, momentum=0.2, eps=1e-3)
        variables = [each for each in (inputs, weight, bias) if each is not None]
        results.append([outputs, *statistics, *torch.autograd.grad(outputs.pow(3).sum(), variables)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_batch_normalization_in_eval_mode_is_unchanged() -> None:
    inputs, statistics = torch.randn(4, 3), (torch.zeros(3), torch.ones(3))
    with together._SynchronizedBatchNorm():
        found = functional.batch_norm(inputs, *statistics)
    assert torch.equal(found, functional.batch_norm(inputs, *statistics))


def test_the_last_batch_is_dropped_if_a_process_would_have_no_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {}
    for num in (1, 3, 4):
        monkeypatch.setattr(training, "num_processes", lambda num=num: num)
        run = training._Run(toy.network(), data(), strategy(), params())
        sizes[num] = [len(batch) for batch in run._batches(np.arange(27))]
    assert sizes == {1: [8, 8, 8, 3], 3: [8, 8, 8, 3], 4: [8, 8, 8]}


# -- wrong numbers of processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "message"), [(0, "greater than or equal to 1; found 0"), (9, "at most batch_size, 8; found 9")]
)
def test_params_with_a_wrong_number_are_an_error(tmp_path: Path, num: int, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"training": {**params().model_dump(), "processes": num}}))
    with pytest.raises(ParamsError, match=f"training.processes: expected {message}"):
        read_section("training", TrainingParams, path)


def test_more_processes_than_photographs_in_a_batch_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "num_processes", lambda: 9)
    with pytest.raises(TrainingError, match=r"training.processes: must be at most 8: .*; got 9"):
        training._Run(toy.network(), data(), strategy(), params())
    with pytest.raises(TrainingError, match=r"training.processes: must be at most 7: .*; got 9"):
        training._Run(toy.network(), data(num_train=7), strategy(), params())


def test_more_processes_than_gpus_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DistributedError, match=r"training.processes: must be at most 2, .*; got 3"):
        run_processes(3, print)

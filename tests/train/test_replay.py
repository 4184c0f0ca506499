"""A poisoned record is found by executing its step again."""

import json
from dataclasses import fields

import jax
import jax.numpy as jnp
import miniature
import numpy as np
import pytest
import tiny_unitoken

from unitoken_jax.config import UserError
from unitoken_jax.models import registry
from unitoken_jax.models.system import System
from unitoken_jax.train import stage
from unitoken_jax.train.components import StageComponents
from unitoken_jax.train.monitor import nonfinite
from unitoken_jax.train.replay import replay


class Poisoned(miniature.Batches):
    """One of sixteen records of every batch; some are poisoned in some field.

    Row r of batch b is the record 16 b + r.
    """

    def __init__(self, poison: dict[int, tuple[str, float]]) -> None:
        super().__init__()
        self._records = poison

    def __next__(self) -> dict[str, np.ndarray]:
        first = self.position
        made = super().__next__()
        for record, (name, value) in self._records.items():
            if first <= record < first + 16:
                made[name][record - first, 0] = value
        return made | {"record": np.arange(first, first + 16, dtype=np.int32)}


def _job(**fields):
    train = {"steps": 6, "batch": 16, "log_every": 1} | fields
    return miniature.job(train=train, checkpoint={"every": 2, "keep": 9})


def _parts(poison=None, system=None) -> StageComponents:
    return StageComponents(system or miniature.system(), Poisoned(poison or {}))


def _train(tmp_path, poison=None, **fields) -> None:
    stage.run(_job(**fields), _parts(poison), tmp_path)


@pytest.mark.parametrize(("devices", "microbatches"), [(1, 1), (8, 2)])
def test_a_record_that_is_not_a_number(tmp_path, devices, microbatches) -> None:
    fields = {"microbatches": microbatches}
    poison = {16 * 4 + 11: ("input", np.nan)}
    _train(tmp_path, poison, **fields)
    mine = jax.devices()[:devices]
    found = replay(_job(**fields), _parts(poison), tmp_path, 5, devices=mine)
    assert 0 < found.start <= 4
    assert found.deviations == ()
    assert found.origins["metrics/loss"].startswith(
        "batch/input, float32[16, 16]: 1 of"
    )
    assert found.gradients == ["first/kernel", "second/kernel"]
    assert found.rows == [11]
    assert found.records == ["record-75"]
    assert found.lines()[-1] == "to blame: row 11; records: record-75"
    kept = json.loads((tmp_path / "replay-5.json").read_text())
    assert kept["records"] == ["record-75"]
    assert kept["sentences"] == found.lines()


def test_a_record_that_overflows_names_the_operation(tmp_path) -> None:
    poison = {16 * 2 + 3: ("output", 1e30), 16 * 2 + 9: ("output", -1e25)}
    _train(tmp_path, poison)
    found = replay(_job(), _parts(poison), tmp_path, 3)
    cause = found.origins["metrics/loss"]
    assert "(tests/train/miniature.py:" in cause
    assert "is inf" in cause
    assert found.rows == [3, 9]
    assert found.records == ["record-35", "record-41"]


def test_a_parameter_that_is_not_finite_is_named_and_no_record(tmp_path) -> None:
    system = miniature.system()

    class Broken(System):
        def init(self, rng):
            variables = super().init(rng)
            kernel = variables["params"]["still"]["kernel"]
            value = kernel.value.at[0, 3].set(jnp.inf)
            variables["params"]["still"]["kernel"] = kernel.replace(value=value)
            return variables

    changed = Broken(**{f.name: getattr(system, f.name) for f in fields(system)})
    (tmp_path / "flight").mkdir()  # of a run that ended before its first checkpoint
    found = replay(_job(), _parts(system=changed), tmp_path, 1)
    assert found.start == 0
    assert found.origins["metrics/loss"].startswith("parameters/still/kernel, float32")
    assert found.rows == []


def test_a_healthy_step_is_called_so(tmp_path) -> None:
    _train(tmp_path)
    found = replay(_job(), _parts(), tmp_path, 6)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert found.loss == pytest.approx(json.loads(rows[5])["loss"], rel=1e-6)
    assert found.lines()[1:] == ["everything in this step is finite"]


def test_other_data_than_the_run_had_is_noticed(tmp_path) -> None:
    _train(tmp_path)
    found = replay(_job(), _parts({70: ("input", 3.0)}), tmp_path, 5)
    assert found.deviations[0].startswith("the input of step 5 on process 0 is not")
    assert found.deviations[1].startswith("the loss of step 5 was")


def test_a_step_beyond_the_end_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="has steps 1 to 6"):
        replay(_job(), _parts(), tmp_path, 7)


def test_a_directory_without_a_run_is_refused(tmp_path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="neither a checkpoint nor a flight record"):
            replay(_job(), _parts(), directory, 3)
    assert not list(tmp_path.iterdir())


class Pictures(miniature.Batches):
    """Rows for a tiny UniToken; one record has a picture that is not finite.

    Row r of batch b is the record 8 b + r.
    """

    @property
    def batch_spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of every array of a batch."""
        arrays = tiny_unitoken.batch(0)
        arrays["pixels"] = arrays["pixels"].astype(np.float32)
        return {name: (array.shape, array.dtype) for name, array in arrays.items()}

    def __next__(self) -> dict[str, np.ndarray]:
        first, rows = self.position, tiny_unitoken.batch(self.position // 8)
        self.position += 8
        rows["pixels"] = rows["pixels"].astype(np.float32) / 255
        if first == 16:
            rows["pixels"][5, 0, 2, 3, 1] = np.nan
        return rows | {"record": np.arange(first, first + 8, dtype=np.int32)}


def _unitoken() -> tuple:
    model = tiny_unitoken.MODEL
    train = {"steps": 4, "batch": 8, "log_every": 1}
    groups = {"all": {"pattern": ".*"}}
    optimizer = {"learning_rate": 1e-3, "groups": groups}
    job = miniature.job(model=model, train=train, optimizer=optimizer)
    return job, StageComponents(registry.build(model), Pictures())


@pytest.mark.slow
def test_a_poisoned_picture_of_unitoken(tmp_path) -> None:
    """Its pixels are named, and the record; the step of the run was skipped."""
    stage.run(*_unitoken(), tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["skipped"] for line in lines] == [0, 0, 1, 1]
    found = replay(*_unitoken(), tmp_path, 3)
    assert found.deviations == ()
    cause = "batch/pixels, float32[8, 1, 8, 8, 3]: 1 of 1,536 elements are not finite"
    assert found.origins["metrics/loss"].startswith(cause)
    assert found.records == ["record-21"]


@pytest.mark.slow
def test_the_layer_of_a_stack_is_named() -> None:
    """A kernel that is finite, but overflows in the second layer."""
    _, parts = _unitoken()
    params = jax.jit(parts.system.init_params)(jax.random.key(0))
    gate = params["decoder"]["layers"]["mlp"]["gate"]
    gate["kernel"] = gate["kernel"].at[1].set(3e38)
    batch = {k: x for k, x in next(parts.batches).items() if k != "record"}

    def loss(inputs):
        key = jax.random.key(1)
        return parts.system.loss(inputs["parameters"], inputs["batch"], key)[0]

    _, found = nonfinite.find(loss, {"parameters": params, "batch": batch})
    (origin,) = found.values()
    assert "[1]/" in origin.name
    assert origin.name.endswith("mlp/gate: dot_general")
    assert origin.line.startswith("unitoken_jax/layers/linear.py:")

"""The SLURM job: submitted once, queued again when it was only preempted."""

import pytest
from fake_cloud import FakeCloud

from launch import slurm

TRAIN = ["--", "--config=c.py", "--workdir=runs/a"]


def job(tmp_path, *options: str) -> str:
    """The job's own script, as sbatch gets it."""
    cloud = FakeCloud(tmp_path)
    cloud.decide("sbatch", 'cat > "$FOLDER/job"')
    text, _ = slurm.render([*options, *TRAIN])
    assert cloud.run(text) == 0
    return (tmp_path / "job").read_text()


def test_options_become_directives(tmp_path) -> None:
    text = job(
        tmp_path, "--name=n", "--nodes=3", "--gpus=8", "--time=1:00:00", "--wait"
    )
    directives = [line[8:] for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert {"--nodes=3", "--gpus-per-node=8", "--ntasks-per-node=1"} <= set(directives)
    assert {"--job-name=n", "--time=1:00:00", "--requeue"} <= set(directives)
    assert FakeCloud(tmp_path).calls == ["sbatch --wait"]


@pytest.mark.parametrize(("code", "queued"), [(0, False), (75, True), (1, False)])
def test_a_preempted_job_is_queued_again(tmp_path, code, queued) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").touch()
    secrets = tmp_path / "my.env"
    secrets.write_text("TOKEN=hidden\n")
    options = [f"--environment={tmp_path}", f"--env_file={secrets}", "--nodes=2"]
    text = job(tmp_path, *options)
    assert "hidden" not in text
    cloud = FakeCloud(tmp_path)
    cloud.decide("srun", f'echo "token $TOKEN" >> "$FOLDER/calls"\nexit {code}')
    assert cloud.run(f"export SLURM_JOB_ID=17\n{text}") == code
    calls = cloud.calls
    assert calls[1].endswith("--workdir=runs/a --coordinator=auto")
    assert "python -m launch.worker -- python -m unitoken_jax.train" in calls[1]
    assert calls[2] == "token hidden"
    assert calls[3:] == (["scontrol requeue 17"] if queued else [])

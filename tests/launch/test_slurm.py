"""The SLURM job: submitted once, queued again when it was only preempted."""

import re
import signal
import tempfile
from pathlib import Path

import pytest
from fake_cloud import FakeCloud
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import slurm
from launch.signals import PREEMPTED
from unitoken_jax.errors import REFUSED, UserError

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
    (call,) = FakeCloud(tmp_path).calls
    assert call.startswith("sbatch --wait --comment=launch-")


@pytest.mark.parametrize(
    ("code", "queued"),
    [(0, False), (75, True), (143, True), (1, False), (REFUSED, False)],
)
def test_a_preempted_job_is_queued_again(tmp_path, code, queued) -> None:
    secrets = environment(tmp_path)
    secrets.write_text('# of the run\n\nTOKEN=it\'s $(hidden) \\ "here"')
    options = [f"--environment={tmp_path}", f"--env_file={secrets}", "--nodes=2"]
    text = job(tmp_path, *options)
    assert "hidden" not in text
    cloud = FakeCloud(tmp_path)
    cloud.decide("srun", f'echo "token $TOKEN" >> "$FOLDER/calls"\nexit {code}')
    assert cloud.run(f"export SLURM_JOB_ID=17\n{text}") == code
    calls = cloud.calls
    assert calls[1].endswith("--workdir=runs/a --coordinator=auto")
    assert "python -m launch.worker -- python -m unitoken_jax.train" in calls[1]
    # A process that has saved does not end the others, which may still save.
    assert "--kill-on-bad-exit=0 --wait=0" in calls[1]
    assert calls[2] == 'token it\'s $(hidden) \\ "here"'
    assert calls[3:] == (["scontrol requeue 17"] if queued else [])


def environment(folder: Path) -> Path:
    """Make an empty virtual environment; return where variables may stand."""
    (folder / "bin").mkdir()
    (folder / "bin" / "activate").touch()
    return folder / "my.env"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (None, "cannot read"),
        ("A=1\nB", "line 2 of .*my.env is not NAME=VALUE"),
        ("A=1\nB-C=hidden", "line 2 of .*my.env is not NAME=VALUE"),
    ],
)
def test_wrong_variables_end_the_job(tmp_path, capfd, variables, sentence) -> None:
    file = environment(tmp_path)
    if variables:
        file.write_text(variables)
    text = job(tmp_path, f"--environment={tmp_path}", f"--env_file={file}")
    cloud = FakeCloud(tmp_path)
    assert cloud.run(text) == REFUSED
    said = capfd.readouterr().err
    assert re.fullmatch(f"error: .*{sentence}.*\n", said)
    assert "hidden" not in said
    assert cloud.calls == ["sbatch "]


def test_a_missing_environment_ends_the_job(tmp_path, capfd) -> None:
    text = job(tmp_path, f"--environment={tmp_path / 'none'}")
    cloud = FakeCloud(tmp_path)
    assert cloud.run(text) == REFUSED
    assert "none/bin/activate: set --environment.\n" in capfd.readouterr().err
    assert cloud.calls == ["sbatch "]


def test_directives_are_quoted_and_of_one_line() -> None:
    text, _ = slurm.render(["--name=my run", "--logs=my logs/%x", *TRAIN])
    assert "#SBATCH '--job-name=my run'\n" in text
    assert "#SBATCH '--output=my logs/%x'\n" in text
    with pytest.raises(UserError, match="has a line break"):
        slurm.render(["--partition=a\n#SBATCH --exclusive", *TRAIN])


def directives(text: str) -> list[str]:
    """The options in a job's script, as sbatch reads them (src/sbatch/opt.c)."""
    found = []
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            found += slurm.words_of(line.removeprefix("#SBATCH"))
        elif line.strip() and not line.startswith("#"):
            break
    return found


def test_whose_job_it_is_and_where(tmp_path) -> None:
    options = ["--account=a b", "--qos=high", "--constraint=[x|y]", "--reservation=r"]
    found = directives(job(tmp_path, *options))
    assert {*options} <= {*found}


def test_further_lines(tmp_path) -> None:
    text = job(
        tmp_path,
        *(
            "--sbatch",
            "#SBATCH --exclusive",
            "--sbatch=--mem 0",
            "--sbatch",
            "-w 'a b'",
        ),
        *("--sbatch=#SBATCH --mail-type=END  # me", "--wait"),
    )
    assert directives(text)[-6:] == [
        *("--exclusive", "--mem", "0", "-w", "a b", "--mail-type=END")
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("#SBATCH", "is no line of sbatch"),
        ("# --exclusive", "is no line of sbatch"),
        ("exclusive", "is no line of sbatch"),
        ("--mem=0 4", "is no line of sbatch"),
        ("#SBATCH hetjob", "is no line of sbatch"),
        ("--comment 'a", "a quote ' is not closed"),
        ("--mem=0\n#SBATCH --no-requeue", "has a line break"),
        ("--nodes=2", "--nodes is set by the launcher; use --nodes"),
        ("-N2", "-N is set by the launcher; use --nodes"),
        ("--mem=0 --no-requeue", "--no-requeue is set by the launcher"),
        ("--signal=KILL", "--signal is set by the launcher"),
    ],
)
def test_lines_that_are_none(line, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        slurm.render([f"--sbatch={line}", *TRAIN])


@pytest.mark.parametrize(
    ("options", "value"),
    [([], "cuda"), (["--platform=cpu"], "cpu"), (["--platform=any"], "")],
)
def test_jax_uses_gpus_or_fails(tmp_path, options, value) -> None:
    """Whatever the file of variables says."""
    file = environment(tmp_path)
    file.write_text("JAX_PLATFORMS=tpu\n")
    options = [f"--environment={tmp_path}", f"--env_file={file}", *options]
    text = job(tmp_path, *options)
    cloud = FakeCloud(tmp_path)
    cloud.decide("srun", 'echo "platforms $JAX_PLATFORMS" >> "$FOLDER/calls"')
    assert cloud.run(text) == 0
    assert cloud.calls[-1] == f"platforms {value}"


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)
LINE = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs", "Cc", "Zl", "Zp"]),
    min_size=1,
)


@given(option=LINE)
def test_sbatch_reads_options_as_they_are(option) -> None:
    option = f"--job-name={option}"
    assert directives(slurm.directive(option)) == [option]


@settings(max_examples=10, deadline=None)
@given(words=st.lists(TEXT), name=LINE)
def test_values_arrive_as_they_are(words, name) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        environment(folder)
        cloud = FakeCloud(folder)
        cloud.decide("sbatch", 'cat > "$FOLDER/job"')
        cloud.decide("srun", 'printf "%s\\0" "$@" > "$FOLDER/words"')
        options = [f"--environment={folder}", f"--account={name}", f"--logs={name}"]
        text, _ = slurm.render([*options, "--", *words, "-"])
        assert cloud.run(text) == 0
        text = (folder / "job").read_bytes().decode()
        assert cloud.run(text) == 0
        given = (folder / "words").read_bytes().decode().split("\0")[:-1]
    assert {f"--account={name}", f"--output={name}"} <= {*directives(text)}
    assert given[-len(words) - 1 :] == [*words, "-"]


@pytest.mark.parametrize("time", ["9", "9:59", "0:09:59", "0-0:9"])
def test_a_time_in_which_nothing_is_saved(time) -> None:
    """Such a job would be queued again for ever."""
    with pytest.raises(UserError, match=f"--time: {time} is less than 10 minutes"):
        slurm.render([f"--time={time}", *TRAIN])


@pytest.mark.parametrize("time", ["1:2:3:4", "-5", "soon", "1h", "9" * 30, "1-"])
def test_a_time_that_sbatch_does_not_know(time) -> None:
    with pytest.raises(UserError, match="is no limit of sbatch: give MINUTES"):
        slurm.render([f"--time={time}", *TRAIN])


@pytest.mark.parametrize("time", ["10", "10:00", "0:10:00", "1-0", "0", "UNLIMITED"])
def test_a_time_that_may_do(time) -> None:
    assert f"#SBATCH --time={time}\n" in slurm.render([f"--time={time}", *TRAIN])[0]


@pytest.mark.parametrize("code", [0, 1])
def test_waiting_ends_with_the_code_of_the_job(tmp_path, capfd, code) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide("sbatch", f"echo Submitted batch job 17; exit {code}")
    assert cloud.run(slurm.render(["--wait", *TRAIN])[0]) == code
    assert capfd.readouterr().out == "Submitted batch job 17\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asking_the_launcher_asks_the_job(tmp_path, number) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide(
        "sbatch",
        'echo "17 ${2#--comment=}" > "$FOLDER/queue"\n'
        ': > "$FOLDER/up"\n'
        'until [ -f "$FOLDER/told" ]; do /bin/sleep 0.02; done\n'
        'echo saved >> "$FOLDER/calls"\n'
        "exit 75\n",
    )
    cloud.decide("scancel", '[ "$1" != --signal=TERM ] || touch "$FOLDER/told"')
    cloud.decide("squeue", 'echo 16 other; cat "$FOLDER/queue"; echo 18')
    code, said = cloud.interrupt("slurm", ["--wait", *TRAIN], number)
    assert code == PREEMPTED
    if number != signal.SIGHUP:
        assert said == "job 17 is asked to end; the same command goes on\n"
    assert cloud.calls[2:] == [
        "scontrol update JobId=17 Requeue=0",
        "scancel --state=PENDING 17",
        "scancel --signal=TERM 17",
        "saved",
    ]

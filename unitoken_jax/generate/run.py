"""What the command does: draws, answers, or both for a whole file of requests."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from data_pipelines.errors import DataError
from unitoken_jax.config import UserError
from unitoken_jax.errors import FailedError
from unitoken_jax.generate import image_files, requests, worker
from unitoken_jax.generate.load import load
from unitoken_jax.generate.sampler import Sampler
from unitoken_jax.runtime.environment import (
    COMPILE_CACHE,
    let_cpu_devices_meet,
    use_compile_cache,
)
from unitoken_jax.train.experiment import experiment_of


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked of the command, as its flags say.

    Attributes:
        workdir: Of the run.
        config: Of the experiment; None is the one that the run keeps.
        prompt: What to draw, or the question about `image`.
        image: The image to ask about.
        output: The drawing, or the answers to `input`.
        input: Many requests, see `requests.read`.
        count: Drawings, in one grid.
        seed: Of the first drawing.
        guidance: See `SamplingParams`, as of the following; None is as the config says.
        top_k: None is as the config says.
        top_p: None is as the config says.
        temperature: None is as the config says.
        compile_cache: Directory of compiled programs; '' is none.
    """

    workdir: Path
    config: Mapping[str, object] | None = None
    prompt: str | None = None
    image: Path | None = None
    output: Path | None = None
    input: Path | None = None
    count: int = 1
    seed: int = 0
    guidance: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    compile_cache: str = COMPILE_CACHE

    def check(self) -> None:
        """Refuse options that do not go together, before anything is loaded.

        Raises:
            UserError: They do not.
        """
        if self.input:
            self._check_input()
        elif not (self.prompt or "").strip():
            raise UserError(
                "nothing to do: give --prompt TEXT --output FILE.png to draw, --image "
                "FILE --prompt QUESTION to ask, or --input FILE.jsonl --output "
                "FILE.jsonl."
            )
        elif self.image and self.output:
            raise UserError("an answer is printed; leave --output out, or use --input.")
        elif not self.image:
            if not self.output:
                raise UserError("a drawing needs --output FILE.png.")
            image_files.check_target(self.output)
        if self.count > 1 and (self.input or self.image):
            raise UserError("--count is of drawings; leave it out.")
        try:
            (self.prompt or "").encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"--prompt is not text ({error}); write it again."
            ) from error

    def _check_input(self) -> None:
        if self.prompt is not None or self.image:
            raise UserError("--input goes without --prompt and --image.")
        if not self.output:
            raise UserError("--input needs --output FILE.jsonl for the answers.")
        image_files.check_file(self.output)


def run(options: Options) -> None:
    """Draw, answer, or do a file of requests.

    Args:
        options: What is asked.

    Raises:
        UserError: It cannot be done, or not all of it.
    """
    options.check()
    experiment = experiment_of(options.config, options.workdir)
    image = image_files.read(options.image) if options.image else None
    asked: Sequence[requests.Request | requests.Refusal] = []
    if options.input and options.output:
        asked = requests.read(options.input, options.output, options.seed)
        refused = [r.answer() for r in asked if isinstance(r, requests.Refusal)]
        if len(refused) == len(asked):
            requests.write(options.output, refused)
            return report(refused, options.output)
    let_cpu_devices_meet()
    use_compile_cache(options.compile_cache)
    names = ("guidance", "top_k", "top_p", "temperature")
    changes = {name: getattr(options, name) for name in names}
    sampler = load(options.workdir, experiment, **changes)
    try:
        if asked and options.output:
            answer_file(sampler, asked, options.output)
        elif image is not None:
            inputs = sampler.prompts.view(image)
            print(sampler.answer([inputs], [options.prompt or ""])[0])
        else:
            draw_grid(sampler, options)
            print(options.output)
    except DataError as error:
        raise UserError(f"{error}.") from error


def draw_grid(sampler: Sampler, options: Options) -> None:
    """Draw a prompt `count` times with consecutive seeds into one image."""
    count, prompt, output = options.count, options.prompt, options.output
    assert prompt is not None
    assert output is not None
    with tqdm(total=count, desc="drawing", unit="picture", disable=None) as bar:
        seeds = range(options.seed, options.seed + count)
        drawn = sampler.draw([prompt] * count, seeds, bar.update)
    image_files.save(output, image_files.grid(drawn))


def answer_file(
    sampler: Sampler,
    asked: Sequence[requests.Request | requests.Refusal],
    output: Path,
) -> None:
    """Do the requests of a file and write the answers, also of what is done till then.

    Raises:
        UserError: Some could not be done, or the answers cannot be written.
    """
    answers = worker.do_all(sampler, asked, functools.partial(requests.write, output))
    report(answers, output)


def report(answers: Sequence[Mapping[str, object]], output: Path) -> None:
    """Say how many requests are done.

    Raises:
        FailedError: Some are not.
    """
    failed = sum("error" in answer for answer in answers)
    print(f"{len(answers) - failed} of {len(answers)} done: {output}")
    if failed:
        raise FailedError(
            f"{failed} of {len(answers)} requests could not be done; their 'error' in "
            f"{output} says why."
        )

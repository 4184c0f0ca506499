"""A made-up run directory with everything a finished chain leaves behind.

    python tests/report/example_run.py DIR      writes one to look at in a browser

Without an archive of pictures it draws colored shapes.
"""

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

START = 1_795_000_000.0
STAGES = {
    # steps, seconds, first and last loss, tokens (or pictures) a step, model kind
    "tokenizer": (900, 240, 0.62, 0.11, None, "vqgan"),
    "siglip": (700, 95, 9.2, 2.3, None, "siglip"),
    "base": (1200, 310, 7.4, 2.15, 4096, "unitoken"),
    "stage1": (300, 80, 3.9, 2.05, 4096, "unitoken"),
    "stage2": (900, 330, 2.3, 1.62, 4096, "unitoken"),
}
PROMPTS = (
    "a red heart",
    "grinning face with big eyes",
    "flag: Norway",
    "two green leaves and one blue umbrella, side by side",
    "cat face",
    "snowman without snow",
)


def write_run(folder: Path, archive: Path | None = None, seed: int = 0) -> Path:
    """Write a run into `folder` (made if missing) and return it."""
    rng = np.random.default_rng(seed)
    pictures = _pictures(archive, rng)
    start = START
    for name, values in STAGES.items():
        steps, seconds, *_, kind = values
        stage = folder / name
        (stage / "samples").mkdir(parents=True)
        metrics = _metrics(rng, start, values)
        lines = [json.dumps(line) for line in metrics]
        (stage / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        start += seconds + 20
        _write_json(stage / "config.json", _job(name, kind, steps))
        _write_json(stage / "environment.json", _environment(start))
        if kind != "siglip":
            sheet = Image.new("RGB", (8 * 66, 2 * 66), "white")
            for i in range(16):
                sheet.paste(next(pictures), (66 * (i % 8), 66 * (i // 8)))
            for step in (steps // 2, steps):
                sheet.save(stage / "samples" / f"reconstructions-{step:07d}.png")
    found = _evaluation(folder, pictures, rng)
    _write_json(folder / "evaluation" / "default.json", found)
    changes = ["evaluation.understanding.questions=200", "generation.guidance=5.0"]
    part = {"accuracy/all": found["understanding"]["measures"]["accuracy/all"]}
    _write_json(
        folder / "evaluation" / "understanding.questions=200.json",
        {
            "of": {"name": "understanding.questions=200", "changes": changes},
            "understanding": {"measures": part, "samples": {}},
        },
    )
    return folder


def _metrics(rng, start, stage) -> Iterator[dict]:
    steps, seconds, first, last, tokens, _ = stage
    for step in range(10, steps + 1, 10):
        done = step / steps
        loss = last + (first - last) * np.exp(-6 * done)
        loss *= 1 + 0.06 * rng.normal()
        line = {"step": step, "time": start + seconds * done, "loss": loss}
        if tokens:
            line |= {
                "cross_entropy": loss * 0.98,
                "text_loss": loss * 0.5,
                "image_loss": loss * 1.4,
                "z_loss": 0.4 * np.exp(-9 * done),
                "text_accuracy": 1 - np.exp(-3 * done) * 0.9,
                "tokens_per_second": tokens * steps / seconds,
            }
        line |= {
            "learning_rate": 1e-3 * min(1.0, 8 * done) * (1 + np.cos(np.pi * done)) / 2,
            "grad_norm": np.exp(rng.normal() * 0.4),
            "skipped": 3 * int(done > 0.5 and tokens is not None),
            "steps_per_second": steps / seconds * (1 + 0.03 * rng.normal()),
            "data_wait": 0.04,
            "memory_bytes": int((1.1 + 0.3 * done) * 2**30),
        }
        yield {
            k: float(v) if isinstance(v, np.floating) else v for k, v in line.items()
        }


def _job(name: str, kind: str, steps: int) -> dict:
    init = {
        "stage1": {"decoder": "base:decoder", "vision": "siglip:vision"},
        "stage2": {"": "stage1:"},
    }
    return {
        "name": name,
        "seed": 0,
        "model": {"kind": kind, "hidden": 256, "layers": 6},
        "init": init.get(name, {}),
        "codes": None if name in {"tokenizer", "siglip"} else {"stage": "tokenizer"},
        "data": {"components": [{"name": "captions", "ratio": 1.0}]},
        "optimizer": {"learning_rate": 1e-3, "warmup": 100},
        "train": {"steps": steps, "batch": 16, "microbatches": 1},
    }


def _environment(start) -> dict:
    return {
        "time": f"second {start}",
        "revision": "42cbc704b142810e39cd7722b1745aaced6e74c1, with changes",
        "devices": {"count": 1, "processes": 1, "platform": "cpu", "kind": "cpu"},
        "cpu_count": 2,
        "python": "3.11.7",
        "packages": {"jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8"},
    }


def _evaluation(folder: Path, pictures: Iterator[Image.Image], rng) -> dict:
    place = folder / "evaluation" / "default"
    place.mkdir(parents=True)
    count = iter(range(10_000))

    def save(picture: Image.Image) -> str:
        path = place / f"{next(count):04d}.png"
        picture.save(path)
        return str(path.relative_to(folder))

    def blurred(picture: Image.Image) -> Image.Image:
        return picture.filter(ImageFilter.GaussianBlur(1.5))

    def share(value, baseline, against, count):
        return {
            "value": value,
            "count": count,
            "low": max(0.0, value - 0.06),
            "high": min(1.0, value + 0.06),
            "baseline": baseline,
            "against": against,
            "unit": "",
        }

    def plain(value, unit, low=None, high=None, count=256):
        return {
            "value": value,
            "count": count,
            "low": low,
            "high": high,
            "baseline": None,
            "against": "",
            "unit": unit,
        }

    shown = [next(pictures) for _ in range(16)]
    questions = [
        ("What is this?", "a red heart", "a red heart"),
        ("Which category is it?", "animals & nature", "food & drink"),
        ("How many objects are there?", "3", "3"),
        ("What is left of the umbrella?", "", "leaf"),
    ]
    kinds = ("name", "kind", "color", "position", "country", "gender", "two_objects")
    against = "most frequent training answer"
    accuracies = {
        f"accuracy{novelty}/{kind}": share(0.02 + 0.9 * rng.random(), 0.2, against, 48)
        for novelty in ("", "_new_concepts", "_new_compositions")
        for kind in kinds
    }
    bits = {
        f"bits_per_answer/{kind}": plain(1 + 3 * rng.random(), "bits")
        | {"baseline": 2.5, "against": "frequencies of training answers"}
        | {"less_is_better": True}
        for kind in kinds
    }
    return {
        "seconds": 92.1,
        "of": {"name": "default", "changes": [], "stages": {}, "config": {}},
        "features": {"error": "the UniToken has no image tower"},
        "reconstruction": {
            "measures": {
                "psnr": plain(21.37, "dB", 20.9, 21.8),
                "ssim": plain(0.81, "of 1", 0.8, 0.82),
                "code_usage": plain(0.934, ""),
                "code_perplexity": plain(311.2, "codes"),
            },
            "samples": {
                "pairs": [
                    {
                        "original": save(picture),
                        "reconstruction": save(blurred(picture)),
                        "psnr": 18 + 6 * rng.random(),
                    }
                    for picture in shown
                ]
            },
        },
        "zero_shot": {
            "measures": {
                "top@1": share(0.07, 0.01, "most frequent of 300 classes", 400),
                "top@5": share(0.21, 0.05, "5 most frequent of 300 classes", 400),
            },
            "samples": {
                "classified": [
                    {
                        "image": save(shown[0]),
                        "caption": PROMPTS[0],
                        "rank": 2,
                        "found": [
                            {"caption": PROMPTS[j], "right": j == 0} for j in (1, 0, 2)
                        ],
                    }
                ]
            },
        },
        "perception": {
            "measures": {
                "reconstructions/stlpips_alexnet": plain(0.21, "of 1", 0.2, 0.22),
                "reconstructions/frechet_alexnet": plain(3.42, "FD", 3.1, 3.7),
                "reconstructions/kernel_alexnet": plain(-0.002, "MMD²"),
                "reconstructions/recall_alexnet": share(0.61, None, "", 400),
            },
            "samples": {},
        },
        "retrieval": {
            "measures": {
                "image_to_text/recall@1": share(0.18, 1 / 256, "chance", 256),
                "image_to_text/recall@5": share(0.41, 5 / 256, "chance", 256),
                "text_to_image/median_rank": plain(9.0, "of 256", 7.0, 12.0)
                | {"baseline": 128.5, "against": "chance"},
            },
            "samples": {
                "image_to_text": [
                    {
                        "image": save(shown[i]),
                        "caption": PROMPTS[i],
                        "rank": i + 1,
                        "found": [
                            {
                                "image": save(shown[j]),
                                "caption": PROMPTS[j],
                                "right": i == j,
                            }
                            for j in range(4)
                        ],
                    }
                    for i in range(4)
                ]
            },
        },
        "understanding": {
            "measures": {
                "accuracy/all": share(0.47, 0.06, "most frequent training answer", 212),
                "accuracy/category": share(
                    0.71, 0.33, "most frequent training answer", 212
                ),
                "accuracy/count": share(
                    0.64, 0.26, "most frequent training answer", 180
                ),
                "accuracy/yes_no": share(
                    0.41, 0.5, "most frequent training answer", 52
                ),
                **accuracies,
                **bits,
            },
            "set_aside": {
                "count": 2,
                "of": 212,
                "records": [
                    {"id": "scene/0007", "reason": "the question does not fit"},
                    {"id": "scene/0009", "reason": "the answer does not fit"},
                ],
            },
            "samples": {
                name: [
                    {
                        "image": save(shown[i]),
                        "kind": "what",
                        "question": question,
                        "answer": answer,
                        "expected": expected,
                        "correct": answer == expected,
                    }
                    for i, (question, answer, expected) in enumerate(questions)
                    if (answer == expected) == (name == "right")
                ]
                for name in ("right", "wrong")
            },
        },
        "generation": {
            "measures": {
                "caption_rank": share(0.83, 0.5, "chance", 256),
                "cycle/all": share(0.35, 0.08, "most frequent training answer", 96),
            },
            "samples": {
                "drawings": [
                    {
                        "prompt": prompt,
                        "image": save(blurred(shown[i])),
                        "real": save(shown[i]),
                        "seed": i,
                        "answers": "What is this? a red heart ✓; Which color? blue ✗",
                    }
                    for i, prompt in enumerate(PROMPTS)
                ]
            },
        },
    }


def _pictures(archive: Path | None, rng) -> Iterator[Image.Image]:
    """Yield pictures of 64 × 64 without end."""
    if archive:
        with zipfile.ZipFile(archive) as file:
            names = [n for n in file.namelist() if n.endswith(".webp")]
            for place in rng.permutation(len(names)):
                with file.open(names[place]) as entry:
                    picture = Image.open(entry).convert("RGBA")
                picture.thumbnail((64, 64))
                canvas = Image.new("RGB", (64, 64), "white")
                canvas.paste(picture, ((64 - picture.width) // 2, 0), picture)
                yield canvas
    while True:
        canvas = Image.new("RGB", (64, 64), "white")
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        ImageDraw.Draw(canvas).ellipse((8, 8, 56, 56), fill=color)
        yield canvas


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    beside = Path(__file__).parents[2] / "data" / "pictures.zip"
    print(write_run(Path(sys.argv[1]), beside if beside.exists() else None))

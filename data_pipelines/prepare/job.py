"""The whole preparation: a zip of pictures to a data set of sharded records."""

import hashlib
import importlib.metadata
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from tqdm import tqdm

import data_pipelines
from data_pipelines.errors import DataError
from data_pipelines.images import decoding
from data_pipelines.prepare import scenes
from data_pipelines.prepare.captions import captions_of
from data_pipelines.prepare.colors import SPELLINGS
from data_pipelines.prepare.identity import identities
from data_pipelines.prepare.nouns import kind_of, noun_of
from data_pipelines.prepare.pictures import (
    Archive,
    Picture,
    Rejection,
    commonest,
    read_pictures,
)
from data_pipelines.prepare.questions import balanced_kinds, questions_of
from data_pipelines.prepare.split import (
    HELDOUT,
    TRAIN,
    chance,
    concept_groups,
    split_of,
)
from data_pipelines.storage import records
from data_pipelines.storage.directory import atomic_directory
from data_pipelines.storage.manifest import FILE as MANIFEST
from data_pipelines.storage.manifest import Manifest, file_digest
from data_pipelines.storage.shards import find_made, write_split
from data_pipelines.tokenizers.chameleon import structure_names, train_vocabulary
from unitoken_jax import files
from unitoken_jax.config import check_seed

REJECTED = "rejected.jsonl"
TOKENIZER = "tokenizer.json"

_LISTED_REJECTIONS = 100  # in the manifest; the file lists all
_LOGGED_REJECTIONS = 20
# Above these something else was meant, and memory would run out first.
_MOST = {
    "image_size": 4096,
    "max_pixels": decoding.MAX_PIXELS,
    "shards": 10_000,
    "num_codes": 65_536,
    "vocabulary_size": 1_048_576,
    "size_tokens": 1024,
    "train_scenes": 10_000_000,
    "heldout_scenes": 10_000_000,
}
_LIBRARIES = ("array_record", "msgpack", "numpy", "pillow", "tokenizers")
# Kinds of things whose colour belongs to them: never painted in another.
_UNPAINTED_KINDS = ("animal", "food", "plant")

_log = logging.getLogger(__name__)


class PrepareError(DataError):
    """Options or input that no data set can be made of."""


@dataclass(frozen=True)
class PrepareConfig:
    """What a prepared data set is a function of, besides the zip.

    Attributes:
        seed: Of the split, the questions and the scenes.
        heldout_fraction: Share of the groups of concepts that are never trained on.
        image_size: Longest side of a picture, and the side of a scene, in pixels.
        max_pixels: Larger pictures are set aside without decoding them.
        max_rejected: Largest share of lines that may be set aside; a single one may,
            unless this is 0.
        image_policy: Of EXIF's orientation: released ignores it as published loaders
            do, upright turns pictures as it says.
        duplicate_distance: Pictures nearer than this are of one group (see `split`).
        train_scenes: Composed scenes in the train split.
        heldout_scenes: Composed scenes in the held-out split.
        scene_things: Most things that scenes of the train split show.
        shards: Files of the train split; the held-out split has a quarter.
        num_codes: Image codes in the vocabulary.
        vocabulary_size: Ids of the vocabulary in all.
        size_tokens: Names for sides of 1 … size_tokens × 32 pixels.
    """

    seed: int = 0
    heldout_fraction: float = 0.1
    image_size: int = 64
    max_pixels: int = 16 * 1024 * 1024
    max_rejected: float = 0.1
    image_policy: decoding.Policy = "released"
    duplicate_distance: float = 0.15
    train_scenes: int = 3600
    heldout_scenes: int = 400
    scene_things: int = 100
    shards: int = 4
    num_codes: int = 512
    vocabulary_size: int = 2560
    size_tokens: int = 16

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            PrepareError: A value is out of its range.
        """
        check_seed(self.seed, "--seed")
        for name in ("heldout_fraction", "max_rejected", "duplicate_distance"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise PrepareError(f"--{name} must be in [0, 1), not {value}")
        for name in ("train_scenes", "heldout_scenes", "scene_things"):
            if getattr(self, name) < 0:
                raise PrepareError(f"--{name} must not be negative")
        for name in ("image_size", "max_pixels", "shards", "num_codes", "size_tokens"):
            if getattr(self, name) < 1:
                raise PrepareError(f"--{name} must be at least 1")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise PrepareError(f"--{name} must be at most {most:,}")
        if self.image_policy not in get_args(decoding.Policy):
            raise PrepareError(
                f"--image_policy must be {' or '.join(get_args(decoding.Policy))}, not "
                f"{self.image_policy!r}"
            )
        if self.image_size % 16:
            raise PrepareError(
                f"--image_size must be a multiple of 16, not {self.image_size}"
            )
        if self.num_pieces < 256:
            raise PrepareError(
                f"--vocabulary_size {self.vocabulary_size} leaves {self.num_pieces} "
                f"pieces for text beside {self.num_codes} codes and the markers; "
                "it must leave 256 at least"
            )

    @property
    def num_pieces(self) -> int:
        """Pieces of text in the vocabulary."""
        names = structure_names(self.num_codes, self.size_tokens)
        return self.vocabulary_size - len(names)


def prepare(
    source: Path, output: Path, config: PrepareConfig, *, overwrite: bool = False
) -> Manifest:
    """Makes a data set of a zip of captioned pictures, or finds it made already.

    The same zip and options give the same bytes. `output` appears whole or not at all.

    Args:
        source: A zip with captions.jsonl (see `pictures`).
        output: The directory to make.
        config: The options.
        overwrite: Replace an `output` that was made of something else.

    Returns:
        The manifest of `output`.

    Raises:
        DataError: The input or an option cannot be used, or `output` not be written.
    """
    with Archive(source) as archive:
        provenance = _provenance(archive, config)
        made = find_made(output, provenance)
        if made is not None:
            _log.info("%s is up to date", output)
            return made
        with atomic_directory(output, overwrite=overwrite, mark=MANIFEST) as partial:
            pictures, rejected = _read(archive, config)
            manifest = _write(partial, pictures, rejected, provenance, config)
    return manifest


def _provenance(archive: Archive, config: PrepareConfig) -> dict[str, object]:
    """Everything that the bytes of the data set are a function of."""
    package = Path(data_pipelines.__file__).parent
    code = hashlib.sha256()
    modules = ("images/decoding", "images/transforms", "tokenizers/chameleon")
    modules += tuple(
        f"storage/{n}"
        for n in ("earlier", "integrity", "manifest", "records", "shards")
    )
    modules = [package / f"{name}.py" for name in modules]
    modules += [Path(files.__file__), *sorted((package / "prepare").glob("*.py"))]
    for file in modules:
        code.update(file.read_bytes())
    return {
        "source": {"name": archive.path.name, "sha256": archive.digest},
        "options": asdict(config),
        "code": code.hexdigest(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _read(
    archive: Archive, config: PrepareConfig
) -> tuple[list[Picture], list[Rejection]]:
    """Every usable picture, and what was set aside if that is not too much."""
    pictures: list[Picture] = []
    rejected: list[Rejection] = []
    read = read_pictures(
        archive, config.image_size, config.max_pixels, config.image_policy
    )
    lines = archive.listing().count(b"\n") + 1
    for item in tqdm(read, "reading pictures", lines, unit="pic", disable=None):
        if isinstance(item, Picture):
            pictures.append(item)
            continue
        rejected.append(item)
        if len(rejected) <= _LOGGED_REJECTIONS:
            _log.warning("set aside %s: %s", item.record, item.reason)
        elif len(rejected) == _LOGGED_REJECTIONS + 1:
            _log.warning("set aside more; %s will list them", REJECTED)
    total = len(pictures) + len(rejected)
    if not total:
        raise PrepareError(f"{archive.path}: the list of pictures is empty")
    allowed = max(1.0, config.max_rejected * total) if config.max_rejected else 0
    if not pictures or len(rejected) > allowed:
        raise PrepareError(
            f"{archive.path}: {len(rejected)} of {total} lines cannot be used, more "
            f"than the share of --max_rejected {config.max_rejected}. The commonest "
            f"reasons: {commonest(rejected)}. Mend the archive or allow more"
        )
    if config.image_policy == "released" and any(p.is_turned for p in pictures):
        _log.warning(
            "%d pictures say by their EXIF that they are to be turned, which is "
            "ignored as by the published loaders; --image_policy upright turns them",
            sum(picture.is_turned for picture in pictures),
        )
    return pictures, rejected


def _write(
    directory: Path,
    pictures: Sequence[Picture],
    rejected: Sequence[Rejection],
    provenance: dict[str, object],
    config: PrepareConfig,
) -> Manifest:
    """Writes shards, vocabulary, rejected lines and manifest into `directory`."""
    groups = concept_groups(
        [picture.annotation["concept"] for picture in pictures],
        np.stack([picture.thumbnail for picture in pictures]),
        config.duplicate_distance,
        [picture.data for picture in pictures],
    )
    splits: dict[str, list[Picture]] = {TRAIN: [], HELDOUT: []}
    for picture in pictures:
        group = groups[picture.annotation["concept"]]
        split = split_of(group, config.seed, config.heldout_fraction)
        splits[split].append(picture)
    names = [picture.annotation["image"] for picture in pictures]
    ids = dict(zip(names, identities(names), strict=True))
    made = {
        split: _picture_records(chosen, pictures, ids, config)
        for split, chosen in splits.items()
    }
    for split, record in _scene_records(splits, config):
        made[split].append(record)
    for split, chosen in made.items():
        # one order that mixes kinds, so that any part is like the whole
        chosen.sort(key=lambda record: chance(config.seed, "order", record["id"]))
        if not chosen:
            raise PrepareError(
                f"no record falls into the split {split!r}; give another --seed or "
                "--heldout_fraction, or more pictures"
            )
    vocabulary = train_vocabulary(
        _texts(made[TRAIN]), config.num_codes, config.num_pieces, config.size_tokens
    )
    files.write_text(directory / TOKENIZER, vocabulary)
    lines = [json.dumps(asdict(entry), ensure_ascii=False) for entry in rejected]
    files.write_text(directory / REJECTED, "".join(f"{line}\n" for line in lines))
    shards = {
        split: write_split(
            directory,
            split,
            map(records.encode, tqdm(chosen, f"writing {split}", disable=None)),
            count=len(chosen),
            shards=config.shards if split == TRAIN else -(-config.shards // 4),
        )
        for split, chosen in made.items()
    }
    manifest = Manifest(
        splits=shards,
        provenance=provenance,
        counts={
            **{split: _counts(chosen) for split, chosen in made.items()},
            "groups of concepts": len(set(groups.values())),
            "pictures equal to another": len(pictures)
            - len({p.data for p in pictures}),
            "turned by EXIF": sum(picture.is_turned for picture in pictures),
            "rejected": len(rejected),
        },
        rejected=tuple(asdict(entry) for entry in rejected[:_LISTED_REJECTIONS]),
        files={name: file_digest(directory / name) for name in (TOKENIZER, REJECTED)},
        categories=tuple(sorted({record["category"] for record in made[TRAIN]})),
    )
    manifest.write(directory)
    return manifest


def picture_record(
    picture: Picture, identity: str, wrong_kinds: dict[str, float], seed: int
) -> records.Record:
    """The record of one picture; `wrong_kinds` are weights of `balanced_kinds`."""
    annotation = picture.annotation
    width, height = picture.pixels.size
    return records.make(
        identity,
        source=annotation["source"],
        license=annotation["license"],
        images=[records.picture(picture.data, width, height)],
        captions=captions_of(annotation, picture.color),
        questions=questions_of(annotation, picture.color, wrong_kinds, seed),
        group=annotation["concept"],
        category=annotation["category"],
        subcategory=annotation["subcategory"],
        keywords=annotation["keywords"],
    )


def _picture_records(
    chosen: Sequence[Picture],
    pictures: Sequence[Picture],
    ids: Mapping[str, str],
    config: PrepareConfig,
) -> list[records.Record]:
    kinds = Counter(kind for p in pictures if (kind := kind_of(p.annotation)))
    wrong_kinds = balanced_kinds(kinds)
    return [
        picture_record(p, ids[p.annotation["image"]], wrong_kinds, config.seed)
        for p in chosen
    ]


def _scene_records(
    splits: dict[str, list[Picture]], config: PrepareConfig
) -> Iterable[tuple[str, records.Record]]:
    """Scenes with their split; see `scenes` for what is held out."""
    trained = make_things(splits[TRAIN], config)
    seen = trained[: config.scene_things]
    # a noun may have pictures of two groups: trained on in one, it is not unseen
    known = {thing.noun for thing in trained}
    unseen = [t for t in make_things(splits[HELDOUT], config) if t.noun not in known]
    shown = _colored_nouns(splits[TRAIN])
    plan = {
        TRAIN: (config.train_scenes, [(scenes.SEEN, seen)]),
        HELDOUT: (
            config.heldout_scenes,
            [(scenes.NEW_COMPOSITION, seen), (scenes.NEW_CONCEPTS, unseen)],
        ),
    }
    for split, (count, novelties) in plan.items():
        composed = scenes.scene_records(
            split,
            novelties,
            count,
            seed=config.seed,
            size=config.image_size,
            shown=shown,
        )
        for record in tqdm(composed, f"composing {split}", count, disable=None):
            yield split, record


def _colored_nouns(pictures: Sequence[Picture]) -> set[str]:
    """What plain pictures show in a colour, such as 'red heart'."""
    colored: set[str] = set()
    for picture in pictures:
        noun = noun_of(picture.annotation)
        if noun is not None:
            words = picture.annotation["caption"].split()
            colors = {SPELLINGS[word] for word in words if word in SPELLINGS}
            colors |= {picture.color} if picture.color else set()
            colored |= {f"{color} {noun.singular}" for color in colors}
    return colored


def make_things(
    pictures: Sequence[Picture], config: PrepareConfig
) -> list[scenes.Thing]:
    """One thing for every noun of the pictures.

    Paintable ones come first, then those that most captions speak of: a limit keeps
    the things that scenes and plain pictures teach together.
    """
    things: dict[str, scenes.Thing] = {}
    # pictures that are called by the bare noun come first
    for picture in sorted(pictures, key=lambda p: len(p.annotation["caption"])):
        noun = noun_of(picture.annotation)
        if noun is None or noun.singular in things:
            continue
        rgba = picture.pixels.convert("RGBA")
        cropped = rgba.crop(rgba.getchannel("A").getbbox())
        paintable = picture.color is not None and noun.kind not in _UNPAINTED_KINDS
        source, terms = picture.annotation["source"], picture.annotation["license"]
        things[noun.singular] = scenes.Thing(noun, cropped, paintable, source, terms)
    spoken = Counter(word for p in pictures for word in p.annotation["caption"].split())

    def order(thing: scenes.Thing) -> tuple[bool, int, float]:
        noun = thing.noun.singular
        return not thing.paintable, -spoken[noun], chance(config.seed, "thing", noun)

    return sorted(things.values(), key=order)


def _texts(chosen: Iterable[records.Record]) -> Iterable[str]:
    for record in chosen:
        yield from record["captions"]
        for question in record["questions"]:
            yield question["question"]
            yield question["answer"]


def _counts(chosen: Sequence[records.Record]) -> dict[str, object]:
    questions = Counter(q["kind"] for record in chosen for q in record["questions"])
    scene = Counter(r["subcategory"] for r in chosen if r["category"] == "scene")
    return {
        "records": len(chosen),
        "pictures": len(chosen) - sum(scene.values()),
        "concepts": len({record["group"] for record in chosen}),
        "captions": sum(len(record["captions"]) for record in chosen),
        "scenes": dict(sorted(scene.items())),
        "questions": dict(sorted(questions.items())),
    }

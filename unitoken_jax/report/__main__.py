"""Build the page of a run or a sweep: python -m unitoken_jax.report --workdir DIR."""

from unitoken_jax import config
from unitoken_jax.files import define_path_flag
from unitoken_jax.report import comparison, page

_WORKDIR = define_path_flag(
    "workdir", None, "Directory of the run; the page is written there.", required=True
)


def main() -> None:
    """Build the page and say where it is."""
    folder = _WORKDIR.value
    is_sweep = (folder / comparison.STATE).is_file()
    print(f"Report: {(comparison if is_sweep else page).build(folder)}")


if __name__ == "__main__":
    config.run(main)

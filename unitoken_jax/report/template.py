"""Pages from templates of this folder, written whole."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2
import markupsafe

from unitoken_jax.report import quantities, run

_HERE = Path(__file__).parent


def render(
    name: str, filters: Mapping[str, Callable[..., str]], **values: object
) -> str:
    """Return a page as HTML.

    Args:
        name: of the template.
        filters: of it, beside `words`.
        values: of it, beside `style`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"words": quantities.title, **filters}
    style = markupsafe.Markup((_HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(name).render(style=style, **values)


def write(folder: Path, page: str) -> Path:
    """Write FOLDER/report.html and return its path.

    An older page stays complete until the new one takes its place.

    Raises:
        run.RunError: FOLDER cannot be written to.
    """
    path, partial = folder / "report.html", folder / ".report.html.partial"
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise run.RunError(f"{path} cannot be written: {error.strerror}.") from error
    return path

"""Pages of HTML that are one file each: the template of a package, every text of the user's escaped."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def fill(package: str, template: str = "page.html", **values: Any) -> str:
    """The template of `package` with these values; one that it lacks is an error, not an empty place."""
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)

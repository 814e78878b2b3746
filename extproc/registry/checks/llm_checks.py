"""Checks of ``llm``."""

from extproc.registry.checks.shared_checks import check_asked
from extproc.registry.schema import Registry
from extproc.registry.yaml_source import Source
from extproc.routing.llm_question import NO_ROUTE


def check_llm(registry: Registry, source: Source) -> None:
    """The model can be asked, there is a choice to make, and its cost is known. Raises ``RegistryError``."""
    settings = registry.llm
    if settings is None:
        return
    with source.collecting():
        check_asked(registry, "llm:", settings.model, source, "llm", "model")
        if settings.dollars_per_hour is not None and registry.models[settings.model].price is None:
            raise source.error(
                f"llm.dollars_per_hour: the model `{settings.model}` has no `price` to compute its cost "
                "(expected a model with a price)",
                "llm", "dollars_per_hour",
            )  # fmt: skip
    with source.collecting():
        if not registry.routes and not source.is_unread("routes"):
            raise source.error("llm: there are no `routes` to choose from", "llm")
        if NO_ROUTE in registry.routes:
            raise source.error(
                f"routes.{NO_ROUTE}: with `llm`, this word means that no route fits (expected another name)",
                "routes", NO_ROUTE,
            )  # fmt: skip

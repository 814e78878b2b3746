from opentelemetry.semconv._incubating.attributes import (
    error_attributes,
    gen_ai_attributes,
    http_attributes,
    service_attributes,
    url_attributes,
)
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from extproc.telemetry import otel_names
from extproc.vocabulary import Api

# Envoy AI Gateway coined the first; the package has no names of events.
OURS = {"GEN_AI_ORIGINAL_MODEL", "GEN_AI_EVALUATION_RESULT"}
CONVENTIONS = {
    "ERROR": error_attributes,
    "GEN_AI": gen_ai_attributes,
    "GEN_AI_CLIENT": gen_ai_metrics,
    "GEN_AI_SERVER": gen_ai_metrics,
    "HTTP": http_attributes,
    "SERVICE": service_attributes,
    "URL": url_attributes,
}


def emitted() -> dict[str, str]:
    return {
        name: value for name, value in vars(otel_names).items() if name.isupper() and isinstance(value, str)
    }


def test_names_of_the_semantic_conventions_are_those_of_the_package() -> None:
    pinned = {
        constant: value
        for constant, value in emitted().items()
        if value.split(".")[0] in {"error", "gen_ai", "http", "service", "url"} and constant not in OURS
    }
    assert len(pinned) >= 28
    for constant, value in pinned.items():
        # The longest prefix is the module that defines it.
        module = max((prefix for prefix in CONVENTIONS if constant.startswith(prefix)), key=len)
        assert getattr(CONVENTIONS[module], constant) == value


def test_no_name_stands_for_two_things() -> None:
    values = [value for name, value in emitted().items()]
    assert len(values) == len(set(values))


def test_every_api_is_an_operation_of_a_provider_that_the_conventions_know() -> None:
    operations = {value.value for value in gen_ai_attributes.GenAiOperationNameValues}
    providers = {value.value for value in gen_ai_attributes.GenAiProviderNameValues}
    for api in Api:
        operation, provider = otel_names.OPERATIONS[api]
        assert operation in operations
        assert provider in providers

"""Names of spans and metrics against the conventions that they follow."""

from __future__ import annotations

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, server_attributes

from tierpool import telemetry

ATTRIBUTES = {
    value
    for module in (gen_ai_attributes, error_attributes, server_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}
METRICS = {
    gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION,
    gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE,
}
OURS = {
    name: value
    for name, value in vars(telemetry).items()
    if name.startswith(("GENAI_", "ERROR_", "SERVER_"))
}


@pytest.mark.parametrize(("name", "value"), OURS.items())
def test_names_of_model_calls_are_those_of_the_conventions(
    name: str, value: str
) -> None:
    """Each name is one that the installed conventions have."""
    assert value in ATTRIBUTES | METRICS, name


def test_no_name_of_the_conventions_is_one_that_they_dropped() -> None:
    """`gen_ai.system` and the completion and prompt tokens have other names now."""
    dropped = {
        gen_ai_attributes.GEN_AI_SYSTEM,
        gen_ai_attributes.GEN_AI_USAGE_COMPLETION_TOKENS,
        gen_ai_attributes.GEN_AI_USAGE_PROMPT_TOKENS,
    }

    assert set() == dropped & set(OURS.values())


def test_buckets_are_those_of_the_conventions() -> None:
    """Durations from 10 ms to 82 s, tokens from 1 to 67 million."""
    seconds = telemetry.HISTOGRAM_BUCKETS["gen_ai_client_operation_duration"]
    tokens = telemetry.HISTOGRAM_BUCKETS["gen_ai_client_token_usage"]

    assert (
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64,
        1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ) == seconds  # fmt: skip
    assert (
        1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144,
        1048576, 4194304, 16777216, 67108864,
    ) == tokens  # fmt: skip

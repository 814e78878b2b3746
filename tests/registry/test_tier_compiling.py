"""What a cascade's tiers mean for serving: who judges their answers, and how many should be refused."""

import pytest
from msgspec.structs import replace

from extproc.registry.cascade_settings import Band, Cascade, Tier
from extproc.registry.gate_settings import Gate, SecondSettings
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry
from extproc.registry.tier_compiling import bands_of
from tests.registry.test_gate_artefact import gate


def test_bands_are_those_of_the_registry() -> None:
    tiers = [Tier(model="a", gate="g", expected=Band(most=0.3)), Tier(model="b", gate="g"), Tier(model="b")]
    models = {name: Model(base_url="http://127.0.0.1:1") for name in "ab"}
    made = Registry(models=models, default="a", cascades={"x": Cascade(tiers=tiers)})
    assert bands_of(made) == {("x", 0): Band(least=0.0, most=0.3)}
    calibrated = gate()
    share = calibrated.manifest.escalation
    found = bands_of(made, {"g": calibrated})
    assert found["x", 0] == Band(most=0.3)
    assert found["x", 1] == Band(least=max(0.0, share - 0.05), most=min(1.0, share + 0.05))


@pytest.mark.parametrize(("second", "share"), [(None, 0.3), (SecondSettings(model="b"), 0.6)])
def test_a_gate_that_asks_for_second_answers_refuses_as_it_was_fitted_with_them(
    second: SecondSettings | None, share: float
) -> None:
    fitted = gate()
    fitted = replace(fitted, manifest=replace(fitted.manifest, escalation_paired=0.6))
    made = Registry(
        models={"b": Model(base_url="http://127.0.0.1:1")},
        default="b",
        cascades={"x": Cascade(tiers=[Tier(model="b", gate="g")])},
        gates={"g": Gate(second=second)},
    )
    assert bands_of(made, {"g": fitted}) == {("x", 0): Band(least=share - 0.05, most=share + 0.05)}

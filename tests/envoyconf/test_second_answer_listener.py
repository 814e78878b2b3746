"""When there is an egress listener, and where it leads."""

import json
from pathlib import Path

from extproc.envoyconf.bootstrap import resources
from extproc.envoyconf.typed_config import Names, Site, plain
from extproc.envoyconf.xds_files import generation
from extproc.registry.cascade_settings import Cascade, Gate, SecondSettings, Tier
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry, RouteSettings


def registry() -> Registry:
    models = {name: Model(base_url="http://127.0.0.1:1") for name in ("small", "large", "local")}
    return Registry(
        models=models,
        default="local",
        gates={"agreed": Gate(second=SecondSettings(model="large"))},
        cascades={"frugal": Cascade(tiers=[Tier(model="small", gate="agreed"), Tier(model="local")])},
        routes={"r": RouteSettings(candidates=["small"], cascade="frugal")},
    )


def test_the_listener_is_there_only_where_a_gate_asks_somebody() -> None:
    def listeners(made: Registry) -> list[str]:
        return [listener.name for listener in resources(made, "", Site(Path()), Names()).listeners]

    asking = registry()
    silent = Registry(models=asking.models, default="local", gates=asking.gates, cascades=asking.cascades)
    assert "egress" in listeners(asking)
    assert "egress" not in listeners(silent)


def test_files_of_xds_have_it_too_and_lead_to_the_models_cluster(tmp_path: Path) -> None:
    made = generation(registry(), "v1", Site(tmp_path, tmp_path / "xds"))
    text = json.dumps(made.listeners["egress"])
    (cluster,) = (name for name in made.clusters if name.startswith("model-large~"))
    assert f'"cluster": "{cluster}"' in text


def test_no_filter_but_the_router_is_in_the_way_and_nothing_is_logged() -> None:
    (listener,) = (
        each for each in resources(registry(), "", Site(Path()), Names()).listeners if each.name == "egress"
    )
    (chain,) = plain(listener)["filter_chains"]
    (manager,) = chain["filters"]
    assert [each["name"] for each in manager["typed_config"]["http_filters"]] == ["envoy.filters.http.router"]
    assert "access_log" not in manager["typed_config"]

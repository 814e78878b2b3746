"""Compiles a loaded registry into the snapshot that decides requests."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from extproc.registry import head_artefact, quality_artefact, safety_artefact
from extproc.registry.checks.route_checks import share_of
from extproc.registry.model_settings import Model
from extproc.registry.registry_loading import LoadedRegistry
from extproc.registry.safety_artefact import TrainedSafety
from extproc.registry.safety_settings import ClassTerms, SafetySettings
from extproc.registry.schema import (
    DEFAULT_MARGIN,
    DEFAULT_SIMILARITY,
    ClearanceSettings,
    Registry,
    RouteSettings,
    RouteThresholds,
    RuleSettings,
    ScorerSettings,
    Thresholds,
    When,
    cleared_for,
    cluster_name,
)
from extproc.registry.section import many
from extproc.routing import rules
from extproc.routing.clearance import ClearancePolicy
from extproc.routing.embedding_scorer import Meaning, fit_meaning
from extproc.routing.fastpath import AgreementMonitor, FastPath
from extproc.routing.llm_question import LlmPolicy, RouteCard, system_message
from extproc.routing.model_choice import Price, Target
from extproc.routing.predicted_quality import Quality
from extproc.routing.rollout import Rollout
from extproc.routing.safety_head import SafetyHead
from extproc.routing.safety_policy import SECRET, TEMPLATE, SafetyClass, SafetyPolicy
from extproc.routing.scope import are_few
from extproc.routing.scorers import Fit, fit_centroids, fit_logistic, fit_prototypes
from extproc.routing.snapshot import RoutePolicy, Snapshot
from extproc.routing.turn_reading import StaticEncoder, reader_of
from extproc.safety import text_folding
from extproc.vocabulary import (
    Encoder,
    ModelName,
    RouteName,
    SafetyAction,
    Scope,
    Served,
    Terms,
    UpstreamName,
)


def compile_snapshot(
    loaded: LoadedRegistry, encoder: Encoder, static: StaticEncoder | None = None
) -> Snapshot:
    """Take the artefact, or embed the examples and fit the scorer; compile the rules.

    Without ``static``, turns are read whole and no fast path decides. Blocks for as long as the encoder
    takes. Raises ``errors.EncoderFailed``, and ``errors.ArtefactUnusable`` if the artefact was trained on
    another encoder's vectors.
    """
    registry = loaded.registry
    if registry.rules or registry.safety:
        text_folding.prepare()
    meaning = _meaning(loaded, encoder)
    compiled = [_rule(rule) for rule in registry.rules]
    targets = {ModelName(name): _target(ModelName(name), model) for name, model in registry.models.items()}
    return Snapshot(
        version=loaded.version,
        targets=targets,
        routes={
            RouteName(name): _route(loaded, route, targets, meaning)
            for name, route in registry.routes.items()
        },
        defaults={api: ModelName(name) for api, name in registry.defaults.items()},
        deny_rules=tuple(rule for rule in compiled if rule.deny),
        route_rules=tuple(rule for rule in compiled if rule.route or rule.model),
        meaning=meaning,
        reader=None if meaning is None or static is None else reader_of(meaning, static),
        fast_path=_fast_path(loaded, static),
        quality=_quality(loaded, encoder),
        budget_s=registry.decision_ms / 1000,
        unknown_models_rejected=registry.unknown_models == "reject",
        deny_status=registry.deny_status,
        ask_usage=registry.stream_usage == "ask",
        rollout=Rollout(registry.mode, share_of(registry.rollout)),
        languages=registry.encoder.reads,
        rollout_key=registry.rollout_key.lower(),
        terms=_terms(registry, targets),
        llm=_llm(loaded, targets),
        clearance=_clearance(registry, compiled, targets),
        safety=_safety(loaded, encoder),
    )


def _safety(loaded: LoadedRegistry, encoder: Encoder) -> SafetyPolicy | None:
    settings = loaded.registry.safety
    if settings is None:
        return None
    if loaded.safety is not None:
        safety_artefact.check_encoder(loaded.safety, encoder.name)
    exempt = [rules.header_in(name, many(values)) for name, values in settings.exempt.items()]
    return SafetyPolicy(
        classes=tuple(_safety_classes(settings)),
        reads=settings.reads,
        patterns=tuple(many(settings.pii.allow)) if settings.pii else (),
        refuses_by_answer=settings.answer == "refusal",
        head=_safety_head(loaded.safety, settings) if loaded.safety else None,
        of_head=tuple(_classes_of_head(loaded.safety, settings)) if loaded.safety else (),
        exempt=(lambda reading: all(holds(reading) for holds in exempt)) if exempt else None,
    )


def _safety_head(trained: TrainedSafety, settings: SafetySettings) -> SafetyHead:
    """The head, with the thresholds that the registry sets."""
    own = {name: each.threshold for name, each in settings.head.classes.items()} if settings.head else {}
    thresholds = [
        learnt if (written := own.get(name)) is None else written
        for name, learnt in zip(trained.head.classes, trained.head.thresholds, strict=True)
    ]
    return replace(trained.head, thresholds=tuple(thresholds))


def _classes_of_head(trained: TrainedSafety, settings: SafetySettings) -> Iterator[SafetyClass]:
    for name in trained.head.classes:
        terms = settings.terms.get(f"head.{name}", ClassTerms(SafetyAction.ALLOW, name))
        yield SafetyClass(name, frozenset({name}), terms.action, terms.label)


def _safety_classes(settings: SafetySettings) -> Iterator[SafetyClass]:
    """The classes that patterns find."""
    kinds = {
        "pii": frozenset(settings.pii.kinds if settings.pii else ()),
        "secrets": frozenset({SECRET}),
        "templates": frozenset({TEMPLATE}),
    }
    for name, terms in settings.terms.items():
        if name in kinds:
            yield SafetyClass(name, kinds[name], terms.action, terms.label)


def _clearance(
    registry: Registry, compiled: Sequence[rules.CompiledRule], targets: Mapping[ModelName, Target]
) -> ClearancePolicy | None:
    labelling = tuple(rule for rule in compiled if rule.labels)
    settings = registry.clearance or ClearanceSettings()
    if not registry.labels_requests:
        return None
    return ClearancePolicy(
        cleared_for(registry),
        labelling,
        settings.header.lower(),
        tuple(targets[ModelName(name)] for name in many(settings.default)),
    )


def _llm(loaded: LoadedRegistry, targets: Mapping[ModelName, Target]) -> LlmPolicy | None:
    settings = loaded.registry.llm
    if settings is None:
        return None
    target = targets[ModelName(settings.model)]
    cards = [
        RouteCard(
            RouteName(name), route.description, tuple(loaded.examples.get(name, ())[: settings.examples])
        )
        for name, route in loaded.registry.routes.items()
    ]
    return LlmPolicy(
        model=target.model,
        upstream_model=target.upstream_model,
        routes=tuple(card.route for card in cards),
        system=system_message(cards),
        deadline_s=settings.deadline_ms / 1000,
        max_share=settings.max_share,
        per_second=settings.per_second,
        dollars_per_hour=settings.dollars_per_hour,
        cache=settings.cache,
        price=target.price,
    )


def _terms(registry: Registry, targets: Mapping[ModelName, Target]) -> Terms:
    defaults = {api: targets[ModelName(name)] for api, name in registry.defaults.items()}
    return Terms(
        mode=registry.mode,
        checks=registry.labels_requests or registry.refuses_requests,
        unrecorded=_unrecorded(registry),
        conversation_header=registry.conversation_header.lower(),
        defaults={
            api: Served(target.model, target.upstream_model, target.provider)
            for api, target in defaults.items()
        },
    )


def _unrecorded(registry: Registry) -> frozenset[str]:
    """The kinds of findings that are replaced in recorded prompts: those about which something is done."""
    classes = _safety_classes(registry.safety) if registry.safety else ()
    return frozenset[str]().union(*(each.kinds for each in classes if each.action is not SafetyAction.ALLOW))


def _rollout(registry: Registry, route: RouteSettings) -> Rollout:
    return Rollout(
        mode=registry.mode if route.mode is None else route.mode,
        share=share_of(registry.rollout if route.rollout is None else route.rollout),
    )


def _target(name: ModelName, model: Model) -> Target:
    price = model.price
    return Target(
        model=name,
        upstream_model=UpstreamName(model.name or name),
        cluster=cluster_name(name),
        apis=frozenset(model.speaks),
        provider=model.provider,
        pinnable=model.pin,
        price=Price(price.input / 1e6, price.output / 1e6) if price else None,
        context_window=model.context_window,
    )


def _route(
    loaded: LoadedRegistry,
    route: RouteSettings,
    targets: Mapping[ModelName, Target],
    meaning: Meaning | None,
) -> RoutePolicy:
    own, common = route.thresholds, loaded.registry.thresholds
    learnt = loaded.artefact.manifest.thresholds if loaded.artefact else {}
    margin = learnt.get("margin", DEFAULT_MARGIN) if common.margin is None else common.margin
    in_scope, similarity = _scope_floors(own, common, learnt, meaning)
    return RoutePolicy(
        candidates=tuple(targets[ModelName(name)] for name in many(route.candidates)),
        margin_floor=margin if own.margin is None else own.margin,
        similarity_floor=similarity,
        in_scope_floor=in_scope,
        quality_bar=route.quality_bar,
        max_tokens=route.max_tokens,
        reasoning=route.reasoning,
        fallback=route.asks_in_turn,
        reached=frozenset(_reached(loaded.registry, route)),
        rollout=_rollout(loaded.registry, route),
    )


def _reached(registry: Registry, route: RouteSettings) -> Iterator[ModelName]:
    """The models that may read a request of the route besides the one that is chosen."""
    if not route.asks_in_turn:
        return
    yield from map(ModelName, (*many(route.fallback), *registry.defaults.values()))
    for tier in registry.cascades[route.cascade].tiers if route.cascade else ():
        yield ModelName(tier.model)
        consulting = registry.gates[tier.gate].consulting if tier.gate else None
        if consulting is not None:
            yield ModelName(consulting.model)


def _scope_floors(
    own: RouteThresholds, common: Thresholds, learnt: Mapping[str, float], meaning: Meaning | None
) -> tuple[float | None, float | None]:
    """The floors on P(in scope) and on the similarity.

    The route's own thresholds go before the registry's, and these before what was fitted. Where the operator
    writes only one of the two floors, the other does not hold.
    """
    for written in (own, common):
        if written.in_scope is not None or written.similarity is not None:
            return written.in_scope, written.similarity
    if meaning is None or meaning.scope is None:
        return None, DEFAULT_SIMILARITY
    if "in_scope" in learnt:
        return learnt["in_scope"], None
    # Of a handful of examples, neither number says much: a request must pass both floors.
    few = are_few(len(meaning.texts), len(meaning.routes))
    return meaning.scope.floor, DEFAULT_SIMILARITY if few else None


def _meaning(loaded: LoadedRegistry, encoder: Encoder) -> Meaning | None:
    if loaded.artefact is not None:
        head_artefact.check_encoder(loaded.artefact, encoder.name)
        return loaded.artefact.meaning
    if not loaded.examples:
        return None
    return fit_meaning(loaded.examples, encoder, scorer_fit(loaded.registry))


def _quality(loaded: LoadedRegistry, encoder: Encoder) -> Quality | None:
    if loaded.quality is None:
        return None
    quality_artefact.check_encoder(loaded.quality, encoder.name)
    return loaded.quality.quality


def _fast_path(loaded: LoadedRegistry, static: StaticEncoder | None) -> FastPath | None:
    settings = loaded.registry.fast_path
    if settings is None or loaded.artefact is None or loaded.artefact.words is None or static is None:
        return None
    watch = AgreementMonitor(settings.min_agreement)
    return FastPath(loaded.artefact.words, static, settings.sample, watch)


def scorer_fit(registry: Registry) -> Fit:
    """How the registry's scorer is fitted on examples."""
    match registry.scorer:
        case ScorerSettings(kind="prototypes", prototypes=per_route):
            return fit_prototypes(per_route)
        case ScorerSettings(kind="centroid"):
            return fit_centroids
        case _:
            return fit_logistic


def _rule(rule: RuleSettings) -> rules.CompiledRule:
    scope = rule.reads or (Scope.ALL_USER if rule.deny or rule.label else Scope.LATEST_USER)
    return rules.CompiledRule(
        name=rule.name,
        conditions=tuple(_conditions(rule.when, scope)),
        deny=rule.deny,
        route=RouteName(rule.route),
        model=ModelName(rule.model),
        labels=tuple(many(rule.label)),
    )


def _conditions(when: When, scope: Scope) -> Iterator[rules.Condition]:
    """The conditions given, cheapest first, so that a rule that fails does so early."""
    if when.path:
        yield rules.path_like(many(when.path))
    if when.model:
        yield rules.model_like(many(when.model))
    for name, values in when.header.items():
        yield rules.header_in(name, many(values))
    if when.images is not None:
        yield rules.media_present(when.images)
    if when.min_chars is not None or when.max_chars is not None:
        yield rules.chars_between(when.min_chars, when.max_chars, scope)
    if when.min_bytes is not None or when.max_bytes is not None:
        yield rules.bytes_between(when.min_bytes, when.max_bytes)
    if when.tool:
        yield rules.tool_like(many(when.tool))
    if when.keyword:
        yield rules.keyword_in_text(many(when.keyword), scope)
    if when.regex:
        yield rules.regex_in_text(when.regex, scope)

"""Every API by its official client, and a registry whose models speak them all."""

from typing import Any

from anthropic.types import Message
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from extproc.vocabulary import Api
from tests.e2e.conftest import World

PATHS = {
    Api.OPENAI_CHAT: "/v1/chat/completions",
    Api.OPENAI_COMPLETIONS: "/v1/completions",
    Api.OPENAI_RESPONSES: "/v1/responses",
    Api.ANTHROPIC_MESSAGES: "/v1/messages",
}
DEFAULTS = {
    Api.OPENAI_CHAT: "mid",
    Api.OPENAI_COMPLETIONS: "small",
    Api.OPENAI_RESPONSES: "large",
    Api.ANTHROPIC_MESSAGES: "guarded",
}


def of_all_apis(registry: Any) -> None:
    """Every model speaks every API, but for the guarded one, which is Anthropic's."""
    for model in registry["models"].values():
        model["apis"] = [api.value for api in Api]
    guarded = registry["models"]["guarded"]
    del guarded["apis"]
    guarded["provider"] = "anthropic"
    registry["default"] = {api.value: model for api, model in DEFAULTS.items()}
    registry["unknown_models"] = "route"


async def ask(world: World, api: Api, text: str, model: str = "auto", **more: Any) -> Any:
    """The raw answer of the API's own client to a prompt."""
    turns: list[Any] = [{"role": "user", "content": text}]
    chat, texts, responses = world.openai.chat.completions, world.openai.completions, world.openai.responses
    match api:
        case Api.OPENAI_CHAT:
            return await chat.with_raw_response.create(model=model, messages=turns, **more)
        case Api.OPENAI_COMPLETIONS:
            return await texts.with_raw_response.create(model=model, prompt=text, max_tokens=99, **more)
        case Api.OPENAI_RESPONSES:
            return await responses.with_raw_response.create(model=model, input=text, **more)
        case Api.ANTHROPIC_MESSAGES:
            messages = world.anthropic.messages.with_raw_response
            return await messages.create(model=model, messages=turns, max_tokens=99, **more)


async def parsed(raw: Any) -> Any:
    """What a raw answer holds."""
    answer = raw.parse()
    return await answer if hasattr(answer, "__await__") else answer


def said(answer: Any) -> str:
    """The text of an answer of any API."""
    match answer:
        case ChatCompletion():
            return answer.choices[0].message.content or ""
        case Completion():
            return answer.choices[0].text
        case Response():
            return answer.output_text
        case Message():
            return "".join(block.text for block in answer.content if block.type == "text")
    raise AssertionError(answer)


def delta(event: Any) -> str:
    """The text that one event of any API's stream adds."""
    match getattr(event, "type", event.__class__.__name__):
        case "ChatCompletionChunk":
            return (event.choices[0].delta.content if event.choices else None) or ""
        case "Completion":
            return event.choices[0].text if event.choices else ""
        case "response.output_text.delta":
            return str(event.delta)
        case "content_block_delta":
            return str(event.delta.text)
    return ""


async def heard(raw: Any, stream: bool) -> str:
    """The text of an answer, streamed or not."""
    answer = await parsed(raw)
    return "".join([delta(event) async for event in answer]) if stream else said(answer)

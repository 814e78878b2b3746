"""Pydantic AI, by chat completions, responses and messages."""

import asyncio

from common import CARD, HELLO, KEY, TRIP, URL, WEATHER, Trip, check_denied, check_text
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

openai = OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY)


async def streamed(agent):
    async with agent.run_stream(HELLO) as answer:
        return "".join([piece async for piece in answer.stream_text(delta=True)])


for model in (
    OpenAIChatModel("auto", provider=openai),
    OpenAIResponsesModel("auto", provider=openai),
    AnthropicModel("auto", provider=AnthropicProvider(base_url=URL, api_key=KEY)),
):
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    check_text(agent.run_sync(HELLO).output)
    check_text(asyncio.run(streamed(agent)))
    parts = [part.part_kind for turn in agent.run_sync(WEATHER).all_messages() for part in turn.parts]
    assert parts == ["user-prompt", "tool-call", "tool-return", "text"], parts
    assert Agent(model, output_type=Trip).run_sync(TRIP).output.days == 1
    check_denied(lambda agent=agent: agent.run_sync(CARD))

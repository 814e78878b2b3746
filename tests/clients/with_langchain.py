"""LangChain, by chat completions, responses and messages."""

from common import CARD, HELLO, KEY, TRIP, URL, WEATHER, Trip, check_denied, check_stream, check_text
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

OPENAI = {"model": "auto", "base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


for model in (
    ChatOpenAI(**OPENAI),
    ChatOpenAI(**OPENAI, use_responses_api=True),
    ChatAnthropic(model="auto", base_url=URL, api_key=KEY, max_tokens=99, max_retries=0),
):
    check_text(model.invoke(HELLO).text)
    check_stream([chunk.text for chunk in model.stream(HELLO)])
    (call,) = model.bind_tools([get_weather]).invoke(WEATHER).tool_calls
    assert get_weather.invoke(call["args"]).startswith("sunny in ")
    assert model.with_structured_output(Trip).invoke(TRIP).days == 1
    check_denied(lambda model=model: model.invoke(CARD))

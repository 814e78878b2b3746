"""The LiteLLM SDK."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it downloads prices when it is imported

import litellm
from common import CARD, HELLO, KEY, TRIP, URL, WEATHER, Trip, check_denied, check_stream, check_text

tool = {"type": "function", "function": {"name": "get_weather", "parameters": Trip.model_json_schema()}}


def turns(text):
    return [{"role": "user", "content": text}]


for where in (
    {"model": "openai/auto", "api_base": f"{URL}/v1", "api_key": KEY},
    {"model": "anthropic/auto", "api_base": URL, "api_key": KEY, "max_tokens": 99},
):
    check_text(litellm.completion(messages=turns(HELLO), **where).choices[0].message.content)
    stream = litellm.completion(messages=turns(HELLO), stream=True, **where)
    check_stream([chunk.choices[0].delta.content for chunk in stream])
    (call,) = litellm.completion(messages=turns(WEATHER), tools=[tool], **where).choices[0].message.tool_calls
    Trip.model_validate_json(call.function.arguments)
    content = (
        litellm.completion(messages=turns(TRIP), response_format=Trip, **where).choices[0].message.content
    )
    assert Trip.model_validate_json(content).days == 1
    check_denied(lambda where=where: litellm.completion(messages=turns(CARD), **where))
answer = litellm.responses(model="openai/auto", input=HELLO, api_base=f"{URL}/v1", api_key=KEY)
check_text(answer.output[0].content[0].text)

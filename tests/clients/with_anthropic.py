"""Anthropic's own client, Python."""

import anthropic
from common import CARD, HELLO, KEY, URL, WEATHER, Trip, check_denied, check_stream, check_text

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)


def ask(text):
    return {"model": "auto", "max_tokens": 99, "messages": [{"role": "user", "content": text}]}


check_text(client.messages.create(**ask(HELLO)).content[0].text)
with client.messages.stream(**ask(HELLO)) as stream:
    check_stream(list(stream.text_stream))
tools = [{"name": "get_weather", "input_schema": Trip.model_json_schema()}]
(use,) = client.messages.create(**ask(WEATHER), tools=tools).content
Trip.model_validate(use.input)
check_denied(lambda: client.messages.create(**ask(CARD)))

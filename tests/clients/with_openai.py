"""OpenAI's own client, Python."""

import json

import openai
from common import CARD, HELLO, KEY, TRIP, URL, WEATHER, Trip, check_denied, check_stream, check_text

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


def turns(text):
    return [{"role": "user", "content": text}]


chat, responses = client.chat.completions, client.responses
tool = {"type": "function", "function": {"name": "get_weather", "parameters": Trip.model_json_schema()}}

check_text(chat.create(model="auto", messages=turns(HELLO)).choices[0].message.content)
stream = chat.create(model="auto", messages=turns(HELLO), stream=True)
check_stream([chunk.choices[0].delta.content for chunk in stream if chunk.choices])
(call,) = chat.create(model="auto", messages=turns(WEATHER), tools=[tool]).choices[0].message.tool_calls
Trip.model_validate(json.loads(call.function.arguments))
assert chat.parse(model="auto", messages=turns(TRIP), response_format=Trip).choices[0].message.parsed.city
check_denied(lambda: chat.create(model="auto", messages=turns(CARD)))

check_text(responses.create(model="auto", input=HELLO).output_text)
stream = responses.create(model="auto", input=HELLO, stream=True)
check_stream([event.delta for event in stream if event.type == "response.output_text.delta"])
assert responses.parse(model="auto", input=TRIP, text_format=Trip).output_parsed.city
check_denied(lambda: responses.create(model="auto", input=CARD))

check_text(client.completions.create(model="auto", prompt=HELLO).choices[0].text)

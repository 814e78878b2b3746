"""Instructor, in the modes that use tools, JSON schemas, responses and messages."""

import anthropic
import instructor
import openai
from common import CARD, KEY, TRIP, URL, Trip, check_denied

openai_client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
anthropic_client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)


def ask(text, **more):
    return {"model": "auto", "response_model": Trip, "messages": [{"role": "user", "content": text}], **more}


for client, more in (
    (instructor.from_openai(openai_client), {}),
    (instructor.from_openai(openai_client, mode=instructor.Mode.JSON_SCHEMA), {}),
    (instructor.from_openai(openai_client, mode=instructor.Mode.RESPONSES_TOOLS), {}),
    (instructor.from_anthropic(anthropic_client), {"max_tokens": 99}),
):
    assert client.chat.completions.create(**ask(TRIP, **more)).days == 1
    assert list(client.chat.completions.create_partial(**ask(TRIP, **more)))[-1].days == 1
    check_denied(lambda client=client, more=more: client.chat.completions.create(**ask(CARD, **more)))

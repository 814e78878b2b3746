"""A refusal in each API's shape, as our own reader of answers sees it."""

import json

import pytest

from extproc.apis import answers
from extproc.apis.answers import AnswerReader
from extproc.apis.refusal_answers import RefusalAnswer
from extproc.vocabulary import Api


def refusal(api: Api, **more: bool) -> RefusalAnswer:
    return RefusalAnswer(api=api, model="m", name="n1", created=7, text='No "keys", please.', **more)


@pytest.mark.parametrize("api", Api)
def test_a_document_and_a_stream_say_the_same(api: Api) -> None:
    made = refusal(api)
    whole = answers.read(api, made.document(), 200)
    reader = AnswerReader(api, 200)
    reader.feed(made.stream())
    streamed = reader.answer(ended=True)
    assert (whole.complete, streamed.complete) == (True, True)
    assert whole.text == streamed.text
    assert whole.finish == streamed.finish


@pytest.mark.parametrize("api", Api)
def test_the_events_are_json_and_the_last_one_ends_the_stream(api: Api) -> None:
    blocks = refusal(api).stream().decode().strip().split("\n\n")
    data = [block.split("data: ", 1)[1] for block in blocks]
    if api in (Api.OPENAI_CHAT, Api.OPENAI_COMPLETIONS):
        assert data.pop() == "[DONE]"
    events = [json.loads(each) for each in data]
    if api is Api.OPENAI_RESPONSES:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert all(
        block.startswith(f"event: {event['type']}\n")
        for block, event in zip(blocks, events, strict=False)
        if "type" in event
    )


@pytest.mark.parametrize("api", [Api.OPENAI_CHAT, Api.OPENAI_COMPLETIONS])
def test_a_stream_reports_its_usage_only_on_request(api: Api) -> None:
    assert b'"usage"' not in refusal(api).stream()
    assert b'"usage"' in refusal(api, with_usage=True).stream()

"""LlamaIndex."""

from common import CARD, HELLO, KEY, TRIP, URL, Trip, check_denied, check_stream, check_text
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike

OPENAI = {"api_base": f"{URL}/v1", "api_key": KEY, "max_retries": 0}

# It looks up the window of the model by its name, and knows no `auto`. The router routes any name.
try:
    OpenAI(model="auto", **OPENAI).complete(HELLO)
except ValueError as error:
    assert "Unknown model 'auto'" in str(error), error
else:
    raise AssertionError("LlamaIndex knows `auto` now: change docs/clients.md")

for model in (
    OpenAI(model="gpt-4o", **OPENAI),
    OpenAILike(model="auto", is_chat_model=True, is_function_calling_model=True, **OPENAI),
    Anthropic(model="claude-sonnet-4-5", base_url=URL, api_key=KEY, max_retries=0),
):
    check_text(model.complete(HELLO).text)
    check_stream([piece.delta for piece in model.stream_complete(HELLO)])
    assert model.structured_predict(Trip, PromptTemplate(TRIP)).days == 1
    check_denied(lambda model=model: model.complete(CARD))

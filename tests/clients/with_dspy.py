"""DSPy. It asks for JSON only from models whose names it knows, and the router routes any name."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else LiteLLM downloads prices when it is imported

import dspy
from common import CARD, HELLO, KEY, TRIP, URL, Trip, check_denied, check_text


class Plan(dspy.Signature):
    request: str = dspy.InputField()
    trip: Trip = dspy.OutputField()


lm = dspy.LM("openai/gpt-4o", api_base=f"{URL}/v1", api_key=KEY, cache=False)
with dspy.context(lm=lm):
    check_text(lm(HELLO)[0])
    assert dspy.Predict("question -> answer")(question=HELLO).answer
    assert dspy.ChainOfThought("question -> answer")(question=HELLO).reasoning
    assert dspy.Predict(Plan)(request=TRIP).trip.days == 1
    check_denied(lambda: lm(CARD))
with dspy.context(lm=dspy.LM("openai/auto", api_base=f"{URL}/v1", api_key=KEY, cache=False)):
    check_text(dspy.settings.lm(HELLO)[0])

"""How the answer ended: with an error, filtered, or cut off."""

from typing import Final

from extproc.apis.model_answer import Finish, ModelAnswer
from extproc.gate.gate_vocabulary import Asked

# Who asks for so few tokens wants the answer cut: a label, a yes or no. Any model's would be.
_WANTED_SHORT: Final = 32


def check(asked: Asked, answer: ModelAnswer) -> str:
    """Rejects what is no answer, or not all of one."""
    if answer.failed or not 200 <= answer.status < 300:
        return "failed"
    if answer.finish is Finish.CONTENT_FILTER:
        return "content_filter"
    if answer.finish is Finish.LENGTH and not (asked.max_tokens and asked.max_tokens <= _WANTED_SHORT):
        return "truncated"
    return ""

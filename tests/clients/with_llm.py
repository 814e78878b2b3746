"""Simon Willison's `llm` command."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import CARD, HELLO, KEY, TRIP, URL, WEATHER, check_denied, check_text

MODELS = f"""\
- model_id: router
  model_name: auto
  api_base: {URL}/v1
  supports_schema: true
  supports_tools: true
"""
TOOL = "def get_weather(city: str) -> str:\n    return 'sunny'\n"


def llm(*arguments):
    command = [sys.executable, "-m", "llm", "prompt", "-m", "router", "--key", KEY, "--no-log", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout


with tempfile.TemporaryDirectory() as directory:
    environment = {**os.environ, "LLM_USER_PATH": directory}
    (Path(directory) / "extra-openai-models.yaml").write_text(MODELS)
    check_text(llm(HELLO))
    check_text(llm(HELLO, "--no-stream"))
    assert json.loads(llm(TRIP, "--schema", "city, days int"))["days"] == 1
    assert "get_weather" in llm(WEATHER, "--functions", TOOL)
    check_denied(lambda: llm(CARD))

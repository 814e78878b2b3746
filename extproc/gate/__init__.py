"""Whether a model's answer may be kept: pure functions of what was asked and what was answered."""

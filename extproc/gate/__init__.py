"""Decides whether a model's answer may be kept, from the request and the answer alone. No I/O."""

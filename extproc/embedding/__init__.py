"""The encoder: fetches and converts its weights, runs it, and shares it between requests.

No other package imports ONNX Runtime or the tokenizer.
"""

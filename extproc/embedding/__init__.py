"""The encoder: getting and converting its weights, running it, and sharing it between requests.

Nothing outside this package knows ONNX Runtime or the tokenizer.
"""

"""The registry: what an operator writes, read, cross-checked and compiled for serving."""

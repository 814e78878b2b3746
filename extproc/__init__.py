"""An LLM semantic router for Envoy, served over the ext_proc protocol."""

__version__ = "0.1.0"

"""Calls to other models, through Envoy. The sidecar makes no other calls."""

"""A real Envoy, the sidecar and a pool of fake models, run together: `make run` and the end-to-end tests."""

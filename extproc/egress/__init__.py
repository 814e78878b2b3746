"""The only calls that the sidecar makes by itself: to other models, through Envoy."""

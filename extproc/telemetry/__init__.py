"""What leaves the sidecar for operators: records, spans, metrics, logs and the admin page."""

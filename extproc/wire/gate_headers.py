"""The names by which a hop and the gate that judges its answers know each other."""

ESCALATE_HEADER = "x-router-escalate"  # 1 on a hop's answer: the next one shall be asked
BEGAN_HEADER = "x-router-began"  # when the exchange began, milliseconds since the epoch
GATE_KEY = "x-router-gate"  # in the gate stream's gRPC metadata: CASCADE/TIER
PATIENCE_KEY = "x-router-patience"  # there too: seconds for which the gate may ask Envoy to wait for it
GATE_NAMESPACE = "router.gate"  # of the hop's dynamic metadata: the verdict

"""Envoy's side of the process: protobuf, gRPC, the exchange's state machine, the server's life cycle."""

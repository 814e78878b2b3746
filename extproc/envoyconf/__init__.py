"""Envoy's configuration, made from the registry: a set-up step that serving never imports.

One module per kind of resource, each a pure function from the registry to Envoy's typed
messages: ``client_listener``, ``routes``, ``clusters``, ``key_secrets``. ``bootstrap`` puts them together,
``envoy_binary`` has Envoy itself check the result.
"""

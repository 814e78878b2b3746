"""Envoy's configuration, made from the registry: a set-up step that serving never imports.

Each kind of resource has a module with a pure function from the registry to Envoy's typed messages:
``listeners``, ``routes``, ``clusters``, ``hops``. ``bootstrap`` puts them together. ``xds_files`` splits them
into files, and ``xds_writer`` keeps the files up to date. ``envoy_process`` lets Envoy check the result.
"""

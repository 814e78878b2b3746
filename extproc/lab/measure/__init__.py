"""Measure a registry on labelled rows, and compare two registries."""

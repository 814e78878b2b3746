"""Measuring what serving decides: data sets, metrics with intervals, reports, and the gate on changes."""

"""The pure core: rules, scorers, calibration and the pipeline that asks them in order."""

"""Calibrating gates of cascades on labelled answers, and what they are worth."""

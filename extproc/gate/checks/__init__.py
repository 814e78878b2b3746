"""The checks of a gate, each a pure function of what was asked and answered that gives why it rejects.

Of an answer that is not complete each says only what its beginning can tell; an empty text is no objection.
"""

"""Learn heads, floors, the lexical fast path and predicted quality from labelled rows."""

"""The command line's families, a module each: options in, one function called, text out."""

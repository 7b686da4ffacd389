"""The command line: `main` and one module per command, which parses, calls one function and prints."""

"""The kinds of channels, one a file, and the registry that sends over the one that a delivery names."""

"""The database itself: connections to it, its migrations, and the embedded server where none is configured."""

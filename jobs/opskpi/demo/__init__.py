"""A month of sample events, and the story that the demo tells with it."""

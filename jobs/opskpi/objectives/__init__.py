"""The objectives as they are kept: what burned a budget, and times that its account leaves out."""

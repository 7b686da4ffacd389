"""Who may call, and who reports: API keys, agents and their teams. The command line and the hub stand on it."""

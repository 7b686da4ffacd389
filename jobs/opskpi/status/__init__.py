"""What people ask from a terminal: the newest KPIs, the SLOs, the checks of doctor; read, and shown as tables."""

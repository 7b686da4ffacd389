"""What hooks, GitHub and alerting need to send something out: TLS, secrets of the environment, one bounded exchange."""

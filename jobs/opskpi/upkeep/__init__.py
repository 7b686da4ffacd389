"""How old the data gets, and personal data taken out of it."""

"""What the dashboard and the report show: a view, what it asks of the database, and the pages made of the answers."""

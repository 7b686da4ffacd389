"""From a file of events to the database: records, what the server may get of them, batches, and storing those."""

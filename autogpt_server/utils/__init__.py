"""What every other package stands on: settings, logs, ids, JSON, locks, processes and the services between them."""

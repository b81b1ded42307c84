"""The business logic of running graphs."""

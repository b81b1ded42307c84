"""autogpt_server: an agent graph server that people can leave alone with real work."""

"""The tests; the folders mirror autogpt_server."""

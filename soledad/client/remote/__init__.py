"""The server, as the client sees it: the only HTTP of the client."""

"""Where the server keeps bytes."""

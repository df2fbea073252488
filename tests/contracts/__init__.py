"""What holds for every provider of an interface."""

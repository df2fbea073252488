"""What things are: values and rules, no bytes on a wire."""

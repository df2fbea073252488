"""The stores on this device: the only SQL of the client."""

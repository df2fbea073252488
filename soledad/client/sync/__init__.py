"""What a device does with the server by itself: plan, then carry out."""

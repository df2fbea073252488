"""What goes between this device and the server: plan first, with plain functions, then carry it out."""

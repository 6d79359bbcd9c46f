"""What can be rented, where, and for how much."""

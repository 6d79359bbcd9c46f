"""Where workers run: this machine, or rented ones."""

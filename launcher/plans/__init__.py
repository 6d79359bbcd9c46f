"""A recipe on an offer, priced before anything is paid."""

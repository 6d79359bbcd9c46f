"""The commands of `still`: parse, call, print."""

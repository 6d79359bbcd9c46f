"""Where, and for how much: plans, backends, the run, and the `still` command."""

"""`gen-worker up` and the commands around it: everything of production on one machine."""

"""What of torch's own a trace takes: the one file of its private names."""

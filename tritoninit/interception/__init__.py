"""Code that was not written for this library: what it asks of torch.nn.init is recorded and served."""

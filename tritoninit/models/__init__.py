"""What a model is made of and what it wants: its tensors by name, rules, memory for the meta device."""

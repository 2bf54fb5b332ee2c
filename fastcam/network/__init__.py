"""A model, captured: its graph, layer names, folded weights, and running parts of it."""

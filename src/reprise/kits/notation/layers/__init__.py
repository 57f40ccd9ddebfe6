"""The verbs as layers of a framework: `layers.torch`."""

"""The imagination agent: captions images and writes down what the target should look like."""

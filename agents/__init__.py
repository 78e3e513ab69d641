"""The three kinds of agents of XR: imagination, similarity and question, and their engines."""

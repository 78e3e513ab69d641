"""The similarity agent: embeds images and texts and ranks galleries."""

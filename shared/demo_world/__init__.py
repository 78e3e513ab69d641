"""The demo world: small rendered scenes, their language, and composed-image-retrieval queries."""

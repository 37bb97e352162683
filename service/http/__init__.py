"""The HTTP face: one file a resource; a handler parses, makes one call and shapes the answer. No learning, no store."""

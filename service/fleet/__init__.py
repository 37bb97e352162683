"""Publishing for devices: signed releases in a folder that any web server can deliver, and their rollout in rings."""

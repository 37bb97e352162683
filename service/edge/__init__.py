"""The agent on devices: fetches signed releases and predicts with them, without torch, a database or the service."""

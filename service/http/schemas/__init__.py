"""The JSON of requests and responses as pydantic models, shared by the server and the Python client."""

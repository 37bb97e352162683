"""The JSON of requests and answers as pydantic models, shared by the server and the Python client."""

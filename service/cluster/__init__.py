"""The service on a cluster of Ray: one process takes the requests, others predict and adapt."""

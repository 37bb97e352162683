"""Serves: adapts for clients, keeps versions, predicts. It imports `models`, never the other way round."""

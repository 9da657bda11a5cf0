"""Samples: sources become shards and a manifest; shards become batches in an order that is a pure function."""

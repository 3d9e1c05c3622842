"""Reprocessings: finished Runs run again, in order, after somebody has approved it."""

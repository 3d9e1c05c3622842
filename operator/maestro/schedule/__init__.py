"""Schedules: cron rules that start Runs of an Automation, every tick accounted for."""

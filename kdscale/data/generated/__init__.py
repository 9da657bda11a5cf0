"""Data that are made, for experiments that need to know what is in them: functions that a recipe names as its data.source."""

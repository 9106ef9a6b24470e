"""Asks workers for measurements, round by round, and says what they mean. Standard library only."""

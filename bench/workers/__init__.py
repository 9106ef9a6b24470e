"""Programs that measure: each answers one measurement a line (see worker.h, answer.py)."""

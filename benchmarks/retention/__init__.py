"""Remedies against forgetting: what each keeps, what it costs on the task, and how long it takes."""

"""Random runs of clients, callbacks and disturbances, and a checker of what everybody was told: see
``docs/consistency.md``."""

"""Programs for working on the bridge; nothing here is part of it."""

"""A bounded run of random input against a real bridge: ``python -m tests.fuzz`` (``make fuzz``)."""

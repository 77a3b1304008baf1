"""The drill: a canary workflow is built, broken, healed and removed, so that a person sees that healing works here.

It is a client like any other, of the bridge that runs or of one that it starts for itself.
"""

"""The one error this program shows to a person."""


class LocalClusterError(Exception):
    """Something a person has to act on: what, where, why, and the command that helps."""

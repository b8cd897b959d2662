"""Every error a user can meet, as one tree.

    SuperFaceError              something we can explain in a sentence
    ├── InputError              a photo, clip, track or argument from outside cannot be used
    ├── SpecError               a tensor has the wrong shape, dtype or range
    ├── BundleError             an avatar bundle is damaged, incomplete or of another version
    ├── MissingRuntimeError     an optional library or model file is not installed
    ├── ParityError             a converted model missed its parity gate
    └── FidelityError           a trained student does not draw what its teacher draws

The command lines print the message alone and leave with exit code 2; a traceback means a bug of ours.
A message says what was expected, what was found, and what to do next.
"""


class SuperFaceError(Exception):
    """Base of all errors that are explained to the user in a sentence."""


class InputError(SuperFaceError):
    """A photo, clip, track or argument from outside cannot be used."""


class SpecError(SuperFaceError):
    """A tensor has the wrong shape, dtype or range."""


class BundleError(SuperFaceError):
    """An avatar bundle is damaged, incomplete or of another version."""


class MissingRuntimeError(SuperFaceError):
    """An optional library or model file is not installed."""


class ParityError(SuperFaceError):
    """A converted model missed its parity gate."""


class FidelityError(SuperFaceError):
    """A trained student does not draw what its teacher draws."""

"""Files for other verifiers, and their answers.  Imports ``running`` and below."""

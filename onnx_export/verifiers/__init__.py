"""What other verifiers read, and what they answer.  Imports ``running`` and below."""

"""Complete verifiers, for the samples that nothing cheaper decides.  ``verify`` is the face of this room."""

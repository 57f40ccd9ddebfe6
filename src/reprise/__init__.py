"""reprise: sixteen machine-learning papers, regenerated exactly, every claim checked by machine."""

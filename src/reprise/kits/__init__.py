"""What several papers of one field share; a kit knows no paper."""

"""Z.ai's GLM."""

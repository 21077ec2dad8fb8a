"""Images of OCI registries: who may read them, what they offer, and what an artefact says."""

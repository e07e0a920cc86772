"""First-stage retrieval: documents in, vectors and words out."""

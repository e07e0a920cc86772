"""The models that read text: encoders, block readers, cross-encoders and decoders."""

"""What reads text: encoders, readers of blocks, cross-encoders and decoders."""

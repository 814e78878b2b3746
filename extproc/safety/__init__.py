"""What a text may not carry to just any model: personal data and secrets, in any spelling."""

"""What every stage shares: errors a user can read, files that are never half written, stateless randomness."""

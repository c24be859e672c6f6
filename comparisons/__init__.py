"""One harness: trains ℓ∞-distance nets and baselines, certifies and attacks them, and compares."""

"""What float32 does: which nets and settings are a float32 program, and how far rounding takes it."""
